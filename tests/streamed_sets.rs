//! DVS-CIFAR10 and ImageNet as a user runs them: the real binary, tiny sets, tiny networks.

use std::fs;
use std::path::Path;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use streamed_sets::{photos, recording, recordings};

const EVENTS: &str = "-d dvs-cifar10 --data-dir events --event-size 16";
const PHOTOS: &str = "-d imagenet --data-dir photos --image-size 24 --image-resize 28";
/// Four or fewer steps an epoch.
const TINY: &str = "--widths 4,8 --blocks 1,1 -T 4 --epochs 2 -b 8 --crop-pad 0";

fn sets() -> TempDir {
    let folder = tempdir().unwrap();
    recordings(&folder.path().join("events"), &[0, 898, 899, 900]);
    photos(&folder.path().join("photos"));
    folder
}

/// Exit code, stdout and stderr.
fn dsr(folder: &Path, line: &str) -> (i32, String, String) {
    let mut command = std::process::Command::new(cargo_bin("dsr"));
    let output = command.current_dir(folder).args(line.split_whitespace()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Runs a line that must succeed and gives its stdout and stderr.
#[track_caller]
fn ok(folder: &Path, line: &str) -> (String, String) {
    let (code, stdout, stderr) = dsr(folder, line);
    assert_eq!(code, 0, "dsr {line}: {stderr}");
    (stdout, stderr)
}

/// Runs a line that must fail with `code` and an error that has all `words`; gives stdout.
#[track_caller]
fn fails(folder: &Path, line: &str, code: i32, words: &[&str]) -> String {
    let (found, stdout, stderr) = dsr(folder, line);
    assert_eq!(found, code, "dsr {line}: {stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("dsr {line}: no error in {stderr:?}"));
    for word in words {
        assert!(error.contains(word), "dsr {line}: {word:?} is missing in {error:?}");
    }
    stdout
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn recordings_are_trained_on_and_measured() {
    let folder = sets();
    let root = folder.path();
    let (_, stderr) = ok(root, &format!("train {EVENTS} {TINY} --crop-pad 2 --neuron lif --out first"));
    assert!(stderr.contains("making frames of 40 recordings"), "{stderr}");
    assert!(stderr.contains("on dvs-cifar10 (split dsr) (30 + 10 images)"), "{stderr}");
    let config = fs::read_to_string(root.join("first/config.toml")).unwrap();
    for line in ["event_split = \"dsr\"", "event_frames = \"number\"", "event_orientation = \"dsr\"", "event_size = 16", "crop_pad = 2"] {
        assert!(config.lines().any(|found| found == line), "{line} is missing in {config}");
    }
    // The same bytes from the cache, on one thread.
    let (_, stderr) = ok(root, &format!("train {EVENTS} {TINY} --crop-pad 2 --neuron lif --out second --threads 1"));
    assert!(!stderr.contains("making frames"), "{stderr}");
    let bytes = |run: &str| fs::read(root.join(run).join("last.safetensors")).unwrap();
    assert!(bytes("first") == bytes("second"));
    // Another T is another set of frames.
    let (stdout, _) = ok(root, "eval --checkpoint first -T 4,2 -o json");
    let result = json(&stdout);
    assert_eq!((&result["dataset"], &result["event_split"], &result["n"]), (&"dvs-cifar10".into(), &"dsr".into(), &10.into()));
    assert_eq!(result["results"].as_array().unwrap().len(), 2);
    assert!(root.join("events/.dsr-cache/dvs-cifar10-t2-number-dsr-16.frames").exists());
    let alone = json(&ok(root, "eval --checkpoint first -T 2 -o json").0);
    assert_eq!(alone["results"][0]["loss"], result["results"][1]["loss"]);
    // The other split, with its name; the recordings 0 of each class.
    let (stdout, _) = ok(root, "eval --checkpoint first --event-split spikingjelly");
    let in_one_line = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(in_one_line.contains("on dvs-cifar10 (split spikingjelly), 10 test images"), "{stdout}");
    fails(root, "train --resume auto --out first --event-frames time", 2, &["event-frames", "\"number\"", "\"time\""]);
}

#[test]
fn photos_are_trained_on_and_measured() {
    let folder = sets();
    let root = folder.path();
    ok(root, &format!("train {PHOTOS} {TINY} --out whole"));
    let whole = fs::read(root.join("whole/last.safetensors")).unwrap();
    let result = json(&ok(root, "eval --checkpoint whole -b 3 -o json").0);
    assert_eq!((&result["n"], result["event_split"].is_null()), (&6.into(), true));
    assert!(!root.join("photos/.dsr-cache").exists());

    // A photo that cannot be read stops the run with its name; what was trained is kept, and the run goes on when it is back.
    for (part, bad) in [("train", "photos/train/n03/n03_2.JPEG"), ("val", "photos/val/n02/n02_1.png")] {
        let good = fs::read(root.join(bad)).unwrap();
        fs::write(root.join(bad), &good[..good.len() / 2]).unwrap();
        let words = [bad, "get it again"];
        fails(root, &format!("train {PHOTOS} {TINY} --out {part} --threads 1"), 1, &words);
        if part == "val" {
            fails(root, "eval --checkpoint whole", 1, &words);
        }
        fs::write(root.join(bad), &good).unwrap();
        ok(root, &format!("train --resume auto --out {part}"));
        assert!(fs::read(root.join(part).join("last.safetensors")).unwrap() == whole, "{part}");
    }
}

#[test]
fn unreadable_files_are_left_out_where_that_is_allowed() {
    let folder = sets();
    let root = folder.path();
    fs::write(root.join("photos/train/n03/n03_2.JPEG"), "no photo").unwrap();
    fs::write(recording(&root.join("events"), "cat", 0), "no recording").unwrap();
    for (set, counts) in [(PHOTOS, "(11 + 6 images)"), (EVENTS, "(29 + 10 images)")] {
        fails(root, &format!("train {set} {TINY} --out run"), 1, &["get it again"]);
        let (_, stderr) = ok(root, &format!("train {set} {TINY} --skip-unreadable 1 --out {}", set.len()));
        assert!(stderr.contains("left out 1 file") && stderr.contains(counts), "{stderr}");
    }
}

#[test]
fn sets_can_be_looked_at() {
    let folder = sets();
    let root = folder.path();
    let (stdout, _) = ok(root, &format!("data info {EVENTS} -T 5"));
    for part in ["recordings as 5 frames of 16x16", "split dsr (recordings 900 to 999", "train      30 files", "9 truck           3      1"]
    {
        assert!(stdout.contains(part), "{part:?} is missing in {stdout}");
    }
    assert!(stdout.lines().all(|line| line.chars().count() <= 100), "{stdout}");
    let (stdout, _) = ok(root, &format!("data info {PHOTOS}"));
    for part in ["images of 24x24, 3 channels", "mean 0.4850 0.4560 0.4060", "test        6 files", "2 n03      4      2"] {
        assert!(stdout.contains(part), "{part:?} is missing in {stdout}");
    }
    let info = json(&ok(root, &format!("data info {EVENTS} -o json")).0);
    assert_eq!((&info["frames"], &info["train"]["crc32c"], &info["test"]["images"]), (&20.into(), &Value::Null, &10.into()));
    for (set, size) in [(EVENTS, (3 * 34 + 2, 10 * 34 + 2)), (PHOTOS, (4 * 66 + 2, 3 * 66 + 2))] {
        ok(root, &format!("data sheet {set} --out sheet.png"));
        assert_eq!(image::image_dimensions(root.join("sheet.png")).unwrap(), size);
    }
    // A part of a set is not the published one; nothing of it is made.
    fails(root, &format!("data verify {PHOTOS}"), 1, &["12 training images, published are 1281167", "6 test images, published are 50000"]);
    fs::write(root.join("photos/val/n01/n01_0.JPEG"), "").unwrap();
    fs::write(recording(&root.join("events"), "bird", 0), "#!AER-DAT3.1\r\n").unwrap();
    for (set, file) in [(PHOTOS, "photos/val/n01/n01_0.JPEG: is empty"), (EVENTS, "cifar10_bird_0.aedat: is AEDAT 3.x")] {
        let stdout = fails(root, &format!("data verify {set}"), 1, &["1 files cannot be read"]);
        assert!(stdout.lines().count() == 1 && stdout.contains(file), "{stdout}");
        let (code, stdout, _) = dsr(root, &format!("data verify {set} -o json"));
        assert_eq!((code, json(&stdout)["unreadable"].as_array().unwrap().len()), (1, 1));
    }
    assert!(!root.join("events/.dsr-cache").exists());
}

#[test]
fn what_training_reads_in_spite_of_damage_is_named_before() {
    let folder = sets();
    let root = folder.path();
    let whole = fs::read(root.join("photos/train/n01/n01_3.JPEG")).unwrap();
    let half = whole.len() / 2;
    fs::write(root.join("photos/train/n01/two.jpg"), [&whole[..half], &whole].concat()).unwrap();
    fs::write(root.join("photos/train/n02/gap.jpg"), [&whole[..half], &whole[half + 60..]].concat()).unwrap();
    let stdout = fails(root, &format!("data verify {PHOTOS}"), 1, &["14 training images", "2 files cannot be read"]);
    let (_, _, lines) = dsr(root, &format!("data verify {PHOTOS} --progress-every 0"));
    assert_eq!(lines.lines().filter(|line| line.starts_with("read, file ")).count(), 19, "a log file has lines of progress: {lines}");
    for line in ["n01/two.jpg: is a damaged JPEG: ", "n02/gap.jpg: is a damaged JPEG: bytes are missing inside; get it again"] {
        assert!(stdout.contains(line), "{line:?} is missing in {stdout}");
    }
    ok(root, &format!("train {PHOTOS} {TINY} --epochs 1 --out lenient"));
    let (_, stderr) = ok(root, &format!("train {PHOTOS} {TINY} --epochs 1 --skip-unreadable 2 --out strict"));
    assert!(stderr.contains("left out 2 files") && stderr.contains("(12 + 6 images)"), "{stderr}");
    // Too large for its file, or of a kind that a decoder cannot have: named, and no panic on stderr.
    let damaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/damaged");
    for name in ["42-byte.png", "panic.jpg"] {
        fs::copy(damaged.join(name), root.join("photos/val/n03").join(name)).unwrap();
    }
    let (code, stdout, stderr) = dsr(root, &format!("data verify {PHOTOS}"));
    assert!(code == 1 && stdout.contains("42-byte.png: promises 20x8388624 pixels") && !stderr.contains("panicked"), "{stdout}{stderr}");
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
}

#[cfg(unix)]
#[test]
fn what_the_system_says_is_passed_on_once() {
    let folder = sets();
    let root = folder.path();
    std::os::unix::fs::symlink("nothing", root.join("photos/train/n02/a.jpg")).unwrap();
    let (code, _, stderr) = dsr(root, &format!("train {PHOTOS} {TINY} --out run"));
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(code == 1 && error.contains("photos/train/n02/a.jpg: No such file"), "{stderr}");
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
    let (_, stderr) = ok(root, &format!("train {PHOTOS} {TINY} --epochs 1 --skip-unreadable 1 --out run2"));
    assert!(stderr.contains("left out 1 file") && stderr.contains("(12 + 6 images)"), "{stderr}");
}

#[test]
fn a_clock_that_jumps_is_named_before_training() {
    let folder = sets();
    let root = folder.path();
    let path = recording(&root.join("events"), "frog", 898);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last - 800] |= 0x40; // a time of the 100th event before the last
    fs::write(&path, bytes).unwrap();
    fails(root, &format!("data verify {EVENTS}"), 1, &["30 training images"]);
    let stdout = fails(root, &format!("data verify {EVENTS} --event-frames time"), 1, &["1 files cannot be read"]);
    assert!(stdout.contains("cifar10_frog_898.aedat: has a clock that goes forward by"), "{stdout}");
    fails(root, &format!("train {EVENTS} {TINY} --event-frames time --out run"), 1, &["cifar10_frog_898.aedat: has a clock"]);
}

#[test]
fn a_sheet_shows_the_orientation() {
    let folder = sets();
    let root = folder.path();
    let mut sheets = ["dsr", "spikingjelly"].map(|orientation| {
        let (stdout, _) = ok(root, &format!("data sheet {EVENTS} --event-orientation {orientation} --out {orientation}.png"));
        assert!(stdout.starts_with(&format!("wrote {orientation}.png (split dsr ")), "{stdout}");
        assert!(stdout.contains(&format!("orientation {orientation}")) && !stdout.contains("upright"), "{stdout}");
        image::open(root.join(format!("{orientation}.png"))).unwrap().into_rgb8()
    });
    // The first picture of one is that of the other, turned.
    let first = |sheet: &mut image::RgbImage| image::imageops::crop(sheet, 2, 2, 32, 32).to_image();
    let [dsr, spikingjelly] = [first(&mut sheets[0]), first(&mut sheets[1])];
    assert!(dsr != spikingjelly && image::imageops::rotate90(&dsr) == spikingjelly);
}

#[test]
fn frames_are_made_before_training() {
    let folder = sets();
    let root = folder.path();
    let (stdout, stderr) = ok(root, &format!("data convert {EVENTS} -T 3 --cache-dir made"));
    let path = "made/dvs-cifar10-t3-number-dsr-16.frames";
    assert_eq!(stdout, format!("dvs-cifar10: 30 + 10 recordings, each as 3 frames of 16x16:\n  {path} (0.2 MB)\n"));
    assert!(stderr.contains("making frames of 40 recordings"), "{stderr}");
    let again = json(&ok(root, &format!("data convert {EVENTS} -T 3 --cache-dir made -o json")).0);
    let bytes = root.join(path).metadata().unwrap().len();
    assert_eq!((&again["frames"], &again["bytes"]), (&path.into(), &bytes.into()));
    let (_, stderr) = ok(root, &format!("train {EVENTS} {TINY} -T 3 --epochs 1 --cache-dir made --out run"));
    assert!(!stderr.contains("making frames"), "{stderr}");
    assert!(!root.join("events/.dsr-cache").exists());
    let (stdout, _) = ok(root, &format!("data convert {PHOTOS}"));
    assert_eq!(stdout, "imagenet: 12 + 6 images; they are decoded while training\n");
    let (stdout, _) = ok(root, "data convert -d digits-8x8");
    assert_eq!(stdout, "digits-8x8: 1437 + 360 images; there is nothing to convert\n");
}

/// Every file counts, and the last one is told by the result.
#[test]
fn conversion_and_verification_write_lines_of_progress() {
    let folder = sets();
    let root = folder.path();
    let lines = |line: &str, start: &str| -> Vec<String> {
        let (_, stderr) = ok(root, line);
        stderr.lines().filter(|line| line.starts_with(start)).map(String::from).collect()
    };
    // Four recordings for each thread at once.
    let converted = lines(&format!("data convert {EVENTS} -T 2 --cache-dir one --threads 1 --progress-every 0"), "converted, file ");
    assert_eq!(converted.len(), 9, "{converted:?}");
    for (line, done) in converted.iter().zip((4..).step_by(4)) {
        assert!(line.starts_with(&format!("converted, file {done}/40")) && line.chars().count() <= 80, "{line}");
    }
    assert!(converted[1..].iter().all(|line| line.ends_with(" left")), "{converted:?}");
    let verified = lines(&format!("data info {PHOTOS} --progress-every 0"), "read, file ");
    assert!(verified.is_empty(), "{verified:?}");
    for quiet in ["", "-q --progress-every 0"] {
        let line = format!("data convert {EVENTS} -T 2 --cache-dir two{} {quiet}", quiet.len());
        assert!(lines(&line, "converted, file ").is_empty(), "not before a minute has gone, and not with -q");
    }
    let (_, _, stderr) = dsr(root, &format!("data verify {PHOTOS} --threads 1 --progress-every 0"));
    let read: Vec<&str> = stderr.lines().filter(|line| line.starts_with("read, file ")).collect();
    assert!(read.len() == 17 && read[0].starts_with("read, file 1/18") && read[16].starts_with("read, file 17/18"), "{stderr}");
}

#[test]
fn wrong_settings_are_named() {
    let folder = sets();
    let cases: [(&str, i32, &[&str]); 8] = [
        ("train -d imagenet", 2, &["data-dir: imagenet is read from disk", "docs/data.md"]),
        ("train -d dvs-cifar10 --data-dir nowhere", 1, &["nowhere: does not exist", "docs/data.md"]),
        ("train -d dvs-cifar10 --data-dir events --event-size 129", 2, &["event-size: 129 is not in 1..=128"]),
        ("train -d dvs-cifar10 --data-dir events --event-size 16 -T 4 -b 4", 2, &["input size", "32 to 63 pixels"]),
        ("train -d imagenet --data-dir photos --image-resize 100", 2, &["image-resize: 100 is not in 224..=4096"]),
        ("train -d imagenet --data-dir photos --crop-scale 0.5,0.1", 2, &["crop-scale: 0.5,0.1"]),
        ("train -d imagenet --data-dir photos --crop-pad 4", 2, &["crop-pad: 4", "--crop-scale"]),
        ("data info -d dvs-cifar10 --data-dir photos", 1, &["photos/airplane: does not exist"]),
    ];
    for (line, code, words) in cases {
        fails(folder.path(), line, code, words);
    }
}

#[test]
fn a_checkpoint_of_another_number_of_classes_is_refused() {
    let folder = sets();
    let root = folder.path();
    ok(root, &format!("train {PHOTOS} {TINY} --epochs 1 --out run"));
    for part in ["train", "val"] {
        let class = root.join("photos").join(part).join("n04");
        fs::create_dir(&class).unwrap();
        fs::copy(root.join("photos/val/n01/n01_1.png"), class.join("a.png")).unwrap();
    }
    fails(root, "eval --checkpoint run", 1, &["run/best.safetensors", "4", "3"]);
}
