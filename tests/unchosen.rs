//! Thresholds that nobody has chosen yet, in the file of a network that Python has saved before its first step: commands say which, an
//! export keeps them, and a run leaves them.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use command::ok;
use dsr::checkpoint::{self, About, Progress};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const TRAINED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/export/if/checkpoint.safetensors");
const LEFT: &str = "relu3.Vth";

fn is_threshold(name: &str) -> bool {
    name.ends_with(".Vth")
}

/// The thresholds in a file, with their names.
fn thresholds(path: &Path) -> Vec<(String, f32)> {
    let (_, _, network) = checkpoint::open(path).unwrap();
    let all = network.parameters.iter().enumerate().filter(|(_, parameter)| is_threshold(&parameter.name));
    all.map(|(index, parameter)| (parameter.name.clone(), network.value(index)[0])).collect()
}

/// A trained network in three files, of whose thresholds nobody has chosen `all`, `one` or `none`.
fn files() -> TempDir {
    let folder = tempdir().unwrap();
    let (config, card, network) = checkpoint::open(Path::new(TRAINED)).unwrap();
    let names: Vec<String> = thresholds(Path::new(TRAINED)).into_iter().map(|(name, _)| name).collect();
    for (name, unchosen) in [("all", &names[..]), ("one", &[LEFT.to_string()]), ("none", &[])] {
        let config_toml = config.to_toml().unwrap();
        let about = About { config_toml: &config_toml, data: Some(&card), unchosen, ..About::default() };
        let path = folder.path().join(format!("{name}.safetensors"));
        checkpoint::save(&path, &network, &config.optimizer(&network), &Progress::default(), about).unwrap();
    }
    folder
}

/// What commands say of the files.
const SAID: [(&str, &str); 2] = [("all", "layer1.0.relu1.Vth, layer1.0.relu2.Vth, layer1.1.relu1.Vth and 6 more"), ("one", LEFT)];

#[test]
fn commands_say_which_thresholds_nobody_has_chosen() {
    let folder = files();
    let at = folder.path();
    image::GrayImage::new(8, 8).save(at.join("picture.png")).unwrap();
    let lines = [
        "export --out exported-FILE.safetensors",
        "eval",
        "classify picture.png",
        "bench latency -b 1 --warmup 0 --repeats 1 --seconds 0.01",
        "bench throughput -b 1 --warmup 0 --repeats 1",
        "bench decision --samples 3 --warmup 0 --repeats 1 --seconds 0.01",
        "profile -b 1 --warmup 0 --steps 1",
    ];
    let run = |line: &str, name: &str, file: &str| ok(at, &format!("{} --checkpoint {file}.safetensors", line.replace("FILE", name))).1;
    for line in lines {
        for (name, told) in SAID {
            let note = format!(
                "note: {name}.safetensors holds thresholds that nobody has chosen ({told}): layers may be silent; dsr train --init-from with \
                 --threshold-init auto chooses all\n"
            );
            let stderr = run(line, name, name);
            assert_eq!(stderr.matches(&note).count(), 1, "{line}, {name}: {stderr}");
        }
        let quiet = [run(&format!("{line} -q"), "all", "all"), run(line, "none", "none")];
        assert!(quiet.iter().all(|stderr| !stderr.contains("nobody has chosen")), "{line}: {quiet:?}");
    }
    assert!(!ok(at, "eval --checkpoint all.safetensors --neuron relu").1.contains("nobody has chosen"), "an ANN has no use for them");
}

#[test]
fn an_export_keeps_what_nobody_has_chosen() {
    let folder = files();
    let at = folder.path();
    for (name, count) in [("all", 9), ("one", 1), ("none", 0)] {
        let names = checkpoint::unchosen(&at.join(format!("{name}.safetensors"))).unwrap();
        assert_eq!(names.len(), count, "{name}");
        for (from, to, flags) in [(name, "first", ""), ("first", "second", ""), ("first", "folded", "--fold-norms")] {
            let (_, stderr) = ok(at, &format!("export --checkpoint {from}.safetensors --out {to}.safetensors {flags}"));
            assert_eq!(stderr.contains("nobody has chosen"), count > 0, "{name}: {stderr}");
            assert_eq!(checkpoint::unchosen(&at.join(format!("{to}.safetensors"))).unwrap(), names, "{name}, {to}");
        }
    }
}

#[test]
fn a_run_names_the_thresholds_that_it_leaves() {
    let folder = files();
    let at = folder.path();
    ok(at, "export --checkpoint one.safetensors --out exported.safetensors -q");
    let line = "train -d digits-8x8 -T 4 --epochs 1 --vth 1.5 --freeze-thresholds --device cpu";
    let given = thresholds(Path::new(TRAINED));
    assert!(given.iter().all(|(_, value)| *value != 1.5));
    let cases = [("all", SAID[0].1), ("one", LEFT), ("exported", LEFT)];
    for (name, told) in cases {
        let (_, stderr) = ok(at, &format!("{line} --neuron if --init-from {name}.safetensors --out {name}"));
        let note = format!(
            "note: {name}.safetensors holds thresholds that nobody has chosen ({told}): they start as the settings say (--vth); \
             --threshold-init auto chooses all\n"
        );
        assert_eq!(stderr.matches(&note).count(), 1, "{name}: {stderr}");
        let expected = given.iter().map(|(of, value)| (of.clone(), if name == "all" || of == LEFT { 1.5 } else { *value }));
        assert_eq!(thresholds(&at.join(name).join("last.safetensors")), expected.collect::<Vec<_>>(), "{name}");
    }
    let (_, stderr) = ok(at, &format!("{line} --neuron lif --init-from one.safetensors --out lif"));
    assert!(stderr.contains(&format!("nobody has chosen ({LEFT})")) && stderr.contains("are in units of IF neurons"), "{stderr}");
    for (file, flags) in [("none", ""), ("one", "--threshold-init auto"), ("all", "--threshold-init auto")] {
        let (_, stderr) = ok(at, &format!("{line} --neuron if --init-from {file}.safetensors --out quiet-{file} {flags}"));
        assert!(!stderr.contains("nobody has chosen"), "{file}: {stderr}");
    }
}

/// The file with its metadata changed, tensors as they are.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    change(&mut header["__metadata__"]);
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), tensors].concat()
}

/// What decides which thresholds the first batch chooses is under the checksum; the first files that had it were not so.
#[test]
fn another_mark_is_another_file() {
    let folder = files();
    let at = folder.path();
    let read = |name: &str| fs::read(at.join(name)).unwrap();
    let without = |meta: &mut Value| drop(meta.as_object_mut().unwrap().remove("unchosen"));
    let cases = [
        ("as it is", changed(&read("one.safetensors"), |_| ()), true),
        ("of another layer", changed(&read("one.safetensors"), |meta| meta["unchosen"] = "[\"relu2.Vth\"]".into()), false),
        ("left out", changed(&read("one.safetensors"), without), false),
        ("as of the first files", changed(&read("none.safetensors"), |meta| meta["unchosen"] = "[\"relu3.Vth\"]".into()), true),
    ];
    for (case, bytes, is_read) in cases {
        let path = at.join("changed.safetensors");
        fs::write(&path, bytes).unwrap();
        match checkpoint::open(&path) {
            Ok(_) => assert!(is_read && checkpoint::unchosen(&path).unwrap() == [LEFT], "{case}"),
            Err(error) => assert!(!is_read && error.to_string().contains("has changed since it was written"), "{case}: {error}"),
        }
    }
}
