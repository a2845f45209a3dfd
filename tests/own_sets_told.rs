//! Sets of one's own: which flags each command takes for them, and what a user is told of folders, lists and files that are not what they
//! look like. The real binary.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

#[path = "support/lines.rs"]
mod lines;
use lines::{dsr, in_one_line, json, ok};
#[path = "support/own_sets.rs"]
mod own_sets;
use own_sets::{heap, npy, npz, splits};
#[path = "support/recordings.rs"]
mod formats;
use formats::{atis, dat, of_class};

const TINY: &str = "--image-size 12 --widths 4,8 --blocks 1,1 -T 4 --epochs 1 -b 8 --crop-pad 1 --device cpu";
const ONCE: &str = "-b 4 --warmup 0 --repeats 1";

/// Pictures without a split, and with one.
fn pictures() -> TempDir {
    let folder = tempdir().unwrap();
    heap(&folder.path().join("heap"), 8);
    splits(&folder.path().join("photos"), "val", [5, 2]);
    folder
}

/// Recordings that do not state their camera.
fn recordings(root: &Path) {
    for (class, name) in ["ball", "cup"].iter().enumerate() {
        fs::create_dir_all(root.join(name)).unwrap();
        for seed in 0..8 {
            fs::write(root.join(name).join(format!("{seed}.bin")), atis(&of_class(class, seed, 200, [34, 34]))).unwrap();
        }
    }
}

/// A file of parameters as PyTorch's users have it: without settings.
fn without_settings(checkpoint: &Path, plain: &Path) {
    let bytes = fs::read(checkpoint).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.as_object_mut().unwrap().remove("__metadata__");
    let header = header.to_string();
    fs::write(plain, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat()).unwrap();
}

#[test]
fn loaders_are_timed_with_the_flags_of_training() {
    let folder = pictures();
    let root = folder.path();
    recordings(&root.join("events"));
    let cases = [
        ("-d images --data-dir heap --val-share 0.25 --image-size 20 --channels 1 --image-fit pad", "20x20x1", [18, 6]),
        ("-d images --data-dir photos --image-size 14 --image-resize 16 --crop-scale 0.3,1 --crop-pad 0", "14x14x3", [15, 6]),
        ("-d images --data-dir photos --image-size 14 --mean 0,0,0 --std 1,1,1 --auto-augment cifar10 --cutout 3", "14x14x3", [15, 6]),
        ("-d events --data-dir events --val-share 0.25 --sensor 34x34 --frame-size 17x34 --frame-ms 1 -T 3", "3x17x34x2", [12, 4]),
        ("-d events --data-dir events --val-share 0.25 --sensor 34x34 --event-frames time -T 1 --event-drop 0.1", "34x34x2", [12, 4]),
    ];
    for (flags, image, samples) in cases {
        let result = json(&ok(root, &format!("bench data {flags} {ONCE} -o json")).0);
        let found: Vec<(&Value, &Value)> =
            result["cases"].as_array().unwrap().iter().map(|case| (&case["image"], &case["images"])).collect();
        assert_eq!(found, samples.map(|n| (Value::from(image), Value::from(n))).each_ref().map(|(image, n)| (image, n)), "{flags}");
    }
    let refused = [
        ("-d images --data-dir heap", "val-share: heap says of no pictures that they are for testing"),
        ("-d images --data-dir photos --val-share 0.2", "val-share: has no effect here: images photos has a test split of its own"),
        ("-d digits-8x8 --sensor 34x34", "sensor: digits-8x8 has no such setting, only events has; leave --sensor away"),
        ("-d images,digits-8x8 --data-dir photos --channels 1", "channels: digits-8x8 has no such setting, only images has"),
        ("-d images --data-dir photos --image-size 8 --crop-pad 9", "crop-pad: a padding of 9 pixels could cut an image of 8x8 away"),
    ];
    for (flags, problem) in refused {
        let (code, _, stderr) = dsr(root, &format!("bench data {flags} {ONCE}"));
        assert!(code == 2 && in_one_line(&stderr).contains(problem), "{flags}: {code} {stderr}");
    }
}

/// A file without settings does not say which share of a heap is for testing.
#[test]
fn a_share_to_test_on_can_be_said_to_every_command() {
    let folder = pictures();
    let root = folder.path();
    let set = "-d images --data-dir heap --val-share 0.25";
    ok(root, &format!("train {set} {TINY} -q --out run"));
    without_settings(&root.join("run/last.safetensors"), &root.join("plain.safetensors"));
    let network = "--image-size 12 --widths 4,8 --blocks 1,1 -T 4 --device cpu";
    let result = |line: &str| json(&ok(root, &format!("eval {line} -o json")).0);
    let (ours, plain) =
        (result("--checkpoint run/last.safetensors --device cpu"), result(&format!("--checkpoint plain.safetensors {set} {network}")));
    assert_eq!((&ours["n"], &ours["results"][0]["loss"]), (&plain["n"], &plain["results"][0]["loss"]));
    let (code, _, stderr) = dsr(root, &format!("eval --checkpoint plain.safetensors -d images --data-dir heap {network}"));
    assert!(code == 2 && stderr.contains("give --val-share 0.2"), "{stderr}");
    // Another share may test on what was trained on.
    let (_, stderr) = ok(root, "eval --checkpoint run --val-share 0.5 --device cpu");
    let note = "was trained with --val-share 0.25: by 0.5, samples may be tested on that it was trained on";
    assert!(in_one_line(&stderr).contains(note), "{stderr}");
    let (_, stderr) = ok(root, "eval --checkpoint run --val-share 0.25 --device cpu");
    assert!(!stderr.contains("was trained with"), "{stderr}");
    ok(root, &format!("profile {set} {network} -b 4 --steps 1 --warmup 0 -q"));
    // An ANN without settings, too.
    ok(root, &format!("train {set} {} --neuron relu -q --out ann", TINY.replace("-T 4", "")));
    without_settings(&root.join("ann/last.safetensors"), &root.join("ann.safetensors"));
    let line = format!("calibrate --checkpoint ann.safetensors {set} {network} --out calibrated.safetensors -q");
    ok(root, &line);
    ok(root, "eval --checkpoint calibrated.safetensors --device cpu -q");
    ok(root, "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 1 --device cpu -q --out digits");
    for line in ["eval --checkpoint digits", "profile --checkpoint digits --steps 1 --warmup 0", "bench decision --checkpoint digits"] {
        let (code, _, stderr) = dsr(root, &format!("{line} --val-share 0.2 --device cpu"));
        assert!(code == 2 && stderr.contains("val-share: has no effect here: digits-8x8 has a test split of its own"), "{line}: {stderr}");
    }
}

/// Gives each file below `folder` the same time of its last change.
fn at_one_time(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            at_one_time(&path);
        } else {
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        }
    }
}

/// The same names, lengths and times, of other contents: events mirrored, pictures of another colour.
fn twins(root: &Path) {
    for (set, first) in [("one", 0), ("two", 1)] {
        for (class, name) in ["ball", "cup"].iter().enumerate() {
            let at = root.join("events").join(set).join(name);
            fs::create_dir_all(&at).unwrap();
            let at_pictures = root.join("pictures").join(set).join(name);
            fs::create_dir_all(&at_pictures).unwrap();
            for seed in 0..8 {
                fs::write(at.join(format!("{seed}.dat")), dat([34, 34], &of_class(class + first, seed, 200, [34, 34]))).unwrap();
                let colour = image::Rgb([10 * seed as u8, 90 * (class as u8 + first as u8), 7]);
                image::RgbImage::from_pixel(12, 12, colour).save(at_pictures.join(format!("{seed}.ppm"))).unwrap();
            }
        }
    }
    at_one_time(root);
}

#[test]
fn sets_that_share_a_cache_folder_keep_their_own_files() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    twins(root);
    for (kind, flags) in [("events", "-d events"), ("pictures", "-d images --image-size 12")] {
        let line = |set: &str| format!("{flags} --data-dir {kind}/{set} --val-share 0.25 -T 4");
        for set in ["one", "two", "one", "two"] {
            ok(root, &format!("data convert {} --cache-dir made", line(set)));
        }
        let train = |set: &str, more: &str| {
            let tiny = "--widths 4,8 --blocks 1,1 --epochs 1 -b 4 --crop-pad 1 --device cpu";
            let (_, stderr) = ok(root, &format!("train {} {tiny} {more}", line(set)));
            assert!(more.contains("apart") || !stderr.contains("making frames"), "{stderr}");
            let bytes = fs::read(root.join(more.split(' ').next_back().unwrap()).join("last.safetensors")).unwrap();
            bytes[8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize..].to_vec()
        };
        let shared = ["one", "two"].map(|set| train(set, &format!("--cache-dir made --out {kind}-{set}-shared")));
        let alone = ["one", "two"].map(|set| train(set, &format!("--out {kind}-{set}-apart")));
        assert!(shared == alone && alone[0] != alone[1], "{kind}");
    }
    // What cannot be read of one is not what cannot be read of the other.
    let damaged = root.join("events/one/cup/3.dat");
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, vec![b'x'; bytes.len()]).unwrap();
    at_one_time(root);
    let left = |set: &str| {
        let flags = "--val-share 0.25 -T 4 --skip-unreadable 1 --cache-dir made";
        json(&ok(root, &format!("data convert -d events --data-dir events/{set} {flags} -o json")).0)
    };
    let counts = |result: Value| ["train", "test"].iter().map(|part| result[part].as_u64().unwrap()).sum::<u64>();
    assert_eq!(["one", "two", "one", "two"].map(|set| counts(left(set))), [15, 16, 15, 16]);
}

#[test]
fn lists_in_one_folder_keep_their_own_frames() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    twins(root);
    for (list, set) in [("a.csv", "one"), ("b.csv", "two")] {
        let rows: String =
            ["ball", "cup"].iter().flat_map(|class| (0..8).map(move |n| format!("events/{set}/{class}/{n}.dat,{class}\n"))).collect();
        fs::write(root.join(list), format!("path,label\n{rows}")).unwrap();
    }
    for (round, list) in ["a.csv", "b.csv", "a.csv", "b.csv"].iter().enumerate() {
        let (_, stderr) = ok(root, &format!("data convert -d events --data-dir {list} --val-share 0.25 -T 4"));
        assert_eq!(stderr.contains("making frames"), round < 2, "{list}: {stderr}");
    }
    // A folder that is moved keeps what was made of it.
    ok(root, "data convert -d events --data-dir events/one --val-share 0.25 -T 4");
    fs::rename(root.join("events/one"), root.join("moved")).unwrap();
    let (_, stderr) = ok(root, "data convert -d events --data-dir moved --val-share 0.25 -T 4");
    assert!(!stderr.contains("making frames"), "{stderr}");
}

#[test]
fn a_recording_of_another_camera_is_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    twins(root);
    let other = root.join("events/one/cup/5.dat");
    fs::write(&other, dat([30, 30], &of_class(1, 5, 200, [30, 30]))).unwrap();
    let line = "data convert -d events --data-dir events/one --val-share 0.25 -T 4";
    let (code, _, stderr) = dsr(root, line);
    let problem = "cup/5.dat: states a camera of 30x30 pixels, and that of the set has 34x34 (--sensor, or its first recording)";
    assert!(code == 1 && stderr.contains(problem), "{stderr}");
    let (code, _, stderr) = dsr(root, &format!("{line} --sensor 40x40"));
    assert!(code == 1 && stderr.contains("states a camera of 34x34 pixels, and that of the set has 40x40"), "{stderr}");
    let (stdout, stderr) = ok(root, &format!("{line} --skip-unreadable 1 -o json"));
    let result = json(&stdout);
    let left = result["train"].as_u64().unwrap() + result["test"].as_u64().unwrap();
    assert!(stderr.contains("left out 1 files") && left == 15, "{stderr}");
}

#[test]
fn runs_and_other_folders_become_no_classes() {
    let folder = pictures();
    let root = folder.path();
    let line = format!("train -d images --data-dir heap --val-share 0.25 {TINY}");
    let trained = |out: &str| {
        let (_, stderr) = ok(root, &format!("{line} --out {out}"));
        assert!(stderr.contains("(18 + 6 images)"), "{stderr}");
        (fs::read(root.join(out).join("last.safetensors")).unwrap(), stderr)
    };
    let (before, _) = trained("run");
    trained("heap/run");
    trained("heap/runs/first");
    fs::copy(root.join("heap/ash/000.png"), root.join("heap/runs/sheet.png")).unwrap();
    trained("heap/oak/run"); // inside of a class, whose pictures stay
    fs::create_dir_all(root.join("heap/notes/old")).unwrap();
    fs::write(root.join("heap/notes/old/readme.txt"), "no picture").unwrap();
    fs::copy(root.join("heap/ash/000.png"), root.join("heap/loose.png")).unwrap();
    let (after, stderr) = trained("again");
    assert!(before == after);
    for note in [
        "note: left out, since runs of a training are in it: heap/oak/run, heap/run, heap/runs",
        "note: left out, with no pictures in it: heap/notes",
        "note: not read: 1 pictures beside the folders in heap",
    ] {
        assert!(stderr.lines().any(|line| line == note), "{note}: {stderr}");
    }
    // A class whose pictures are of kinds that are not read is no other folder.
    fs::create_dir(root.join("heap/elm")).unwrap();
    fs::write(root.join("heap/elm/1.gif"), "").unwrap();
    let (code, _, stderr) = dsr(root, &line);
    assert!(code == 1 && stderr.contains("heap/elm: has no pictures (.jpg"), "{stderr}");
    // Beside the splits, and of a published set.
    ok(root, &format!("train -d images --data-dir photos {TINY} -q --out photos/runs/first"));
    fs::create_dir_all(root.join("photos/extra/ash")).unwrap();
    fs::create_dir_all(root.join("photos/test")).unwrap();
    let (_, stderr) = ok(root, "data sheet -d images --data-dir photos --image-size 12 --out sheet.png");
    assert!(stderr.lines().any(|line| line == "note: not read: extra/, test/"), "{stderr}");
    recordings(&root.join("things/Caltech101"));
    let things = "-d n-caltech101 --data-dir things/Caltech101 --widths 4,8 --blocks 1,1 -T 4 --epochs 1 -b 4 --device cpu";
    for out in ["things/Caltech101/runs/first", "second"] {
        let (_, stderr) = ok(root, &format!("train {things} --out {out}"));
        assert!(stderr.contains("(14 + 2 images)"), "{stderr}");
        assert_eq!(stderr.contains("note: left out, since runs of a training are in it: things/Caltech101/runs"), out == "second");
    }
}

#[test]
fn a_single_class_gets_a_warning() {
    let folder = pictures();
    let root = folder.path();
    let warning = "warning: images one has a single class, 'ash', so that every prediction is right; is --data-dir the folder of";
    fs::create_dir(root.join("one")).unwrap();
    fs::rename(root.join("heap/ash"), root.join("one/ash")).unwrap();
    let line = format!("-d images --data-dir one --val-share 0.25 {TINY} -b 4");
    let (_, stderr) = ok(root, &format!("train {line} --out run"));
    assert_eq!(stderr.matches(warning).count(), 1, "{stderr}");
    let (_, stderr) = ok(root, &format!("train {line} --out quiet -q"));
    assert!(!stderr.contains("warning"), "{stderr}");
    let (_, stderr) = ok(root, &format!("train {} --out heap-run", line.replace("one", "heap")));
    assert!(!stderr.contains("single class"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn files_that_are_there_twice_are_counted() {
    let folder = pictures();
    let root = folder.path();
    let info = |flags: &str| ok(root, &format!("data info {flags}")).1;
    assert!(!info("-d images --data-dir photos --image-size 12").contains("note"));
    // Rows of a list: under one name and another, in one split and in both.
    let rows = "heap/ash/000.png,ash,train\nheap/ash/001.png,ash,train\nheap/oak/000.png,oak,train\nheap/oak/001.png,oak,val\n";
    fs::write(root.join("list.csv"), format!("path,label,split\n{rows}./heap/ash/../ash/001.png,ash,train\nheap/ash/000.png,ash,val\n"))
        .unwrap();
    let stderr = info("-d images --data-dir list.csv --image-size 12");
    for note in [
        "note: 1 pictures to test on are trained on, too, so a test says too much; the first: ./heap/ash/000.png",
        "note: 1 pictures are in the set more than once; the first: ././heap/ash/../ash/001.png",
    ] {
        assert!(stderr.lines().any(|line| line.ends_with(note)), "{note}: {stderr}");
    }
    // A link, and a second name.
    std::os::unix::fs::symlink(root.join("photos/train/oak/002.png"), root.join("photos/val/oak/link.png")).unwrap();
    fs::hard_link(root.join("photos/train/ash/001.png"), root.join("photos/train/birch/same.png")).unwrap();
    let stderr = info("-d images --data-dir photos --image-size 12");
    assert!(
        stderr.contains("note: 1 pictures to test on are trained on, too, so a test says too much; the first: photos/val/oak/link.png")
    );
    assert!(stderr.contains("note: 1 pictures are in the set more than once; the first: photos/train/birch/same.png"), "{stderr}");
    // Of a recording, parts that overlap are twice in the set; those that do not are usual.
    twins(root);
    let list = |parts: [(&str, i64, i64); 3]| {
        let rows: String = parts.iter().map(|(split, start, end)| format!("events/one/ball/1.dat,ball,{split},{start},{end}\n")).collect();
        let others: String = ["train", "val"].iter().map(|split| format!("events/one/cup/{}.dat,cup,{split},,\n", split.len())).collect();
        fs::write(root.join("parts.csv"), format!("path,label,split,start,end\n{rows}{others}")).unwrap();
        info("-d events --data-dir parts.csv -T 1")
    };
    assert!(!list([("train", 1000, 2000), ("train", 2000, 3000), ("val", 3000, 4000)]).contains("note"));
    let stderr = list([("train", 1000, 2000), ("train", 1500, 3000), ("val", 2999, 4000)]);
    assert!(stderr.contains("note: 1 recordings to test on are trained on, too"), "{stderr}");
    assert!(stderr.contains("note: 1 recordings are in the set more than once"), "{stderr}");
}

#[test]
fn predictions_name_their_files() {
    let folder = pictures();
    let root = folder.path();
    twins(root);
    let rows: String = (0..3)
        .map(|part| {
            format!("events/one/ball/1.dat,ball,{},{},{}\n", ["train", "train", "val"][part], 1000 + 1000 * part, 1999 + 1000 * part)
        })
        .collect();
    fs::write(
        root.join("parts.csv"),
        format!("path,label,split,start,end\n{rows}events/one/cup/1.dat,cup,train,,2000\nevents/one/cup/2.dat,cup,val,,\n"),
    )
    .unwrap();
    let cases = [
        ("-d images --data-dir photos --image-size 12", "path", "photos/val/ash/000.png"),
        ("-d images --data-dir photos --image-size 12 --crop-scale 0.5,1 --crop-pad 0", "path", "photos/val/ash/000.png"),
        ("-d events --data-dir parts.csv", "path,start,end", "events/one/ball/1.dat,3000,3999"),
        ("-d digits-8x8", "logit_9", ""),
    ];
    for (set, head, first) in cases {
        let tiny = TINY.replace("--image-size 12", "").replace("--crop-pad 1", "").replace("-b 8", "-b 2");
        ok(root, &format!("train {set} {tiny} -q --out run"));
        ok(root, "eval --checkpoint run --device cpu --predictions table.csv -q");
        let text = fs::read_to_string(root.join("table.csv")).unwrap();
        let mut lines = text.lines();
        let (heads, row) = (lines.next().unwrap(), lines.next().unwrap());
        assert!(heads.starts_with("index,label,prediction,logit_0,") && heads.ends_with(head), "{set}: {heads}");
        assert!(row.starts_with("0,") && row.ends_with(first), "{set}: {row}");
        assert_eq!(heads.split(',').count(), row.split(',').count());
        fs::remove_dir_all(root.join("run")).unwrap();
    }
    let text = fs::read_to_string(root.join("table.csv")).unwrap();
    assert!(!text.contains("path"), "{text}");
}

#[test]
fn lengths_and_numbers_of_frames_are_not_both_said() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    twins(root);
    let set = "-d events --data-dir events/one --val-share 0.25 -T 4";
    let (code, _, stderr) = dsr(root, &format!("data info {set} --frame-ms 1 --event-frames time"));
    let problem = "frame-ms: says where frames end by their length, and --event-frames by their number; leave one of them away";
    assert!(code == 2 && stderr.contains(problem), "{stderr}");
    ok(root, &format!("data info {set} --frame-ms 0 --event-frames time"));
    ok(root, &format!("train {set} --frame-ms 1 --widths 4,8 --blocks 1,1 --epochs 1 -b 4 --device cpu -q --out run"));
    let (code, _, stderr) = dsr(root, "eval --checkpoint run --event-frames time --device cpu");
    assert!(code == 2 && stderr.contains("event-frames: has no effect on frames of 1 ms (--frame-ms): give --frame-ms 0"), "{stderr}");
    ok(root, "eval --checkpoint run --event-frames time --frame-ms 0 --device cpu");
    ok(root, "eval --checkpoint run --config run/config.toml --device cpu");
}

#[cfg(unix)]
#[test]
fn links_that_lead_back_are_named_and_not_followed() {
    use std::os::unix::fs::symlink;
    let folder = pictures();
    let root = folder.path();
    let line = |more: &str| format!("data verify -d images --data-dir heap --val-share 0.25 --image-size 12 {more}");
    symlink("..", root.join("heap/ash/up")).unwrap();
    symlink(".", root.join("heap/all")).unwrap();
    symlink("../oak", root.join("heap/birch/oak")).unwrap();
    symlink("../birch", root.join("heap/oak/birch")).unwrap();
    let (code, stdout, stderr) = dsr(root, &line(""));
    assert!(code == 0 && stdout.contains("images heap: ok, "), "{stdout}{stderr}");
    let note = "note: not followed, a link to a folder above it: heap/all, heap/ash/up, heap/birch/oak/birch, heap/oak/birch/oak";
    assert!(stderr.lines().any(|line| line == note), "{stderr}");
    ["heap/birch/oak", "heap/oak/birch"].iter().for_each(|link| fs::remove_file(root.join(link)).unwrap());
    // A file that is a link to itself is one that cannot be read.
    symlink("self.png", root.join("heap/ash/self.png")).unwrap();
    let train = format!("train -d images --data-dir heap --val-share 0.25 {TINY} --out run");
    let (code, _, stderr) = dsr(root, &train);
    assert!(code == 1 && stderr.contains("self.png"), "{stderr}");
    let (_, stderr) = ok(root, &format!("{train} --skip-unreadable 1"));
    assert!(stderr.contains("left out 1 files"), "{stderr}");
    // Recordings, which are listed in the same way.
    recordings(&root.join("events"));
    symlink("loop.bin", root.join("events/cup/loop.bin")).unwrap();
    let events = "data convert -d events --data-dir events --val-share 0.25 --sensor 34x34 -T 4";
    assert_eq!(dsr(root, events).0, 1);
    let (stdout, _) = ok(root, &format!("{events} --skip-unreadable 1"));
    assert!(stdout.contains("13 + 3 recordings"), "{stdout}"); // what is left out was of the share
}

#[test]
fn arrays_of_numbers_are_described() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let values: Vec<u8> = (0..12 * 4).flat_map(|i| (i as f32 / 4.0 - 1.5).to_le_bytes()).collect();
    let labels: Vec<u8> = (0..12).flat_map(|i| (i64::from(i % 2)).to_le_bytes()).collect();
    let arrays = |frames: &[usize], kind: &str, values: &[u8]| {
        let sizes: Vec<usize> = [12].iter().chain(frames).copied().collect();
        npz(
            &[
                ("x", npy(kind, &sizes, values)),
                ("y", npy("<i8", &[12], &labels)),
                ("x_val", npy(kind, &sizes, values)),
                ("y_val", npy("<i8", &[12], &labels)),
            ],
            false,
        )
    };
    fs::write(root.join("floats.npz"), arrays(&[2, 2], "<f4", &values)).unwrap();
    fs::write(root.join("frames.npz"), arrays(&[2, 2, 1, 1], "|u1", &(0..48).map(|i| 5 * i).collect::<Vec<u8>>())).unwrap();
    let line = |set: &str, more: &str| ok(root, &format!("data info -d arrays --data-dir {set} {more}")).0;
    let text = in_one_line(&line("floats.npz", ""));
    for part in [
        "arrays floats.npz: images of 2x2, 1 channel, numbers with a point, 2 classes normalised by mean 4.3750, std 3.4633",
        "train 12 samples, mean 4.3750, std 3.4633 from -1.5 to 10.25 test 12 samples, mean 4.3750",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let train = &json(&line("floats.npz", "-o json"))["train"];
    assert_eq!((train["images"].as_u64(), &train["mean"], &train["range"]), (Some(12), &json("[4.375]"), &json("[-1.5, 10.25]")));
    let text = in_one_line(&line("frames.npz", "-T 2 --layout nhwc"));
    let head = "arrays frames.npz: samples of 2 frames of 2x1, 1 channel, bytes in units of 255, 2 classes";
    assert!(text.contains(head) && text.contains("from 0 to 0.92156863"), "{text}");
    let given = line("floats.npz", "--mean 0 --std 1");
    assert!(given.contains("normalised by mean 0.0000, std 1.0000") && given.contains("mean 4.3750"), "{given}");
}

/// What a checkpoint says of one kind of set is not asked of another, which nobody could leave away.
#[test]
fn settings_of_a_kind_stay_with_it() {
    let folder = pictures();
    let root = folder.path();
    twins(root);
    fs::write(root.join("set.npz"), npz(&own_sets::arrays(), true)).unwrap();
    let heap = "-d images --data-dir heap --val-share 0.25 --image-fit pad --auto-augment cifar10";
    ok(root, &format!("train {heap} {} -q --out run", TINY.replace("--image-size 12", "--image-size 28 --channels 1")));
    let config = |line: &str| -> toml::Table { toml::from_str(&ok(root, &format!("{line} --dry-run")).0).unwrap() };
    let of_run = config("train --config run/config.toml");
    assert!(of_run["mean"].as_array().is_some_and(|mean| mean.len() == 1) && of_run["channels"].as_integer() == Some(1));
    for (set, is_folder) in
        [("-d arrays --data-dir set.npz", true), ("-d fashion-mnist-3k", false), ("-d events --data-dir events/one", true)]
    {
        let other = config(&format!("train --config run/config.toml {set}"));
        let is_empty = |key: &str| other.get(key).is_none_or(|value| value.as_array().is_some_and(|list| list.is_empty()));
        assert!(is_empty("mean") && is_empty("std") && other.contains_key("data_dir") == is_folder, "{set}: {other}");
        assert!(other.get("channels").is_none_or(|n| n.as_integer() == Some(3)), "{set}: {other}");
    }
    let same = config("train --config run/config.toml -d images --data-dir photos");
    assert_eq!((&same["mean"], same["channels"].as_integer()), (&of_run["mean"], Some(1)));
    // What is said of the other set is what holds.
    let said = config("train --config run/config.toml -d arrays --data-dir set.npz --mean 0.5,0.5,0.5 --std 1,1,1");
    assert_eq!(said["mean"].as_array().unwrap().len(), 3);
    let (code, _, stderr) = dsr(root, "eval --checkpoint run -d fashion-mnist-3k --device cpu -q");
    assert!(code == 1 && stderr.contains("belongs to another network"), "{stderr}");
}
