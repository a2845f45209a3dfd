//! What commands print and write, by the real binary: every form of every result, lines of progress, the commit, and files that are not
//! overwritten.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;
use std::process::Command;

use command::{dsr, ok};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const TINY: &str = "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 1";

/// A folder with a run in `run` and an ANN in `ann`.
fn trained() -> TempDir {
    let folder = tempdir().unwrap();
    ok(folder.path(), &format!("{TINY} -q --out run"));
    ok(folder.path(), &format!("{} --neuron relu -q --out ann", TINY.replace(" -T 2", "")));
    folder
}

/// Columns and rows of a result as CSV.
fn csv(folder: &Path, line: &str) -> (Vec<String>, Vec<csv::StringRecord>) {
    let (stdout, _) = ok(folder, &format!("{line} -o csv"));
    let mut reader = csv::Reader::from_reader(stdout.as_bytes());
    let heads = reader.headers().unwrap().iter().map(String::from).collect();
    (heads, reader.records().map(Result::unwrap).collect())
}

#[test]
fn every_result_has_every_form() {
    let folder = trained();
    let at = folder.path();
    // A line, and columns of its CSV.
    let cases: [(&str, &[&str]); 16] = [
        ("train --resume auto --out run --epochs 1", &["test_accuracy", "commit", "checkpoint"]),
        ("train --dry-run", &["lr", "neuron"]),
        ("eval --checkpoint run", &["top1", "top1_low", "top5", "top5_high", "tied", "ties", "commit"]),
        ("calibrate --checkpoint ann --batches 2 --out c.safetensors", &["layer", "threshold", "from", "commit"]),
        ("export --checkpoint run --out x.safetensors", &["exported", "checkpoint", "norms_folded"]),
        ("bench throughput --widths 4 --blocks 1 -T 1 -b 1 --image 8x8x1 --repeats 1 --warmup 0", &["median_s", "commit"]),
        ("profile --checkpoint run --steps 1 --warmup 0", &["row", "op", "time_ns", "load", "commit"]),
        ("data info -d digits-8x8", &["label", "class", "train", "test", "train_crc32c"]),
        ("data verify -d digits-8x8", &["ok", "problems", "train_crc32c"]),
        ("data convert -d digits-8x8", &["dataset", "train"]),
        ("data sheet -d digits-8x8 --out sheet.png", &["sheet"]),
        ("classify sheet.png --checkpoint run --top 2", &["path", "class", "softmax_2", "error", "checkpoint", "commit"]),
        ("info", &["what", "value"]),
        ("recipe list", &["name", "source"]),
        ("recipe show mnist", &["name", "source", "flip"]),
        ("check --size small --device cpu", &["op", "shape", "ok", "commit"]),
    ];
    for (line, columns) in cases {
        let (heads, rows) = csv(at, line);
        assert!(!rows.is_empty() && columns.iter().all(|column| heads.contains(&column.to_string())), "dsr {line}: {heads:?}");
        let (markdown, _) = ok(at, &format!("{line} -o md"));
        assert!(markdown.lines().any(|line| line.starts_with("|---|")), "dsr {line}: {markdown}");
        let (json, _) = ok(at, &format!("{line} -o json"));
        let _: Value = serde_json::from_str(&json).unwrap();
        assert!(!ok(at, line).0.trim().is_empty(), "dsr {line}");
    }
}

/// A build without nvcc has no kernels, and its table no rows; of one with nvcc a unit test of `Records` shows that.
/// With `--quiet` what stands above a list of pictures is left out, so that each line is a result.
#[test]
fn quiet_pictures_are_lines_of_results() {
    let folder = trained();
    let at = folder.path();
    ok(at, "data sheet -d digits-8x8 --out sheet.png -q");
    let [loud, quiet] = ["", " -q"].map(|flag| ok(at, &format!("classify sheet.png --checkpoint run{flag}")).0);
    assert!(quiet.starts_with("sheet.png: ") && quiet.lines().count() == 1, "{quiet}");
    assert!(loud.ends_with(&quiet) && loud.lines().count() > 1, "{loud}");
}

#[test]
fn a_table_without_rows_has_its_columns() {
    let folder = tempdir().unwrap();
    let (heads, _) = csv(folder.path(), "info --kernels");
    assert!(["kernel", "target", "registers", "occupancy"].iter().all(|head| heads.contains(&head.to_string())), "{heads:?}");
    let (markdown, _) = ok(folder.path(), "info --kernels -o md");
    assert!(markdown.contains("| kernel |") && markdown.contains("|---|"), "{markdown}");
}

#[test]
fn eval_as_csv_says_what_the_text_says() {
    let folder = trained();
    let (heads, rows) = csv(folder.path(), "eval --checkpoint run --per-class --rates -T 2,3");
    let column = |name: &str| heads.iter().position(|head| head == name).unwrap();
    let (class, layer) = (column("class"), column("layer"));
    assert_eq!(rows.iter().filter(|row| !row[class].is_empty()).count(), 20);
    assert_eq!(rows.iter().filter(|row| !row[layer].is_empty()).count(), 12); // five layers of neurons and the readout, for each T
    let sum = |name: &str| rows.iter().filter_map(|row| row[column(name)].parse::<f64>().ok()).sum::<f64>();
    assert_eq!(sum("class_n"), 720.0);
    let (json, _) = ok(folder.path(), "eval --checkpoint run -T 2,3 -o json");
    let json: Value = serde_json::from_str(&json).unwrap();
    for (result, time_steps) in json["results"].as_array().unwrap().iter().zip(["2", "3"]) {
        let row = rows.iter().find(|row| &row[0] == time_steps).unwrap();
        let number = |name: &str| row[column(name)].parse::<f64>().unwrap();
        let of = |value: &Value| value.as_f64().unwrap();
        assert_eq!((number("top1"), number("top5"), number("tied")), (of(&result["top1"]), of(&result["top5"]), of(&result["tied"])));
        assert_eq!([number("top5_low"), number("top5_high")], [0, 1].map(|end| of(&result["top5_interval"][end])));
    }
}

#[test]
fn flags_without_an_effect_on_a_trained_network_are_refused() {
    let folder = trained();
    for command in ["eval --checkpoint run", "profile --checkpoint run", "bench decision --checkpoint run"] {
        for flag in ["vth", "vth-pooled", "vth-logits", "tau", "delta-t", "crop-scale"] {
            let value = if flag == "crop-scale" { "0.5,1" } else { "0.5" };
            if command.starts_with("profile") && flag == "crop-scale" {
                continue; // which may train
            }
            let output = dsr(folder.path(), &format!("{command} --{flag} {value}"));
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let words = format!("error: {flag}: has no effect on a trained network");
            assert!(output.status.code() == Some(2) && stderr.starts_with(&words), "dsr {command} --{flag}: {stderr}");
        }
    }
}

#[test]
fn files_of_a_run_and_checkpoints_are_not_overwritten() {
    let folder = trained();
    let at = folder.path();
    fs::copy(at.join("run/best.safetensors"), at.join("mine.safetensors")).unwrap();
    let contents = |name: &str| fs::read(at.join(name)).unwrap();
    let names =
        ["run/last.safetensors", "run/best.safetensors", "run/config.toml", "run/metrics.csv", "run/metrics.jsonl", "run/curves.svg"];
    let before = names.map(contents);
    let refused = |line: &str| {
        let output = dsr(at, line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains("give another name"), "dsr {line}: {stderr}");
    };
    let more = ["run/lock", "run/thresholds.jsonl", "mine.safetensors"];
    for name in names.iter().chain(&more) {
        refused(&format!("eval --checkpoint run --predictions {name}"));
        refused(&format!("profile --checkpoint run --html {name}"));
        refused(&format!("profile --checkpoint run --trace {name}"));
        refused(&format!("data sheet -d digits-8x8 --out {name}"));
    }
    refused("calibrate --checkpoint ann --out run/best.safetensors");
    assert!(names.map(contents) == before);
    ok(at, "eval --checkpoint run --predictions run/predictions.csv");
    ok(at, "eval --checkpoint run --predictions config.toml"); // no run is here
}

#[test]
fn a_log_file_has_lines_of_progress() {
    let folder = trained();
    let lines = |line: &str, start: &str| {
        let (_, stderr) = ok(folder.path(), line);
        assert!(stderr.lines().all(|line| line.chars().count() <= 80 || line.starts_with("note: ")), "dsr {line}: {stderr}");
        stderr.lines().filter(|line| line.starts_with(start)).count()
    };
    let cases = [
        (format!("{TINY} --name log"), "epoch 1/1 step ", 44),
        (format!("{TINY} --name again"), "epoch 1/1 test image ", 11),
        (format!("{TINY} --val-share 0.25 --name held"), "epoch 1/1 validation image ", 11),
        ("eval --checkpoint run -b 90".into(), "T = 2, image ", 3),
        ("calibrate --checkpoint ann --batches 3 -b 10 --out c.safetensors".into(), "image ", 2),
        ("profile --checkpoint run --steps 2 --warmup 1".into(), "step ", 2),
        ("bench throughput --widths 4 --blocks 1 -T 1,2 -b 1 --image 8x8x1 --repeats 1".into(), "case ", 4),
    ];
    for (line, start, count) in cases {
        assert_eq!(lines(&format!("{line} --progress-every 0"), start), count, "dsr {line}");
        if !line.starts_with("train") {
            assert_eq!(lines(&line, start), 0, "dsr {line}: not before a minute has gone");
            assert_eq!(lines(&format!("{line} -q --progress-every 0"), start), 0, "dsr {line}");
        }
    }
}

/// The words of git, or of the variable of the build.
#[test]
fn the_commit_is_in_results() {
    let folder = tempdir().unwrap();
    let (info, _) = ok(folder.path(), "info -o json");
    let info: Value = serde_json::from_str(&info).unwrap();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_string()).filter(|_| output.status.success())
    };
    let is_own = git(&["rev-parse", "--show-toplevel"]).is_some_and(|top| Path::new(&top) == Path::new(env!("CARGO_MANIFEST_DIR")));
    let expected = match option_env!("DSR_COMMIT") {
        Some(named) => Some(named.to_string()).filter(|named| !named.is_empty()),
        None if is_own => git(&["rev-parse", "--short=12", "HEAD"]),
        None => None,
    };
    assert_eq!(info["commit"].as_str().map(|commit| commit.trim_end_matches("-dirty")), expected.as_deref());
    let (train, _) = ok(folder.path(), &format!("{TINY} -q -o json"));
    let train: Value = serde_json::from_str(&train).unwrap();
    assert_eq!(train["commit"], info["commit"]);
}
