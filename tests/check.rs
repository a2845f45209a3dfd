//! `dsr check` as a user runs it: the real binary, on the driver stand-in and on the CPU.

use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use dsr::device::{Isa, kernels};
use serde_json::Value;

/// Runs `dsr check` where the folder `drivers` is the first to be searched for a driver: exit code, stdout, stderr.
fn check(drivers: &Path, variables: &[(&str, &str)], flags: &str) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin("dsr"));
    command.arg("check").args(flags.split_whitespace()).env("LD_LIBRARY_PATH", drivers).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

/// A folder whose driver cannot be loaded.
fn no_driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(folder.path().join(name), "no library").unwrap();
    }
    folder
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

#[test]
fn a_sound_device_passes_and_every_kernel_has_run() {
    let (code, stdout, stderr) = check(emulator::directory(), &[("DSR_STANDIN_LAUNCHES", "1")], "--size small --device cuda");
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    let version = concat!("dsr ", env!("CARGO_PKG_VERSION"));
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{stdout}");
    let begin = lines.iter().position(|line| line.starts_with("op, what is compared")).unwrap();
    let words = lines[..begin].iter().flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ");
    let [first, second, third] = words.split("device: ").flat_map(|part| part.split("compared on: ")).collect::<Vec<_>>()[..] else {
        panic!("{words}")
    };
    assert_words(first, &[version, "kernels"]);
    assert_words(second, &["cuda:0", "stand-in", "compute capability 8.0", "GiB", "driver for CUDA 13.0"]);
    assert_words(third, &["seed 0", "checks"]);
    // The verdict names the device, whose name may be too long for one line.
    let end = lines.iter().position(|line| line.contains(" checks passed in ")).unwrap_or_else(|| panic!("{stdout}"));
    let (checks, verdict) = (&lines[begin + 1..end], lines[end..].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "));
    // An op and how it is compared stand above its checks.
    let (ops, checks): (Vec<&str>, Vec<(&str, &str)>) = {
        let (mut ops, mut found) = (Vec::new(), Vec::new());
        for &line in checks {
            if line.starts_with("  ") { found.push((*ops.last().unwrap(), line)) } else { ops.push(line) }
        }
        (ops, found)
    };
    for (op, line) in &checks {
        assert!(line.ends_with("  ok"), "{line}");
        // Equal bits use nothing of a tolerance that is not there.
        assert!(if op.ends_with(", bits") { line.ends_with("      0  ok") } else { op.contains(" of ") }, "{op}: {line}");
    }
    assert!(ops.iter().any(|op| op.ends_with(", bits")) && ops.iter().any(|op| op.contains(", ") && !op.ends_with(", bits")), "{ops:?}");
    assert_words(&verdict, &[&format!("{} checks passed", checks.len()), "cuda:0", "may be used"]);
    for op in ["weights", "spike_conv neurons", "clamp mapping", "data gradient", "cross-entropy", "update", "evaluation", "training step"]
    {
        assert!(ops.iter().any(|line| line.starts_with(op)), "{op} is not checked");
    }
    // Those of compute capability 9.0 alone are launched in tests/spike_conv_hopper_cuda.rs.
    let is_of_hopper = |name: &str| name.ends_with("_hopper") || name == "order_spike_weights";
    for kernel in kernels::ALL.iter().filter(|kernel| !is_of_hopper(kernel.name)) {
        let launch = format!("dsr stand-in: first launch of {}", kernel.name);
        assert!(stderr.lines().any(|line| line == launch), "nothing launches {}", kernel.name);
    }
}

#[test]
fn json_has_every_check() {
    let (code, stdout, stderr) = check(emulator::directory(), &[], "--size small --seed 5 -o json");
    assert_eq!((code, stdout.lines().count()), (0, 1), "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    let checks = json["checks"].as_array().unwrap();
    assert_eq!((&json["ok"], &json["fault"]), (&true.into(), &Value::Null), "auto takes the GPU");
    assert_eq!((&json["seed"], &json["size"]), (&5.into(), &"small".into()));
    assert_eq!((&json["passed"], &json["planned"]), (&checks.len().into(), &checks.len().into()));
    assert_eq!((&json["cuda"]["index"], &json["cuda"]["driver"]), (&0.into(), &"13.0".into()));
    assert_words(json["device"].as_str().unwrap(), &["cuda:0"]);
    for check in checks {
        let used = check["used"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&used) && (check["compared"] != "bits" || used == 0.0), "{check}");
        assert!(check["values"].as_u64() > Some(0) && check["ok"] == true, "{check}");
    }
}

#[test]
fn a_planted_fault_is_named_with_its_place() {
    /// Planted kernels or a setting of the stand-in, and what the error must say.
    type Case<'a> = (&'a str, String, &'a [&'a str]);
    let planted = |name: &str| emulator::test_kernels(name).display().to_string();
    let cases: [Case; 3] = [
        (
            "DSR_STANDIN_KERNELS",
            planted("wrong_bound"),
            &["bound of thresholds, 70 thresholds of 100 values: values at index 84: expected ", "(0x", ", got "],
        ),
        (
            "DSR_STANDIN_KERNELS",
            planted("writes_beside"),
            &["copy of the input, 1x1x1", "behind the buffer", "at index 0: expected 0xa5", "got 0x00"],
        ),
        ("DSR_STANDIN_MEMORY", "1000000".into(), &["copies, 1, 257 and 1,000,000 floats: cuda:0", "out of memory"]),
    ];
    for (variable, value, words) in &cases {
        let variables = [(*variable, value.as_str())];
        let (code, stdout, stderr) = check(emulator::directory(), &variables, "--size small --device cuda");
        assert_eq!(code, 1, "{stdout}");
        assert_words(error(&stderr), words);
        let last = stdout.lines().last().unwrap();
        assert!(last.ends_with("FAULT"), "{last}");
        assert_eq!(stdout.matches("FAULT").count(), 1, "it stops at the first fault: {stdout}");

        let (code, stdout, _) = check(emulator::directory(), &variables, "--size small --device cuda -o json");
        let json: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &json["ok"]), (1, &false.into()));
        let fault = &json["fault"];
        assert_eq!(fault, json["checks"].as_array().unwrap().last().unwrap());
        assert!(fault["fault"]["index"].is_u64() != fault["problem"].is_string(), "{fault}");
    }
}

#[test]
fn without_a_driver_one_line_says_so() {
    let folder = no_driver();
    let (code, stdout, stderr) = check(folder.path(), &[], "--device cuda");
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (1, "", 1), "{stderr}");
    assert_words(error(&stderr), &["no CUDA driver", "libcuda.so.1", "--device cpu"]);
    let (code, stdout, stderr) = check(emulator::directory(), &[], "--device cuda:3");
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_words(error(&stderr), &["cuda:3", "no such device"]);
}

#[test]
fn the_cpu_is_checked_by_its_instruction_sets() {
    let folder = no_driver();
    for flags in ["--device cpu --size small", "--size small --threads 1"] {
        let (code, stdout, stderr) = check(folder.path(), &[], flags);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        let lines: Vec<&str> = stdout.lines().collect();
        let others: Vec<Isa> = Isa::available().into_iter().filter(|isa| *isa != Isa::Portable).collect();
        if others.is_empty() {
            assert_words(lines.last().unwrap(), &["nothing to compare"]);
        }
        for isa in others {
            let name = format!("  {}, ", format!("{isa:?}").to_lowercase());
            assert!(lines.iter().filter(|line| line.contains(&name) && line.ends_with("  ok")).count() > 20, "{isa:?}: {stdout}");
            assert_words(lines.last().unwrap(), &["checks passed", "the same bits"]);
        }
        // Behind the first line, which may go on.
        let place = lines.iter().skip(1).position(|line| !line.starts_with("  ")).unwrap() + 1;
        assert_words(lines[place], &["device: the CPU"]);
    }
}

#[test]
fn wrong_flags_are_refused() {
    for (flags, words) in [("--size huge", ["huge", "full"]), ("-o xml", ["xml", "csv"])] {
        let (code, _, stderr) = check(emulator::directory(), &[], flags);
        assert_eq!(code, 2, "{flags}");
        assert_words(&stderr, &words);
    }
}
