//! `dsr classify` by the real binary: new pictures by trained networks, beside what `dsr eval` says of the same pictures.

#[path = "support/command.rs"]
mod command;
#[path = "support/own_sets.rs"]
mod own_sets;
#[path = "support/recordings.rs"]
mod recordings;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use command::{dsr, ok};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const KINDS: &str = ".jpg, .jpeg, .jpe, .jfif, .png, .webp, .bmp, .ppm, .pgm, .pbm, .pnm";
const TINY: &str = "--widths 4,8 --blocks 1,1 -T 3 -b 8 --epochs 1 -q";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Records of a CSV by the names of their columns.
fn records(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(Result::unwrap).collect()
}

/// A set of pictures in `set` and a run on it in `run`.
fn trained(flags: &str) -> TempDir {
    let folder = tempdir().unwrap();
    own_sets::splits(&folder.path().join("set"), "val", [8, 4]);
    ok(folder.path(), &format!("train -d images --data-dir set --image-size 12 {TINY} {flags} --out run"));
    folder
}

/// Prediction and logits of each file, as `eval` writes them, are those of `classify`, whatever the batch.
fn agrees_with_eval(folder: &Path, places: &str, flags: &str) {
    ok(folder, &format!("eval --checkpoint run --predictions p.csv -q {flags}"));
    let expected = records(&fs::read_to_string(folder.join("p.csv")).unwrap());
    for batch in ["", "-b 1", "-b 5"] {
        let (stdout, _) = ok(folder, &format!("classify {places} --checkpoint run --top 3 {batch} {flags} -o csv"));
        let found = records(&stdout);
        let paths = |rows: &[BTreeMap<String, String>]| rows.iter().map(|row| row["path"].clone()).collect::<Vec<_>>();
        assert_eq!(paths(&found), paths(&expected), "sorted, as the test split");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found["label"], expected["prediction"], "{flags} {batch}: {found:?}, eval {expected:?}");
            for place in ["", "_2", "_3"] {
                let logit = &expected[&format!("logit_{}", found[&format!("label{place}")])];
                assert_eq!(&found[&format!("logit{place}")], logit, "{flags} {batch}: {found:?}, eval {expected:?}");
            }
            let shares = ["", "_2", "_3"].map(|place| found[&format!("softmax{place}")].parse::<f64>().unwrap());
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
        }
    }
}

#[test]
fn predictions_are_those_of_eval() {
    for (flags, more) in
        [("", ""), ("--image-fit pad --channels 1 --readout spikes", "-T 2 --ties current"), ("--ema 0.9 --image-resize 14", "-T 5 --ema")]
    {
        let folder = trained(flags);
        agrees_with_eval(folder.path(), "set/val", more);
    }
}

/// Text, JSON and Markdown; names of classes; the newest run where none is named.
#[test]
fn every_form_says_the_same() {
    let folder = trained("--readout spikes");
    let at = folder.path();
    fs::create_dir(at.join("runs")).unwrap();
    fs::rename(at.join("run"), at.join("runs/oaks")).unwrap();
    let line = "classify set/val/oak/001.png set/val/ash --top 2";
    let (text, _) = ok(at, line);
    let found = json(&ok(at, &format!("{line} -o json")).0);
    let pictures = found["pictures"].as_array().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let headline = lines.iter().position(|line| line.starts_with("set/")).unwrap();
    let said = lines[..headline].join(" ").split_whitespace().collect::<Vec<_>>().join(" "); // it may go on in a second line
    assert!(
        ["runs/oaks/best.safetensors", "images set", "T = 3", "softmax of the logits"].iter().all(|word| said.contains(word)),
        "{said}"
    );
    let paths = ["set/val/oak/001.png", "set/val/ash/000.png", "set/val/ash/001.png", "set/val/ash/002.png", "set/val/ash/003.png"];
    assert_eq!(pictures.iter().map(|picture| picture["path"].as_str().unwrap()).collect::<Vec<_>>(), paths);
    for (line, picture) in lines[headline..].iter().zip(pictures) {
        let class = |class: &Value| format!("{} ({:.1} %)", class["class"].as_str().unwrap(), 100.0 * class["softmax"].as_f64().unwrap());
        let top: Vec<String> = picture["top"].as_array().unwrap().iter().map(class).collect();
        assert_eq!(*line, format!("{}: {}", picture["path"].as_str().unwrap(), top.join(", ")));
        let label = picture["top"][0]["label"].as_u64().unwrap() as usize;
        assert_eq!(picture["top"][0]["class"], ["ash", "birch", "oak"][label]);
    }
    assert_eq!(
        (&found["n"], &found["unreadable"], &found["time_steps"], &found["readout"]),
        (&5.into(), &0.into(), &3.into(), &"spikes".into())
    );
    let (markdown, _) = ok(at, &format!("{line} -o md"));
    assert_eq!(markdown.lines().filter(|line| line.starts_with("| set/")).count(), 5, "{markdown}");
    assert_eq!(ok(at, "classify set/val -b 1 -q --progress-every 0").1, "");
    let (_, stderr) = ok(at, "classify set/val -b 4 --progress-every 0");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("picture ")).count(), 2, "{stderr}");
}

#[test]
fn what_cannot_be_read_is_named_and_counted() {
    let folder = trained("");
    let at = folder.path();
    fs::create_dir_all(at.join("new/deep")).unwrap();
    fs::write(at.join("new/bad.png"), "no picture").unwrap();
    fs::write(at.join("new/other.tif"), "II").unwrap();
    fs::write(at.join("new/read.me"), "text").unwrap();
    fs::copy(at.join("set/val/oak/000.png"), at.join("new/deep/good.png")).unwrap();
    for (batch, form) in [("", "text"), ("-b 1", "json"), ("", "csv"), ("", "md")] {
        let output = dsr(at, &format!("classify new --checkpoint run {batch} -o {form}"));
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        let expected = ["note: left out 1 pictures of kinds", "error: new/bad.png: is no JPEG", "error: 1 of 2 pictures could not be read"];
        assert_eq!(lines.len(), 3, "{stderr}");
        assert!(lines.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{stderr}");
        assert!(stdout.contains("new/deep/good.png"), "{stdout}");
        match form {
            "json" => assert!(json(&stdout)["unreadable"] == 1 && json(&stdout)["pictures"][0]["error"].is_string(), "{stdout}"),
            "csv" => {
                let rows = records(&stdout);
                assert!(rows[0]["error"].contains("is no JPEG") && rows[0]["label"].is_empty() && rows[1]["error"].is_empty(), "{rows:?}");
            }
            _ => {}
        }
    }
    let (kinds, remedy) = (KINDS, "name another folder, or pictures one by one\n");
    let cases: &[(&str, &str)] = &[
        ("absent", "error: absent: does not exist; give pictures, or folders of them\n"),
        ("set/val new/deep absent/x.png", "error: absent/x.png: does not exist"),
        (".git", "error: .git: has no pictures (.jpg, "),
        ("run", &format!("error: run: has no pictures ({kinds}); not read, with a training run in it: run; {remedy}")),
        ("run/x.png new/deep run", "error: run: has no pictures"),
        #[cfg(unix)]
        (
            "links",
            &format!(
                "error: links: has no pictures ({kinds}) but 1 pictures of kinds that are not read (.tif, .tiff, .gif, .heic, .avif, .jp2, \
                 .jxl); not read, with a training run in it: links/run; not followed, a link to a folder above it: links/up; {remedy}"
            ),
        ),
    ];
    fs::create_dir(at.join(".git")).unwrap();
    fs::copy(at.join("new/deep/good.png"), at.join("run/x.png")).unwrap();
    fs::create_dir_all(at.join("links/run")).unwrap();
    for name in ["config.toml", "best.safetensors", "x.png"] {
        fs::copy(at.join("run").join(name), at.join("links/run").join(name)).unwrap();
    }
    fs::copy(at.join("new/other.tif"), at.join("links/other.tif")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../links", at.join("links/up")).unwrap();
    for (places, problem) in cases {
        let output = dsr(at, &format!("classify {places} --checkpoint run"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{places}: {stderr}");
        assert!(stderr.starts_with(problem) && stderr.lines().count() == 1, "{places}: {stderr}");
    }
}

/// Sets that are no files of pictures: a picture of one of their samples, of the same size, is that sample.
#[test]
fn pictures_suit_networks_of_built_in_sets() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    let saved = |name: &str, scale: usize| {
        let set = dsr::data::load(name, None).unwrap();
        let [height, width, channels] = set.shape;
        fs::create_dir_all(at.join(name)).unwrap();
        for index in 0..50 {
            let bytes: Vec<u8> = set.test.images.image(index).iter().map(|&byte| (usize::from(byte) * 255 / scale) as u8).collect();
            let kind = if channels == 3 { image::ExtendedColorType::Rgb8 } else { image::ExtendedColorType::L8 };
            let path = at.join(name).join(format!("{index:03}.png"));
            image::save_buffer(path, &bytes, width as u32, height as u32, kind).unwrap();
        }
    };
    let both = |name: &str| {
        ok(at, &format!("eval --checkpoint {name}-run --predictions {name}.csv -q"));
        let (stdout, _) = ok(at, &format!("classify {name} --checkpoint {name}-run -o csv"));
        (records(&stdout), records(&fs::read_to_string(at.join(format!("{name}.csv"))).unwrap()))
    };
    ok(at, &format!("train -d photo-patches-10 {TINY} --out photo-patches-10-run"));
    saved("photo-patches-10", 255);
    let (found, expected) = both("photo-patches-10");
    assert_eq!(found.len(), 50);
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!((&found["path"], &expected["index"]), (&format!("photo-patches-10/{index:03}.png"), &index.to_string()));
        assert_eq!((&found["label"], &found["logit"]), (&expected["prediction"], &expected[&format!("logit_{}", found["label"])]));
    }
    // 17 levels become 256, which moves a value by half a level of 255 at most, and with it few predictions.
    ok(at, &format!("train -d digits-8x8 {} --out digits-8x8-run", TINY.replace("--epochs 1", "--epochs 4")));
    saved("digits-8x8", 16);
    let (found, expected) = both("digits-8x8");
    let same = found.iter().zip(&expected).filter(|(found, expected)| found["label"] == expected["prediction"]).count();
    let labels: std::collections::BTreeSet<&String> = found.iter().map(|found| &found["label"]).collect();
    assert!(same >= 45 && labels.len() > 3, "{same} of 50, classes {labels:?}");
    // A colour picture of any size.
    own_sets::picture(1, 1, [30, 17]).save(at.join("wide.png")).unwrap();
    ok(at, "classify wide.png --checkpoint digits-8x8-run");
}

/// One line says what the network takes instead.
#[test]
fn networks_that_take_no_pictures_are_refused() {
    let folder = tempdir().unwrap();
    let at = folder.path();
    own_sets::picture(0, 0, [8, 8]).save(at.join("a.png")).unwrap();
    for (class, name) in ["ball", "cup"].iter().enumerate() {
        for split in ["train", "test"] {
            let inside = at.join("tree").join(split).join(name);
            fs::create_dir_all(&inside).unwrap();
            for seed in 0..4 {
                let events = recordings::of_class(class, seed, 200, [16, 16]);
                fs::write(inside.join(format!("{seed}.dat")), recordings::dat([16, 16], &events)).unwrap();
            }
        }
    }
    let labels: Vec<u8> = (0..24i64).flat_map(|n| (n % 3).to_le_bytes()).collect();
    let values: Vec<u8> = (0..24 * 2 * 8 * 8).flat_map(|n| ((n % 97) as f32 / 97.0).to_le_bytes()).collect();
    let made = |name: &str, sizes: &[usize], descr: &str| {
        let bytes = sizes.iter().product::<usize>() * if descr == "<f4" { 4 } else { 1 };
        let images = own_sets::npy(descr, sizes, &values[..bytes]);
        fs::write(at.join(name), own_sets::npz(&[("x", images), ("y", own_sets::npy("<i8", &[24], &labels))], false)).unwrap();
    };
    made("frames.npz", &[24, 2, 8, 8, 1], "<f4");
    made("numbers.npz", &[24, 8, 8, 1], "<f4");
    made("pairs.npz", &[24, 8, 8, 2], "|u1");
    let tiny = TINY.replace("-T 3", "-T 2");
    let cases = [
        ("-d events --data-dir tree", "recordings of an event camera, 2 frames of 16x16x2"),
        ("-d arrays --data-dir frames.npz --val-share 0.5", "samples of 2 frames of 8x8x1"),
        ("-d arrays --data-dir numbers.npz --val-share 0.5", "arrays of numbers with a point, 8x8x1"),
        ("-d arrays --data-dir pairs.npz --val-share 0.5", "samples of 8x8x2, no squares"),
    ];
    for (index, (set, takes)) in cases.into_iter().enumerate() {
        ok(at, &format!("train {set} {tiny} --out run{index}"));
        let output = dsr(at, &format!("classify a.png --checkpoint run{index}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let start = format!("error: checkpoint: its network takes {takes}");
        assert!(output.status.code() == Some(2) && stderr.starts_with(&start) && stderr.lines().count() == 1, "{set}: {stderr}");
    }
}

#[test]
fn wrong_lines_say_what_is_wrong() {
    let folder = trained("");
    let at = folder.path();
    ok(at, "export --checkpoint run --out exported.safetensors");
    ok(at, "export --checkpoint run --fold-norms --out folded.safetensors");
    let picture = "classify set/val/oak/001.png";
    assert_eq!(
        ok(at, &format!("{picture} --checkpoint exported.safetensors -q")).0.lines().last(),
        ok(at, &format!("{picture} --checkpoint run -q")).0.lines().last()
    );
    let cases = [
        ("classify", 2, "required arguments"),
        ("classify set/val", 2, "checkpoint: there is none under runs/"),
        ("classify set/val --checkpoint run --top 0", 2, "--top"),
        ("classify set/val --checkpoint run -T 0", 2, "error: time-steps: 0 is not in 1..=255"),
        ("classify set/val --checkpoint run -b 0", 2, "error: batch"),
        ("classify set/val --checkpoint run --ties current", 2, "error: ties: current has no effect"),
        ("classify set/val --checkpoint run --seed 1", 2, "error: seed: dsr classify has no use for it"),
        ("classify set/val --checkpoint folded.safetensors", 1, "export without --fold-norms"),
        ("classify set/val --checkpoint run --ema", 1, "holds no average of its weights"),
        ("classify set/val --checkpoint set/val/oak/001.png", 1, "error: set/val/oak/001.png: "),
    ];
    for (line, code, problem) in cases {
        let output = dsr(at, line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && stderr.contains(problem) && output.stdout.is_empty(), "dsr {line}: {stderr}");
    }
}
