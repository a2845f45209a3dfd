//! Comparison of a benchmark with an earlier one: the rule on numbers by hand, then the real binary.

#[path = "support/schema.rs"]
mod schema;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use dsr::bench::baseline::{Baseline, Comparison, Verdict};
use dsr::error::Error;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const SCHEMA: &str = "dsr-bench-latency";

/// A case of T steps with its quartiles and its median.
fn case(time_steps: u32, [p25, median, p75]: [f64; 3]) -> Value {
    json!({
        "model": "net", "time_steps": time_steps, "median_s": median, "p25_s": p25, "p75_s": p75,
        "config": { "alpha": 0.5, "time_steps": time_steps },
    })
}

fn document(cases: &[Value]) -> Value {
    json!({
        "schema": { "name": SCHEMA, "version": 1 },
        "header": { "cpu": "a cpu", "isa": "avx2", "threads": 2, "build": "release", "target": "x", "commit": "abc", "cores": 8 },
        "cases": cases,
    })
}

fn stored(document: &str) -> (TempDir, Result<Baseline, Error>) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("old.json");
    fs::write(&path, document).unwrap();
    let baseline = Baseline::read(&path, SCHEMA, 1);
    (folder, baseline)
}

fn compare(old: &[Value], new: &[Value], fail_over: f64) -> Comparison {
    let (_folder, baseline) = stored(&document(old).to_string());
    baseline.unwrap().compare(new, &["model".into(), "time_steps".into()], fail_over)
}

#[test]
fn slower_is_more_than_the_share_and_more_than_the_spread() {
    // Quartiles and median before, after, allowed share, verdict.
    let cases = [
        ([10.0, 10.0, 10.0], [10.4, 10.4, 10.4], 0.05, Verdict::Same),
        ([10.0, 10.0, 10.0], [10.6, 10.6, 10.6], 0.05, Verdict::Slower),
        ([10.0, 10.0, 10.0], [9.4, 9.4, 9.4], 0.05, Verdict::Faster),
        ([10.0, 10.0, 10.0], [10.5, 10.5, 10.5], 0.05, Verdict::Same), // not more than the share
        ([9.0, 10.0, 10.0], [10.6, 10.6, 10.6], 0.05, Verdict::Same),  // the old spread is 1
        ([10.0, 10.0, 10.0], [10.2, 10.6, 11.1], 0.05, Verdict::Same), // the new spread is 0.9
        ([9.6, 10.0, 10.0], [10.6, 10.6, 11.1], 0.05, Verdict::Slower), // spreads are not added up
        ([10.0, 10.0, 10.0], [10.1, 10.1, 10.1], 0.0, Verdict::Slower),
        ([10.0, 10.0, 10.0], [10.0, 10.0, 10.0], 0.0, Verdict::Same),
        ([9.0, 10.0, 10.0], [8.0, 8.5, 8.9], 0.05, Verdict::Faster),
    ];
    for (old, new, fail_over, expected) in cases {
        let comparison = compare(&[case(5, old)], &[case(5, new)], fail_over);
        let [compared] = &comparison.compared[..] else { panic!("{comparison:?}") };
        assert_eq!(compared.verdict, expected, "{old:?} {new:?} {fail_over}");
        assert_eq!((compared.old_median_s, compared.new_median_s, compared.case.as_str()), (old[1], new[1], "model net, time_steps 5"));
        assert!((compared.change - (new[1] / old[1] - 1.0)).abs() < 1e-12);
        assert_eq!(comparison.slower(), usize::from(expected == Verdict::Slower));
    }
}

#[test]
fn what_is_on_one_side_only_is_listed() {
    let times = [1.0; 3];
    let mut other = case(4, times);
    other["config"]["alpha"] = json!(0.3);
    let unmeasured = json!({ "model": "net", "time_steps": 9, "median_s": null, "p25_s": null, "p75_s": null, "config": { "alpha": 0.5, "time_steps": 9 } });
    let old = [case(1, times), case(2, times), case(4, times), unmeasured.clone()];
    let comparison = compare(&old, &[case(2, times), case(3, times), other, unmeasured], 0.05);
    assert_eq!(comparison.compared.iter().map(|c| (c.index, c.case.as_str())).collect::<Vec<_>>(), [(0, "model net, time_steps 2")]);
    assert_eq!(comparison.only_in_baseline, ["model net, time_steps 1"]);
    assert_eq!(comparison.only_here, ["model net, time_steps 3"]);
    assert_eq!(comparison.other_settings, ["model net, time_steps 4: alpha 0.5 (here: 0.3)"]);
    assert_eq!(comparison.commit.as_deref(), Some("abc"));
}

#[test]
fn another_machine_is_named() {
    let (_folder, baseline) = stored(&document(&[]).to_string());
    let baseline = baseline.unwrap();
    let header = document(&[])["header"].clone();
    let with = |key: &str, value: Value| {
        let mut header = header.clone();
        header[key] = value;
        header
    };
    baseline.check_machine(&header).unwrap();
    baseline.check_machine(&with("commit", json!("def"))).unwrap();
    baseline.check_machine(&with("cores", json!(4))).unwrap();
    for (key, value) in
        [("cpu", json!("b")), ("isa", json!("avx512")), ("threads", json!(1)), ("build", json!("debug")), ("target", json!("y"))]
    {
        let error = baseline.check_machine(&with(key, value.clone())).unwrap_err().to_string();
        let words = [key, &header[key].to_string(), &format!("(here: {value})"), "old.json", "--force"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn files_that_are_no_result_of_the_command_are_refused() {
    let other = document(&[]).to_string().replace("latency", "kernels");
    let newer = document(&[]).to_string().replace("\"version\":1", "\"version\":2");
    let cases = [
        ("", "is no JSON"),
        ("[1, 2", "is no JSON"),
        ("[]", "no schema"),
        (r#"{"cases": []}"#, "no schema"),
        (&other, "dsr-bench-kernels"),
        (&newer, "\"version\":2"),
        (r#"{"schema": {"name": "dsr-bench-latency", "version": 1}, "cases": []}"#, "has no header"),
        (r#"{"schema": {"name": "dsr-bench-latency", "version": 1}, "header": {}, "cases": 3}"#, "has no cases"),
    ];
    for (text, words) in cases {
        let error = stored(text).1.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("old.json"), "{text}: {error}");
    }
    assert!(Baseline::read(Path::new("no-such.json"), SCHEMA, 1).unwrap_err().to_string().contains("no-such.json"));
}

proptest::proptest! {
    /// Whatever a file holds, it is read or refused, and compared without a panic.
    #[test]
    fn damaged_files_do_no_harm(cut in 0usize..2000, at in 0usize..2000, byte in 0u8..128) {
        let cases = [case(1, [1.0; 3]), case(2, [1.0; 3])];
        let mut text = document(&cases).to_string().into_bytes();
        let place = at % text.len();
        text[place] = byte;
        text.truncate(cut.max(1));
        let text = String::from_utf8_lossy(&text).into_owned();
        if let (_folder, Ok(baseline)) = stored(&text) {
            let _ = baseline.check_machine(&document(&[])["header"]);
            let comparison = baseline.compare(&cases, &["model".into(), "time_steps".into()], 0.05);
            proptest::prop_assert!(comparison.compared.len() <= 2);
        }
    }
}

fn dsr(folder: &Path, line: &str) -> Output {
    Command::new(cargo_bin("dsr")).current_dir(folder).args(line.split_whitespace()).output().unwrap()
}

/// Stretches or shortens every time of a result.
fn scaled(result: &Value, factor: f64) -> Value {
    let mut result = result.clone();
    for case in result["cases"].as_array_mut().unwrap() {
        for key in ["median_s", "p25_s", "p75_s", "min_s", "max_s"] {
            case[key] = json!(case[key].as_f64().map(|seconds| seconds * factor)); // some have no time
        }
    }
    result
}

#[test]
fn commands_compare_and_fail() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let network = "--widths 4 --blocks 1 --image 8x8x1 -b 1 -T 2 --device cpu";
    // One time a case has no spread, however busy the machine is.
    let lines = [
        format!("bench throughput {network} --repeats 1 --warmup 1 --mode infer"),
        format!("bench latency {network} --repeats 1"),
        format!("bench kernels {network} --repeats 1 --op readout,optimizer --cache warm"),
        "bench decision --widths 4 --blocks 1 -T 2 --samples 4 --repeats 1 --at 2 --device cpu".into(),
        "bench data -d digits-8x8 --split test --repeats 1".into(),
    ];
    for line in lines {
        let first = dsr(folder, &format!("{line} -o json"));
        assert_eq!(first.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&first.stderr));
        let first: Value = serde_json::from_slice(&first.stdout).unwrap();
        let against = |document: &Value, flags: &str| {
            fs::write(folder.join("old.json"), document.to_string()).unwrap();
            dsr(folder, &format!("{line} --baseline old.json {flags}"))
        };
        // Times a million times as long, or as short: no noise comes near, on a machine however busy.
        let faster = against(&scaled(&first, 1e6), "-o json");
        assert_eq!(faster.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&faster.stderr));
        let faster: Value = serde_json::from_slice(&faster.stdout).unwrap();
        assert_eq!(schema::problems("bench", &faster), Vec::<String>::new(), "{line}");
        let verdicts: Vec<&Value> = faster["comparison"]["compared"].as_array().unwrap().iter().map(|c| &c["verdict"]).collect();
        assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| **verdict == "faster"), "{faster}");

        let slower = against(&scaled(&first, 1e-6), "--fail-over 10%");
        let (stdout, stderr) = (String::from_utf8(slower.stdout).unwrap(), String::from_utf8(slower.stderr).unwrap());
        assert_eq!(slower.status.code(), Some(1), "{line}: {stderr}");
        assert!(stdout.contains("SLOWER") && stdout.contains("Medians against old.json"), "{stdout}");
        assert!(stderr.contains("error: ") && stderr.contains("old.json") && stderr.contains("10%"), "{stderr}");
        assert!(stdout.lines().all(|line| line.chars().count() <= 110), "{stdout}"); // numbers a million times apart take more room

        let mut elsewhere = scaled(&first, 1e6);
        elsewhere["header"]["cpu"] = json!("another");
        let refused = against(&elsewhere, "");
        assert_eq!(refused.status.code(), Some(1), "{line}");
        assert!(refused.stdout.is_empty() && String::from_utf8_lossy(&refused.stderr).contains("cpu \"another\" (here: "), "{line}");
        assert_eq!(against(&elsewhere, "--force").status.code(), Some(0), "{line}");
    }
}

#[test]
fn a_spreadsheet_has_the_baseline_in_columns() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let line = "bench latency --widths 4 --blocks 1 --image 8x8x1 --repeats 1 --device cpu";
    let first: Value = serde_json::from_slice(&dsr(folder, &format!("{line} -T 1,2 -o json")).stdout).unwrap();
    fs::write(folder.join("old.json"), scaled(&first, 1e6).to_string()).unwrap();
    let output = dsr(folder, &format!("{line} -T 2,3 --baseline old.json -o csv"));
    assert_eq!(output.status.code(), Some(0));
    let mut reader = csv::Reader::from_reader(&output.stdout[..]);
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|n| n == name).unwrap_or_else(|| panic!("{name} in {header:?}"));
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!((&rows[0][at("time_steps")], &rows[0][at("verdict")]), ("2", "faster"));
    assert_eq!((&rows[1][at("time_steps")], &rows[1][at("verdict")], &rows[1][at("baseline_median_s")]), ("3", "", ""));
    assert!(rows[0][at("change")].parse::<f64>().unwrap() < -0.9);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("only in the baseline: ") && stderr.contains("time_steps 1"), "{stderr}");
    assert!(stderr.contains("only here: ") && stderr.contains("time_steps 3"), "{stderr}");
}
