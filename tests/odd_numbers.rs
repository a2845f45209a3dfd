//! Numbers and paths that no setting can hold: the flag is named, the number is shown as it was given, and the reason is the true one.
//! The real binary.

#[path = "support/command.rs"]
mod command;

use std::fs;

use command::{dsr, ok};
use tempfile::tempdir;

#[test]
fn a_number_that_is_refused_is_named_and_short() {
    let folder = tempdir().unwrap();
    let bits = "is not a positive number of 32 bits, which go from 1e-45 to 3.4e38";
    let products = "is not in 1e-9..=1e9: products of such thresholds are no numbers";
    for (flags, words) in [
        ("--warmup 18446744073709551615", "warmup: 18446744073709551615 is above 9223372036854775807"),
        ("--widths 4,18446744073709551615 --blocks 1,1", "widths: 18446744073709551615 is above 9223372036854775807"),
        ("--lr 1e-300", &format!("lr: 1e-300 {bits}")),
        ("--lr 1e308", &format!("lr: 1e308 {bits}")),
        ("--lr=-1e-300", "lr: -1e-300 is not a positive number"),
        ("--vth 1e39", &format!("vth: 1e39 {bits}")),
        ("--vth 1e38", &format!("vth: 1e38 {products}")),
        ("--vth-bound 1e-30", &format!("vth-bound: 1e-30 {products}")),
        ("--eps 1e308", &format!("eps: 1e308 {bits}")),
        ("--weight-decay 1e300", &format!("weight-decay: 1e300 {bits}")),
        ("--clip-norm 1e300", &format!("clip-norm: 1e300 {bits}")),
        ("--momentum 1e300", "momentum: 1e300 is not in 0 ≤ momentum < 1"),
        ("--dropout 0.99999999", "dropout: 0.99999999 is 1 in 32 bits, which the engine computes with, and has to be below 1"),
        ("--mixup 1e300", "mixup: 1e300 is neither 0 nor in"),
        ("--gamma 1e300 --schedule multi-step", "gamma: 1e300 is not in 0 < gamma ≤ 1"),
    ] {
        let output = dsr(folder.path(), &format!("train --dry-run -d digits-8x8 {flags}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.starts_with(&format!("error: {words}")), "{flags}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let range = "and has to be in 1e-9..=1e9";
    let (high, rest) = ("and has to be at most 1e9: no potential gets there", "and a neuron at rest would fire in each step");
    for (flags, words) in [
        ("--neuron lif --delta-t 1e-40", "delta-t: 1e-40 is too short beside a tau of 1: nothing would change in a step".to_string()),
        ("--neuron lif --tau 1e-30 --delta-t 1e-30", format!("tau: 1e-30: 1 / tau is 1e30 {range}")),
        ("--neuron lif --tau 1 --delta-t 1e-9", "delta-t: 1e-9 is too short beside a tau of 1".into()),
        ("--neuron lif --tau 1e38 --delta-t 1e-3", format!("tau: 1e38: 1 / tau is 1e-38 {range}")),
        ("--neuron lif --tau 1.00001e9", format!("tau: 1000010000: 1 / tau is 9.9999e-10 {range}")),
        ("--neuron lif --tau 9.9999e-10", format!("tau: 9.9999e-10: 1 / tau is 1.00001e9 {range}")),
        ("--neuron lif --tau 1e-45", format!("tau: 1e-45: 1 / tau is 1.0e45 {range}")),
        ("--neuron lif --tau 1 --delta-t 1e9 --vth 0.5", format!("delta-t: 1000000000: vth / delta-t is 5e-10 {range}")),
        ("--neuron lif --tau 1e-9 --delta-t 1e3 --vth 0.5", format!("delta-t: 1000: vth * tau / delta-t is 5e-13 {range}")),
        (
            "--neuron lif --tau 1 --delta-t 1e-3 --readout spikes --vth-logits 1e7",
            format!("delta-t: 0.001: vth-logits / delta-t is 1e10 {range}"),
        ),
        ("--alpha 1e38", format!("alpha: 1e38: alpha * vth is 2e38 {high}")),
        ("--alpha 1e38 --vth 6", format!("alpha: 1e38: alpha * vth is 6.0e38 {high}")),
        ("--alpha 5.00001e8", format!("alpha: 500001000: alpha * vth is 1.000002e9 {high}")),
        ("--vth 1e9 --alpha 1e30", format!("alpha: 1e30: alpha * vth is 1.0e39 {high}")),
        ("--neuron lif --vth 1 --vth-pooled 1e9 --delta-t 1 --alpha 1e3", format!("alpha: 1000: alpha * vth-pooled is 1e12 {high}")),
        ("--vth-bound 1e9 --alpha 2", format!("alpha: 2: alpha * vth-bound is 2e9 {high}")),
        ("--alpha 1e-44", format!("alpha: 1e-44: alpha * vth-bound is 0 in 32 bits, {rest}")),
        ("--neuron lif --alpha 1e-44 --vth 1e-3 --delta-t 0.1", format!("alpha: 1e-44: alpha * vth is 0 in 32 bits, {rest}")),
    ] {
        let output = dsr(folder.path(), &format!("train --dry-run -d digits-8x8 {flags}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.starts_with(&format!("error: {words}")), "{flags}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    // The ends of a range are in it, though 1e-9 is less in 32 bits than in 64.
    for flags in [
        "--neuron lif --tau 2e4 --delta-t 1e3",
        "--neuron lif --tau 1e9 --delta-t 1e8 --vth 1",
        "--neuron lif --tau 1e-9 --delta-t 1e-9 --vth 1",
        "--neuron lif --vth 1e-9 --delta-t 1",
        "--neuron lif --vth 1e9 --delta-t 1",
        "--neuron lif --vth 0.3 --delta-t 3e8 --tau 1e8",
        "--neuron lif --vth 1 --delta-t 1e3 --tau 1e-6",
        "--alpha 5e8",
        "--alpha 1e-40",
        "--dropout 0.9999",
        "--vth 1e9",
        "--vth-bound 1e-9",
        "--lr 1e-30",
        "--weight-decay 0",
    ] {
        ok(folder.path(), &format!("train --dry-run -d digits-8x8 {flags}"));
    }
    fs::write(folder.path().join("c.toml"), "lr = 0.1\nwarmup = 18446744073709551616\n").unwrap();
    let output = dsr(folder.path(), "train --dry-run -d digits-8x8 --config c.toml");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.starts_with("error: c.toml: line 2: warmup: "), "{stderr}");
}

/// A flag that changes nothing is a mistake of somebody who waits for its effect.
#[test]
fn flags_that_the_neurons_have_no_use_for_are_refused() {
    let folder = tempdir().unwrap();
    ok(folder.path(), "train -d digits-8x8 --neuron relu --widths 4 --blocks 1 --epochs 1 --device cpu -q --out run");
    for flag in ["weight-bits 8", "alpha 0.3", "vth-bound 0.1", "tau 3", "vth 2"] {
        let output = dsr(folder.path(), &format!("eval --checkpoint run --{flag}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let words =
            "has no effect on a trained network: with --neuron relu the network is an ANN, which has no spikes and no thresholds; leave --";
        assert!(output.status.code() == Some(2) && stderr.contains(words) && stderr.lines().count() == 1, "{flag}: {stderr}");
    }
    for (flags, flag) in [
        ("--neuron relu --weight-gradient unrolled", "weight-gradient"),
        ("--neuron relu --vth 1", "vth"),
        ("--neuron relu --vth-bound 0.1", "vth-bound"),
        ("--neuron relu --tau 2", "tau"),
        ("--neuron relu --alpha 0.3", "alpha"),
        ("--neuron relu --threshold-grad-scale 2", "threshold-grad-scale"),
        ("--neuron relu --weight-bits 8", "weight-bits"),
        ("--neuron relu --threshold-init fixed", "threshold-init"),
        ("--neuron relu --freeze-thresholds=false", "freeze-thresholds"),
        ("--neuron if --tau 2", "tau"),
        ("--neuron if --delta-t 2", "delta-t"),
        ("profile -d digits-8x8 --neuron if --tau 3", "tau"),
        ("profile --neuron if --tau 3", "tau"),
        ("profile --neuron relu --weight-bits 8", "weight-bits"),
        ("bench latency --neuron if --tau 3", "tau"),
        ("bench throughput --neuron if,relu --delta-t 3", "delta-t"),
        ("bench throughput --neuron relu --weight-bits 8,16", "weight-bits"),
        ("bench decision --neuron if --tau 3", "tau"),
        ("calibrate --checkpoint run --neuron if --tau 3", "tau"),
    ] {
        let is_train = flags.starts_with("--");
        let output = dsr(folder.path(), &if is_train { format!("train --dry-run -d digits-8x8 {flags}") } else { flags.into() });
        let stderr = String::from_utf8(output.stderr).unwrap();
        let is_said =
            stderr.starts_with(&format!("error: {flag}: has no effect here: ")) && stderr.contains(&format!("leave --{flag} out"));
        assert!(output.status.code() == Some(2) && is_said, "{flags}: {stderr}");
    }
    ok(folder.path(), "train --dry-run -d digits-8x8 --neuron lif --tau 2 --delta-t 0.1");
    ok(folder.path(), "bench latency --neuron if,lif --tau 3 --widths 4 --blocks 1 --image 8x8x1 -T 1 --repeats 1 --warmup 0 -q");
    // A file of settings may serve several networks.
    fs::write(folder.path().join("c.toml"), "tau = 2.0\nvth = 1.0\n").unwrap();
    ok(folder.path(), "train --dry-run -d digits-8x8 --neuron relu --config c.toml");
}

/// Settings are text, and a path in them is, too.
#[cfg(unix)]
#[test]
fn a_path_that_is_no_text_is_refused_by_its_flag() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let path = OsStr::from_bytes(b"a\xffb");
    for (line, flag) in [
        ("train -d images --data-dir", "--data-dir"),
        ("data info -d images --data-dir", "--data-dir"),
        ("bench data -d images --data-dir", "--data-dir"),
        ("train -d images --data-dir x --cache-dir", "--cache-dir"),
    ] {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsr"));
        let output = command.args(line.split_whitespace()).arg(path).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let is_said = stderr.contains(flag) && stderr.contains("this is no UTF-8; rename it, or make a link to it with another name");
        assert!(output.status.code() == Some(2) && is_said, "{line}: {stderr}");
    }
}

/// What the system says of a file comes with what to do.
#[cfg(unix)]
#[test]
fn errors_of_the_system_say_what_to_do() {
    use std::os::unix::fs::symlink;
    let folder = tempdir().unwrap();
    let at = folder.path();
    symlink("nowhere", at.join("link")).unwrap();
    for class in ["a", "b"] {
        fs::create_dir_all(at.join("set").join(class)).unwrap();
        for index in 0..4 {
            image::RgbImage::new(8, 8).save(at.join(format!("set/{class}/{index}.png"))).unwrap();
        }
    }
    let list = |name: &str| format!("path,label\na/0.png,a\na/1.png,a\n{name},b\nb/1.png,b\n");
    fs::write(at.join("set/list.csv"), list("b/none.png")).unwrap();
    let info = "data info -d images --image-size 8 --val-share 0.5 --data-dir";
    let tiny = "train -d digits-8x8 --widths 4 --blocks 1 -T 1 --epochs 1 --device cpu";
    let dead = "it is a link that leads to nothing: mend it, or name another";
    // The line as an editor counts, whatever ends it; another column may have the same word.
    for (name, text) in [
        ("crlf.csv", "\u{feff}note,path,label\r\nb/none.png,a/0.png,a\r\n\r\n,a/1.png,a\r\n,b/none.png,b\r\n,b/1.png,b\r\n"),
        ("cells.csv", "path,label\r\na/0.png,a\r\n\r\na/1.png\r\n"),
        ("label.csv", "path,label\r\na/0.png,a\r\nb/1.png,\r\n"),
        ("split.csv", "path,label,split\r\na/0.png,a,train\r\nb/1.png,b,dev\r\n"),
        ("old.csv", "path,label\ra/0.png,a\rb/1.png,\r"),
    ] {
        fs::write(at.join("set").join(name), text).unwrap();
    }
    let events = "data info -d events --sensor 8x8 --data-dir";
    fs::write(at.join("set/events.csv"), "path,label,split\r\na.dat,a,train\r\nb.dat,b,train\r\nc.dat,a,test\r\nd.dat,b,test\r\n").unwrap();
    let line_2 = "set/a.dat: does not exist, and line 2 of set/events.csv names it: mend the list, or give --skip-unreadable N";
    ok(at, &format!("{events} set/events.csv --skip-unreadable 4"));
    for (line, words) in [
        (format!("{info} set/crlf.csv"), "set/b/none.png: does not exist, and line 5 of set/crlf.csv names it: mend the list"),
        (format!("{info} set/cells.csv"), "line 4 has 1 cells, and the first row has 2"),
        (format!("{info} set/label.csv"), "line 3 has no label; mend it"),
        (format!("{info} set/split.csv"), "line 3 has the split \"dev\""),
        (format!("{info} set/old.csv"), "line 3 has no label; mend it"),
        (format!("{events} set/events.csv"), line_2),
        (format!("{events} set/events.csv --skip-unreadable 3"), line_2),
        ("data info -d events --data-dir set/events.csv".into(), line_2),
        (format!("{info} set/list.csv"), "set/b/none.png: does not exist, and line 4 of set/list.csv names it: mend the list"),
        (format!("{tiny} --config nope.toml"), "nope.toml: No such file or directory (os error 2); check the path"),
        (format!("{tiny} --config link"), dead),
        (format!("{tiny} --out link"), dead),
        ("bench latency --widths 4 --blocks 1 -T 1 --image 8x8x1 --baseline nope.json".into(), "nope.json: No such file"),
    ] {
        let output = dsr(at, &line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(matches!(output.status.code(), Some(1 | 2)) && error.contains(words), "{line}: {stderr}");
        assert!(error.contains(':') && ["check", "mend", "known are"].iter().any(|word| error.contains(word)), "{line}: {stderr}");
    }
    symlink("nothing.png", at.join("set/a/dead.png")).unwrap();
    let output = dsr(at, &format!("{info} set"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("dead.png") && stderr.contains(dead), "{stderr}");
}
