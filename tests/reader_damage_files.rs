//! As `reader_damage.rs`, of the files that the program writes and those that people write for it: checkpoints, `state_dict`s, settings,
//! baselines, locks.

use dsr::bench::baseline::Baseline;
use dsr::checkpoint;
use dsr::settings::{Config, recipes};
use dsr::training::run_folder::{Standing, standing};

#[path = "support/broken_files.rs"]
#[allow(dead_code)]
mod broken_files;
#[path = "support/damage.rs"]
mod damage;
use broken_files::{TINY, checkpoint_with};
use damage::{EACH, on_disk, scratch, survives};

/// A small network with its settings.
fn network() -> (String, Config, dsr::Network) {
    let settings = format!("model = 'preact-resnet'\n{TINY}").replace("widths = [4]", "widths = [1]");
    let config = recipes::resolve(&Config::default(), &[recipes::parse(&settings, "test").unwrap()]).unwrap();
    let network = config.network([8, 8, 1], 10).unwrap();
    (settings, config, network)
}

/// A header as JSON, once for each question, and the numbers.
fn checkpoint_bound(len: usize) -> usize {
    64 * len + (1 << 18)
}

#[test]
fn damaged_checkpoints_harm_nobody() {
    let folder = scratch();
    let (settings, config, network) = network();
    let good = folder.path().join("good");
    let about = checkpoint::About { config_toml: &settings, ..checkpoint::About::default() };
    let (optimizer, progress) = (config.optimizer(&network), checkpoint::Progress::default());
    checkpoint::save(&good, &network, &optimizer, &progress, about).unwrap();
    let load = |bytes: &[u8]| checkpoint::load(&on_disk(&folder, bytes), &mut network.clone(), None).is_ok();
    let bytes = std::fs::read(&good).unwrap();
    println!("checkpoint: {} read", survives("checkpoint", EACH, &bytes, load, checkpoint_bound));
    // What else is asked of a header.
    let ask = |bytes: &[u8]| {
        let path = on_disk(&folder, bytes);
        let settings = checkpoint::config(&path).ok().flatten();
        let is_run = checkpoint::progress(&path).is_ok() && checkpoint::data(&path).is_ok();
        settings.is_some_and(|text| recipes::trained(&path, &text).is_ok()) && is_run
    };
    survives("checkpoint, its header", 10_000, &bytes, ask, checkpoint_bound);
    checkpoint_with(&folder.path().join("wider"), &settings);
    survives("wider checkpoint", 3000, &std::fs::read(folder.path().join("wider")).unwrap(), ask, checkpoint_bound);
}

/// A `state_dict` has no checksum, so that damaged numbers are read.
#[test]
fn damaged_state_dicts_harm_nobody() {
    let folder = scratch();
    let (_, _, network) = network();
    let plain = folder.path().join("plain");
    checkpoint::export(&plain, &network, false, checkpoint::About::default()).unwrap();
    let read = |bytes: &[u8]| checkpoint::load_start(&on_disk(&folder, bytes), &mut network.clone(), false).is_ok();
    let count = survives("state_dict", EACH, &std::fs::read(&plain).unwrap(), read, checkpoint_bound);
    println!("state_dict: {count} read");
    assert!(count > 1000, "{count}");
}

/// A text may become a tree of small parts.
fn text_bound(len: usize) -> usize {
    256 * len + (1 << 17)
}

#[test]
fn damaged_settings_harm_nobody() {
    let settings = "model = 'preact-resnet'\nwidths = [4]\nblocks = [1]\nlr = 1e-1\n[lif]\ntau = 0.5\n# \u{fc}\nvth = 0.3\n";
    let parse = |bytes: &[u8]| {
        let layer = recipes::parse(&String::from_utf8_lossy(bytes), "x");
        layer.and_then(|layer| recipes::resolve(&Config::default(), &[layer])).is_ok_and(|config| config.check().is_ok())
    };
    println!("settings: {} read", survives("settings", EACH, settings.as_bytes(), parse, text_bound));
}

#[test]
fn damaged_baselines_harm_nobody() {
    let folder = scratch();
    let document = "{\"schema\":{\"name\":\"x\",\"version\":1},\"header\":{\"cpu\":\"a\",\"threads\":2},\"cases\":[\
                    {\"model\":\"m\",\"median_s\":1e-3,\"p25_s\":1.0,\"p75_s\":2.0,\"config\":{\"alpha\":0.5}}]}";
    let here: serde_json::Value = serde_json::from_str(document).unwrap();
    let cases = here["cases"].as_array().unwrap();
    let compared = |bytes: &[u8]| {
        Baseline::read(&on_disk(&folder, bytes), "x", 1).is_ok_and(|baseline| {
            let _ = baseline.check_machine(&here["header"]);
            !baseline.compare(cases, &["model".into()], 0.05).compared.is_empty()
        })
    };
    println!("baseline: {} read", survives("baseline", EACH, document.as_bytes(), compared, text_bound));
}

#[test]
fn damaged_locks_harm_nobody() {
    let folder = scratch();
    let is_free = |bytes: &[u8]| {
        let run = folder.path().join(format!("run {:?}", std::thread::current().id()));
        if !run.is_dir() {
            std::fs::create_dir(&run).unwrap();
        }
        std::fs::write(run.join("lock"), bytes).unwrap();
        standing(&run).is_ok_and(|standing| standing == Standing::Free)
    };
    println!("lock: {} read", survives("lock", EACH, b"4711 a-host dsr 1764460000\n", is_free, text_bound));
}
