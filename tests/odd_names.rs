//! Names with line breaks, tabs and other control characters: no table and no message is broken by them. The real binary.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use tempfile::tempdir;

#[path = "support/own_sets.rs"]
mod own_sets;

fn dsr(folder: &Path, line: &str, more: &[&str]) -> Output {
    let output = Command::new(cargo_bin("dsr")).current_dir(folder).args(line.split_whitespace()).args(more).output().unwrap();
    for text in [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)) {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()) || line.contains("-o csv"), "dsr {line}: {text:?}");
    }
    output
}

fn ok(folder: &Path, line: &str, more: &[&str]) -> [String; 2] {
    let output = dsr(folder, line, more);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "dsr {line}: {stderr}");
    [stdout, stderr]
}

#[test]
fn tables_and_messages_keep_their_lines() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    own_sets::heap(&at.join("set"), 8);
    fs::rename(at.join("set/birch"), at.join("set/bi\nr|c\th\u{1b}[2J")).unwrap();
    let spelled = "bi\\nr|c\\th\\u001b[2J";
    let in_table = spelled.replace('|', "\\|");
    let set = "-d images --data-dir set --val-share 0.25 --image-size 12";
    let line = format!("train {set} --widths 4,8 --blocks 1,1 -T 2 --epochs 1 -b 4 --device cpu --out");
    let run = "a\nrun";
    let [stdout, stderr] = ok(at, &line, &[run]);
    assert!(stdout.contains("after 1 epoch in") && stdout.trim_end().ends_with("a\\nrun/last.safetensors"), "{stdout}");
    assert!(stderr.contains("run folder a\\nrun"), "{stderr}");
    let cases: [(&str, &[&str], bool); 6] = [
        (&format!("data info {set}"), &[], false),
        (&format!("data info {set} -o md"), &[], true),
        ("eval --per-class --confusion --device cpu --checkpoint", &[run], false),
        ("eval --per-class --device cpu -o md --checkpoint", &[run], true),
        ("eval --confusion --device cpu -o md --checkpoint", &[run], true),
        ("eval --confusion --device cpu -o csv --checkpoint", &[run], false),
    ];
    for (line, more, is_markdown) in cases {
        let [stdout, _] = ok(at, line, more);
        if line.contains("csv") {
            let rows: Vec<csv::StringRecord> = csv::Reader::from_reader(stdout.as_bytes()).records().map(Result::unwrap).collect();
            assert!(
                rows.iter().any(|row| row.iter().any(|cell| cell.starts_with("bi\nr|c"))),
                "a CSV cell has the name as it is: {stdout}"
            );
            continue;
        }
        assert!(stdout.contains(if is_markdown { &in_table } else { spelled }), "dsr {line}: {stdout}");
        if is_markdown {
            let bars = |line: &str| line.replace("\\|", "").matches('|').count();
            let rows: Vec<usize> = stdout.lines().filter(|line| line.starts_with('|')).map(bars).collect();
            assert!(rows.len() > 3 && rows.iter().all(|&n| n == rows[0]), "dsr {line}: {stdout}");
            assert_eq!(stdout.lines().filter(|line| !line.is_empty() && !line.starts_with('|')).count(), 1, "dsr {line}: {stdout}");
        }
    }
    let output = dsr(at, "eval --checkpoint", &["no\nsuch"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: no\\nsuch: ") && stderr.lines().count() == 1, "{stderr}");
    // A name in a setting is the name that was given, too.
    for (line, more, words) in [
        ("eval --device cpu --checkpoint", &[run, "--predictions", "x\ny.json"][..], "x\\ny.json: .json means JSON"),
        ("export --checkpoint", &[run, "--out", "x\ny.csv"], "x\\ny.csv: .csv means CSV"),
        ("profile --device cpu --trace", &["x\ty.npz"], "x\\ty.npz: .npz means NumPy's arrays"),
        ("train -d", &["digits\n8x8"], "unknown data set 'digits\\n8x8'"),
        ("train -d digits-8x8 --recipe", &["a\nb"], "a\\nb"),
        ("train -d digits-8x8 --data-dir", &["a\nb"], "error: "),
        ("data info -d images --data-dir", &["set\nx"], "set\\nx"),
        ("data info -d images --image-size 12 --data-dir", &["set"], "set has no test split"),
        ("train --out new --resume", &["a\nrun/last.safetensors", "--init-from", "x"], "a\\nrun/last.safetensors goes on"),
    ] {
        let output = dsr(at, line, more);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "dsr {line}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(words) && stderr.lines().count() == 1, "dsr {line}: {stderr}");
    }
    let [stdout, _] = ok(at, "export --checkpoint", &[run, "--out", "x\ny.safetensors"]);
    assert!(stdout.starts_with("wrote x\\ny.safetensors: "), "{stdout}");
    let [json, _] = ok(at, "eval --device cpu -o json --checkpoint", &[run]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["checkpoint"], "a\nrun/best.safetensors");
}
