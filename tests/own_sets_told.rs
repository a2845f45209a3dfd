//! Sets of one's own: what a user is told of folders, lists and files that are not what they look like. The real binary.

use std::fs;

use serde_json::Value;
use tempfile::tempdir;

#[path = "support/lines.rs"]
mod lines;
use lines::{dsr, in_one_line, json, ok};
#[path = "support/own_sets.rs"]
mod own_sets;
use own_sets::{npy, npz};
#[path = "support/recordings.rs"]
mod formats;
use formats::{dat, of_class};
#[path = "support/small_sets.rs"]
mod small_sets;
use small_sets::{at_one_time, pictures, recordings, twins};

const TINY: &str = "--image-size 12 --widths 4,8 --blocks 1,1 -T 4 --epochs 1 -b 8 --crop-pad 1 --device cpu";

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
    // Where runs are all there is, they are the reason.
    fs::create_dir(root.join("only")).unwrap();
    fs::rename(root.join("heap/runs"), root.join("only/runs")).unwrap();
    let (code, _, stderr) = dsr(root, &line.replace("heap", "only"));
    let words = ") in its folders; not read, with a training run in it: only/runs; name the folder of a set by --data-dir\n";
    assert!(code == 1 && stderr.starts_with("error: only: has no pictures (.jpg") && stderr.ends_with(words), "{stderr}");
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
        "arrays floats.npz: images of 2x2, 1 channel, floating-point numbers, 2 classes normalised by mean 4.3750, std 3.4633",
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
