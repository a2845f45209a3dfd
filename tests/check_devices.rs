//! `dsr check --devices` as a user runs it: the real binary, which starts one process a device, on stand-ins of the driver and of NCCL.

use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

/// Runs `dsr check` with the libraries of `folders`: exit code, stdout, stderr.
fn check(folders: &[&Path], variables: &[(&str, &str)], flags: &str) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin("dsr"));
    let path = std::env::join_paths(folders).unwrap();
    command.arg("check").args(flags.split_whitespace()).env("LD_LIBRARY_PATH", path).env("DSR_STANDIN_DEVICES", "4");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

fn both() -> [&'static Path; 2] {
    [emulator::directory(), emulator::nccl_directory()]
}

fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
}

/// The one line that says what went wrong.
fn error(stderr: &str) -> &str {
    let mut errors = stderr.lines().filter(|line| line.starts_with("error: "));
    let error = errors.next().unwrap_or_else(|| panic!("no error line in {stderr:?}"));
    assert!(errors.next().is_none() && !stderr.contains("panicked"), "{stderr}");
    error
}

const OPS: [&str; 6] = ["all-reduce", "all-gather", "all-to-all", "broadcast", "recorded collectives", "training step"];

#[test]
fn sound_devices_pass_every_collective() {
    for (devices, names) in [("cuda:0,1", 2), ("cuda:3", 1), ("all", 4)] {
        let (code, stdout, stderr) = check(&both(), &[], &format!("--devices {devices} --size small"));
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
        let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_words(
            &words,
            &["devices: cuda:", "a process each", "NCCL 2.27.3 (libnccl.so.2)", "seed 0", "11 checks passed in ", "may be used together"],
        );
        assert_eq!(words.matches("dsr host stand-in").count(), 2 * names, "{words}");
        for op in OPS {
            assert!(stdout.lines().any(|line| line == format!("{op}, bits")), "{op} is not checked: {stdout}");
        }
        let checks: Vec<&str> = stdout.lines().filter(|line| line.ends_with("      0  ok")).collect();
        assert_eq!(checks.len(), 11, "{stdout}");
    }
}

#[test]
fn json_and_csv_have_every_check() {
    let (code, stdout, stderr) = check(&both(), &[], "--devices cuda:2,0 --size small --seed 5 -o json");
    assert_eq!((code, stdout.lines().count()), (0, 1), "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["ok"], &json["fault"], &json["problem"]), (&true.into(), &Value::Null, &Value::Null));
    assert_eq!((&json["passed"], &json["nccl"], &json["seed"]), (&11.into(), &"2.27.3".into(), &5.into()));
    assert_words(json["devices"][0].as_str().unwrap(), &["cuda:2"]);
    for check in json["checks"].as_array().unwrap() {
        assert!(check["ok"] == true && check["used"] == 0.0 && check["values"].as_u64() > Some(1000), "{check}");
    }
    let (code, stdout, stderr) = check(&both(), &[], "--devices cuda:0,1 --size small -o csv");
    assert_eq!((code, stdout.lines().count()), (0, 12), "{stderr}");
}

#[test]
fn a_wrong_bit_is_named_with_its_rank() {
    for (kind, op) in [("AllReduce", "all-reduce"), ("AllGather", "all-gather"), ("Broadcast", "broadcast"), ("Send/Recv", "all-to-all")] {
        let (code, stdout, stderr) = check(&both(), &[("DSR_STANDIN_NCCL_WRONG", kind)], "--devices cuda:0-2 --size small");
        assert_eq!(code, 1, "{stdout}");
        assert_words(error(&stderr), &["rank 2 (cuda:2): ", op, " at index ", "expected ", "got "]);
        assert_eq!(stdout.matches("FAULT").count(), 1, "it stops at the first fault: {stdout}");
        assert!(stdout.trim_end().ends_with("FAULT"), "{stdout}");
    }
    let (code, stdout, stderr) = check(&both(), &[("DSR_STANDIN_NCCL_WRONG", "AllGather")], "--devices cuda:0,1 --size small -o json");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &json["ok"], &json["fault"]["rank"], &json["passed"]), (1, &false.into(), &1.into(), &2.into()));
    assert_words(error(&stderr), &[json["problem"].as_str().unwrap()]);
}

#[test]
fn what_is_missing_is_one_line() {
    let driver = emulator::directory();
    let empty = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1", "libnccl.so.2", "libnccl.so"] {
        std::fs::write(empty.path().join(name), "no library").unwrap();
    }
    let flags = "--devices cuda:0,1 --size small";
    type Case<'a> = (&'a [&'a Path], &'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);
    let cases: [Case; 5] = [
        (&[driver, empty.path()], &[], flags, &["no NCCL was found", "pip install nvidia-nccl-cu13", "LD_LIBRARY_PATH"]),
        (&both(), &[("DSR_STANDIN_NCCL_VERSION", "21304")], flags, &["NCCL 2.13.4", "2.14 or newer"]),
        (&[empty.path(), driver], &[], flags, &["no CUDA driver was found"]),
        (&both(), &[], "--devices cuda:0,7", &["cuda:7", "no such device", "4"]),
        (&both(), &[("DSR_STANDIN_MEMORY", "100000")], flags, &["rank ", "(cuda:", "out of memory"]),
    ];
    for (folders, variables, flags, words) in cases {
        let (code, _, stderr) = check(folders, variables, flags);
        assert_eq!(code, 1, "{stderr}");
        assert_words(error(&stderr), words);
    }
    for (flags, words) in [
        ("--devices cuda:0,0", ["named twice", "--devices"]),
        ("--devices gpu", ["cuda:0,1", "all"]),
        ("--devices cuda:0,1 --device cuda:0", ["check --devices has no use for it", "--device"]),
    ] {
        let (code, _, stderr) = check(&both(), &[], flags);
        assert_eq!(code, 2, "{flags}: {stderr}");
        assert_words(&stderr, &words);
    }
}
