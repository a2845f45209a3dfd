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
