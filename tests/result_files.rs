//! Where results go, on the real binary: through links, into pipes and what the shell has opened, and never two into one file.
#![cfg(unix)]

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use command::{dsr, ok};
use tempfile::tempdir;

const PROFILE: &str = "profile -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 4 --steps 1 --warmup 0 --device cpu -q";

/// A line of the shell, in which `dsr` is the real binary.
fn shell(folder: &Path, line: &str) -> Output {
    let line = line.replace("dsr ", &format!("{} ", cargo_bin("dsr").display()));
    Command::new("bash").current_dir(folder).args(["-c", &line]).output().unwrap()
}

fn run(folder: &Path) {
    ok(folder, "train -d digits-8x8 --widths 4 --blocks 1 -T 2 --epochs 1 --device cpu -q --out run");
}

#[test]
fn results_go_through_links_and_into_what_is_open() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    run(at);
    let eval = "dsr eval --checkpoint run --device cpu -q --predictions";
    fs::create_dir(at.join("deep")).unwrap();
    let whole = |text: &str| text.lines().next().unwrap().starts_with("index,label,prediction") && text.lines().count() > 300;
    for (link, to) in [("dangling", "deep/new.csv"), ("again", "deep/new.csv")] {
        symlink(to, at.join(link)).unwrap();
        assert!(shell(at, &format!("{eval} {link}")).status.success(), "{link}");
        assert!(at.join(link).is_symlink() && whole(&fs::read_to_string(at.join(to)).unwrap()), "{link}");
        fs::write(at.join(to), "index,label,prediction\n").unwrap();
    }
    // What the shell has opened, by each of its names; what the file had before stays, and the table of the command comes behind.
    symlink("/proc/self/fd/1", at.join("l")).unwrap();
    for (number, out) in ["l", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().enumerate() {
        let file = at.join(format!("out{number}"));
        let output = shell(at, &format!("(echo before; {eval} {out}) > out{number}"));
        let text = fs::read_to_string(&file).unwrap();
        let rest = text.strip_prefix("before\n").unwrap_or_else(|| panic!("{out}: {text}"));
        assert!(output.status.success() && whole(rest) && rest.contains("top-1"), "{out}: {text}");
        assert!(rest.find("top-1") > rest.find("\n300,"), "{out}: {text}");
    }
    assert!(at.join("l").is_symlink());
    let output = shell(at, &format!("{eval} /dev/fd/7 7> seven > /dev/null"));
    assert!(output.status.success() && whole(&fs::read_to_string(at.join("seven")).unwrap()));
    let output = shell(at, &format!("{eval} >(cat > piped) > /dev/null; wait $!"));
    assert!(output.status.success() && whole(&fs::read_to_string(at.join("piped")).unwrap()));
    let output = shell(at, &format!("{eval} /dev/full"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.starts_with("error: /dev/full: cannot be written ("), "{stderr}");
}

#[test]
fn pages_traces_sheets_and_networks_go_through_links() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    run(at);
    for (name, begins, line) in [
        ("page", "<!DOCTYPE html>", format!("{PROFILE} --html page")),
        ("trace", "{\"displayTimeUnit\"", format!("{PROFILE} --trace trace")),
        ("sheet", "", "data sheet -d digits-8x8 -q --out sheet".into()),
    ] {
        symlink(format!("{name}.real"), at.join(name)).unwrap();
        for _ in 0..2 {
            ok(at, &line);
            let bytes = fs::read(at.join(format!("{name}.real"))).unwrap();
            assert!(at.join(name).is_symlink() && bytes.starts_with(begins.as_bytes()), "{name}");
        }
    }
    ok(at, "export --checkpoint run --out whole.safetensors");
    symlink("whole.safetensors", at.join("network")).unwrap();
    ok(at, "export --checkpoint run --out network --fold-norms");
    assert!(at.join("network").is_symlink());
    let bytes = fs::read(at.join("whole.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..4000]).contains("folded"));
    let refused = dsr(at, "export --checkpoint run --out /dev/null");
    assert_eq!(refused.status.code(), Some(2), "a device holds no network");
    // A checkpoint that lies elsewhere stays there.
    fs::rename(at.join("run/last.safetensors"), at.join("elsewhere.safetensors")).unwrap();
    symlink("../elsewhere.safetensors", at.join("run/last.safetensors")).unwrap();
    let before = fs::read(at.join("elsewhere.safetensors")).unwrap();
    ok(at, "train --resume auto --out run --epochs 2 --device cpu -q");
    assert!(at.join("run/last.safetensors").is_symlink() && fs::read(at.join("elsewhere.safetensors")).unwrap() != before);
}

#[test]
fn two_results_do_not_share_a_file() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("deep")).unwrap();
    symlink("deep/../x", at.join("link")).unwrap();
    for other in ["x", "./x", "deep/../x", "link"] {
        let refused = dsr(at, &format!("{PROFILE} --html x --trace {other}"));
        let stderr = String::from_utf8(refused.stderr).unwrap();
        let words = format!("error: trace: {other} is the file of --html, too, and one of the two would be lost; give another name\n");
        assert_eq!((refused.status.code(), stderr), (Some(2), words));
        assert!(!at.join("x").exists());
    }
    ok(at, &format!("{PROFILE} --html x --trace y"));
    ok(at, &format!("{PROFILE} --html /dev/null --trace /dev/null"));
}

/// What the shell has opened is written to as it is open: not where it was opened for reading, nor where something would be lost.
#[test]
fn open_files_are_written_to_as_they_are_open() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    run(at);
    fs::write(at.join("precious"), "all my notes").unwrap();
    symlink("/proc/self/fd/0", at.join("link")).unwrap();
    let eval = "dsr eval --checkpoint run --device cpu -q --predictions";
    let files = ["precious", "run/best.safetensors", "run/metrics.csv"];
    let contents = || files.map(|name| fs::read(at.join(name)).unwrap());
    let before = contents();
    let (reading, theirs) =
        ("is open for reading only: open it for writing", "is a file that another process has open: name the file itself");
    for (line, code, words) in [
        (format!("{eval} /dev/fd/5 5<run/best.safetensors"), 1, format!("/dev/fd/5: {reading} (such as by 5>FILE), or name a file")),
        (format!("{eval} /dev/stdin <precious"), 1, format!("/dev/stdin: {reading}")),
        ("dsr data sheet -d digits-8x8 --out /dev/fd/3 3<precious".into(), 1, format!("/dev/fd/3: {reading}")),
        (format!("dsr {PROFILE} --html link <precious"), 1, format!("link: {reading}")),
        (format!("dsr {PROFILE} --trace /proc/self/fd/0 <precious"), 1, format!("/proc/self/fd/0: {reading}")),
        (format!("echo | {eval} /dev/stdin"), 1, format!("/dev/stdin: {reading}")),
        (format!("{eval} /dev/fd/99"), 1, "/dev/fd/99: is not open: open it for writing".into()),
        (format!("exec 5>>precious; {eval} /proc/$$/fd/5; exit $?"), 1, theirs.into()),
        (format!("{eval} /dev/fd/5 5>>run/best.safetensors"), 2, "is a checkpoint, which would be lost".into()),
        (format!("{eval} /dev/fd/5 5>>run/metrics.csv"), 2, "belongs to the run in its folder".into()),
        (format!("{eval} /dev/fd/5 5<>precious"), 2, "is there already, and is no earlier result of this".into()),
        (format!("dsr {PROFILE} --html precious --trace /dev/fd/5 5>>precious"), 2, "is there already".into()),
        (format!("dsr {PROFILE} --html new --trace /dev/fd/5 5>new"), 2, "is the file of --html, too".into()),
    ] {
        let output = shell(at, &line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let is_said = stderr.starts_with("error: ") && stderr.contains(&words) && stderr.lines().count() == 1;
        assert!(output.status.code() == Some(code) && is_said, "{line}: {stderr}");
        assert!(contents() == before, "{line}");
    }
    // The shell goes on behind the result, and a file that was there keeps what it had.
    let line = format!("(echo before >&7; {eval} /dev/fd/7; echo after >&7) 7>seven && (echo more >&7; {eval} /dev/fd/7) 7>>seven");
    assert!(shell(at, &line).status.success());
    let text = fs::read_to_string(at.join("seven")).unwrap();
    let parts: Vec<&str> = text.split("index,label,prediction").collect();
    assert!(parts.len() == 3 && parts[0] == "before\n" && parts[1].ends_with("\nafter\nmore\n"), "{text}");
}

/// The name says what a file is, also that of the file that a link leads to; what is no file has no ending.
#[test]
fn an_ending_that_means_something_else_is_refused() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    run(at);
    fs::remove_file(at.join("run/curves.svg")).unwrap();
    for (link, to) in [("page", "run/curves.svg"), ("table", "run/best.safetensors"), ("plain", "new.json")] {
        symlink(to, at.join(link)).unwrap();
    }
    let eval = "eval --checkpoint run --device cpu -q --predictions";
    for (line, words) in [
        ("data sheet -d digits-8x8 --out s.csv", "out: s.csv: .csv means CSV, and what is written is png: call it s.png"),
        ("data sheet -d digits-8x8 --out s.jpg", "out: s.jpg: .jpg means a JPEG picture"),
        (&format!("{PROFILE} --html p.csv"), "html: p.csv: .csv means CSV, and what is written is html"),
        (&format!("{PROFILE} --html t.json"), "html: t.json: .json means JSON"),
        (&format!("{PROFILE} --trace p.npz"), "trace: p.npz: .npz means NumPy's arrays"),
        (&format!("{eval} p.png"), "predictions: p.png: .png means a PNG picture"),
        (&format!("{eval} p.html"), "predictions: p.html: .html means a web page"),
        (&format!("{eval} plain"), "new.json: .json means JSON"),
        (&format!("{PROFILE} --html page"), "html: page belongs to the run in its folder"),
        (&format!("{eval} page"), "predictions: page belongs to the run in its folder"),
        (&format!("{eval} table"), "predictions: table is a checkpoint"),
        ("export --checkpoint run --out page", "out: page belongs to the run in its folder"),
    ] {
        let output = dsr(at, line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(words) && stderr.lines().count() == 1, "dsr {line}: {stderr}");
    }
    assert!(!at.join("run/curves.svg").exists() && !at.join("new.json").exists());
    ok(at, &format!("{PROFILE} --html p.htm --trace t.json"));
    let output = shell(at, &format!("mkfifo q.json; cat q.json > got & dsr {eval} q.json; wait"));
    assert!(output.status.success() && fs::read_to_string(at.join("got")).unwrap().starts_with("index,label,prediction"));
}
