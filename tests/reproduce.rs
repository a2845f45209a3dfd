//! Every command of `docs/reproduce.md` that trains or calibrates, run by the real binary up to what is not there.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use dsr::profile::predict::{GpuName, Training, predict};
use dsr::settings::{Config, OptimizerKind, recipes};
use tempfile::tempdir;

const DOCUMENT: &str = include_str!("../docs/reproduce.md");

/// What begins with `start` and ends with its backquote or its line.
fn commands(start: &str) -> Vec<&'static str> {
    let starts = DOCUMENT.match_indices(start).map(|(at, _)| &DOCUMENT[at..]);
    starts.map(|text| text.split(['`', '\n', '#']).next().unwrap_or(text).trim()).collect()
}

/// Runs `commands` where no files are; each has to end by naming `missing`.
fn run_without_files(commands: &[&str], missing: &str) {
    let folder = tempdir().unwrap();
    let mut wrong = Vec::new();
    for command in commands {
        let arguments = command.split_whitespace().skip(1);
        let output = Command::new(cargo_bin("dsr")).current_dir(folder.path()).args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(1) || !stderr.contains(missing) {
            wrong.push(format!("{command}: {:?} {stderr}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_training_gets_as_far_as_its_data() {
    let commands = commands("dsr train ");
    assert!(commands.len() >= 20 && commands.iter().all(|command| command.contains("--data-dir PATH")), "{commands:?}");
    let (from_ann, others): (Vec<&str>, Vec<&str>) = commands.iter().partition(|command| command.contains("--init-from"));
    run_without_files(&others, "PATH");
    assert_eq!(from_ann.len(), 1);
    run_without_files(&from_ann, "ann/calibrated.safetensors");
}

#[test]
fn calibration_gets_as_far_as_its_ann() {
    let commands = commands("dsr calibrate ");
    assert_eq!(commands.len(), 1);
    run_without_files(&commands, "ann");
}

/// The column of predictions is what the model gives for shapes and settings of the line; a build whose compiler made other code may be
/// a few percent off.
#[test]
fn predicted_times_are_those_of_the_model() {
    let rows: Vec<(&str, &str)> =
        DOCUMENT.lines().filter(|line| line.contains(" ms, ")).filter_map(|line| line.rsplit_once("| ")).collect();
    assert!(rows.len() >= 20, "{rows:?}");
    let mut stale = Vec::new();
    for (line, predicted) in rows {
        let word = |flag: &str| line.split_once(flag).map(|(_, rest)| rest.split(['`', ' ']).next().unwrap());
        let recipe = word("--recipe ").unwrap();
        let mut layers = vec![recipes::recipe(recipe).unwrap()];
        if let Some(model) = word("--model ") {
            layers.push(recipes::given(toml::Table::from_iter([("model".into(), model.into())])));
        }
        if let Some(steps) = word(" -T ") {
            layers.push(recipes::given(toml::Table::from_iter([("time_steps".into(), steps.parse::<i64>().unwrap().into())])));
        }
        if let Some(gradient) = word("--weight-gradient ") {
            layers.push(recipes::given(toml::Table::from_iter([("weight_gradient".into(), gradient.into())])));
        }
        let config = recipes::resolve(&Config::default(), &layers).unwrap();
        let (shape, classes, steps, frames) = match word("train -d ").unwrap() {
            "imagenet" => ([224, 224, 3], 1000, 8897 * 90, 1),
            "dvs-cifar10" => ([48, 48, 2], 10, 71 * 300, config.time_steps),
            "cifar100" => ([32, 32, 3], 100, 391 * 200, 1),
            _ => ([32, 32, 3], 10, 391 * 200, 1),
        };
        let network = config.network(shape, classes).unwrap();
        let training = Training { gradient: config.gradient(), adam: config.optimizer != OptimizerKind::Sgd };
        let seconds = predict(GpuName::H100, &network, [config.batch, frames], Some(training)).seconds;
        let minutes = seconds * steps as f64 / 60.0;
        let whole = if minutes < 60.0 { format!("{minutes:.0} min") } else { format!("{:.1} h", minutes / 60.0) };
        let now = format!("{:.1} ms, {whole} |", 1e3 * seconds);
        let written: f64 = predicted.split(' ').next().unwrap().parse().unwrap();
        println!("{recipe} {}: {predicted} -> {now}", word("--model ").unwrap_or(""));
        if (written / (1e3 * seconds) - 1.0).abs() > 0.05 {
            stale.push(format!("{line}| {now}"));
        }
    }
    assert!(stale.is_empty(), "docs/reproduce.md is out of date:\n{}", stale.join("\n"));
}
