//! Recordings as a user has them: the real binary, from folders, lists and published layouts to a trained network.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use tempfile::{TempDir, tempdir};

#[path = "support/lines.rs"]
mod lines;
use lines::{command, dsr, in_one_line, json, ok};
#[path = "support/recordings.rs"]
mod formats;
use formats::{aedat3, atis, dat, evt2, evt3, evt21, npy, npz, npz_of, of_class};

const TINY: &str = "--widths 4,8 --blocks 1,1 -T 4 --epochs 2 -b 8";

const CLASSES: [&str; 3] = ["ball", "cup", "pen"];

/// Each set with its flags, and what the headline says of it.
const SETS: [(&str, &str); 8] = [
    ("-d events --data-dir tree", "events tree (12 + 6 images)"),
    (
        "-d events --data-dir heap --val-share 0.25 --sensor 34x34 --frame-size 32x32 --event-frames time",
        "events heap (0.25 of each class to test on) (18 + 6 images)",
    ),
    (
        "-d events --data-dir list.csv --flip --event-roll 2 --event-rotate 20 --event-drop 0.2 --cutout 4",
        "events list.csv (12 + 3 images)",
    ),
    (
        "-d events --data-dir packed --sensor 60x80 --frame-size 12x20 --frame-ms 0.5 --flip-x --transpose=false",
        "events packed (9 + 3 images)",
    ),
    ("-d events --data-dir made --transpose", "events made (9 + 3 images)"),
    ("-d dvs-gesture --data-dir gestures --frame-size 16x16", "dvs-gesture (22 + 11 images)"),
    ("-d n-mnist --data-dir digits --frame-size 17x17", "n-mnist (20 + 10 images)"),
    ("-d n-caltech101 --data-dir things --frame-size 12x16", "n-caltech101 (9 + 3 images)"),
];

fn put(path: std::path::PathBuf, bytes: Vec<u8>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn sets() -> TempDir {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let sensor = [60, 80];
    let mut list = "path,label,split,start,end\n".to_string();
    for (class, name) in CLASSES.iter().enumerate() {
        let of = |seed: u32, n: usize| of_class(class, seed, n, sensor);
        // One of each format, all of one camera.
        put(root.join("tree/train").join(name).join("1.dat"), dat(sensor, &of(1, 300)));
        put(root.join("tree/train").join(name).join("2.RAW"), evt2(sensor, &of(2, 301)));
        put(root.join("tree/train").join(name).join("deep/3.raw"), evt3(sensor, &of(3, 302)));
        put(root.join("tree/train").join(name).join("4.raw"), evt21(sensor, &of(4, 303)));
        put(root.join("tree/train").join(name).join("5.hdf5"), vec![1]);
        for seed in 0..2 {
            put(root.join("tree/test").join(name).join(format!("{seed}.dat")), dat(sensor, &of(9 + seed, 304)));
        }
        for seed in 0..8 {
            put(root.join("heap").join(name).join(format!("{seed}.bin")), atis(&of_class(class, seed, 200, [34, 34])));
            put(root.join("things/Caltech101").join(name).join(format!("{seed}.bin")), atis(&of_class(class, seed, 200, [180, 240])));
        }
        for seed in 4..8 {
            fs::remove_file(root.join("things/Caltech101").join(name).join(format!("{seed}.bin"))).unwrap();
        }
        for (part, seeds) in [("train", 0..3), ("val", 3..4)] {
            for seed in seeds {
                let at = root.join("packed").join(part).join(name).join(format!("{seed}.npz"));
                put(at, npz_of(&of(seed, 200), seed % 2 == 0));
                let frames: Vec<u8> =
                    (0..4 * 2 * 16 * 20).flat_map(|i| ((i + 7 * class as u32 + seed) as f32 % 5.0).to_le_bytes()).collect();
                let at = root.join("made").join(part).join(name).join(format!("{seed}.npz"));
                put(at, npz(&[("frames", npy("<f4", &[4, 2, 16, 20], &frames))], true));
            }
        }
        // Five parts of one file, 4 ms each.
        put(root.join(format!("{name}.aedat")), aedat3("DVS128", &of_class(class, 5, 1000, [128, 128])));
        for part in 0..5 {
            let split = if part == 4 { "test" } else { "train" };
            let end = if part == 4 { String::new() } else { (1000 + 4000 * (part + 1)).to_string() };
            list += &format!("{name}.aedat,{name},{split},{},{end}\n", 1000 + 4000 * part);
        }
    }
    fs::write(root.join("list.csv"), list).unwrap();
    for (list, trials) in [("trials_to_train.txt", &["user01_lab", "user02_led"][..]), ("trials_to_test.txt", &["user24_fluorescent"])] {
        put(
            root.join("gestures/DvsGesture").join(list),
            trials.iter().flat_map(|trial| format!("{trial}.aedat\r\n").into_bytes()).collect(),
        );
        for trial in trials {
            let mut events = Vec::new();
            let mut labels = "class,startTime_usec,endTime_usec\n".to_string();
            for class in 0..11 {
                let begin = 1000 + 10_000 * class as i64;
                events.extend(
                    of_class(class, trial.len() as u32, 200, [128, 128])
                        .iter()
                        .map(|row| (row.0 + 10_000 * class as i64, row.1, row.2, row.3)),
                );
                labels += &format!("{},{begin},{}\n", class + 1, begin + 4000);
            }
            put(root.join(format!("gestures/DvsGesture/{trial}.aedat")), aedat3("DVS128", &events));
            fs::write(root.join(format!("gestures/DvsGesture/{trial}_labels.csv")), labels).unwrap();
        }
    }
    for digit in 0..10 {
        for (part, seeds) in [("Train", 0..2), ("Test", 2..3)] {
            for seed in seeds {
                put(
                    root.join("digits").join(part).join(digit.to_string()).join(format!("0000{seed}.bin")),
                    atis(&of_class(digit, seed, 100, [34, 34])),
                );
            }
        }
    }
    folder
}

/// Two epochs, and the same with a stop in the middle: the same bytes.
fn is_resumed_to_the_same_bytes(device: &str, which: &[usize]) {
    let folder = sets();
    let root = folder.path();
    for &at in which {
        let (set, headline) = SETS[at];
        let line = format!("train {set} {TINY} --device {device}");
        let (_, stderr) = ok(root, &format!("{line} --out whole{at}"));
        assert!(in_one_line(&stderr).contains(headline), "{set}: {stderr}");
        let (code, _, stderr) = dsr(root, &format!("{line} --out parts{at} --stop-after-steps 3"));
        assert_eq!(code, 1, "{stderr}");
        let (_, stderr) = ok(root, &format!("train --resume auto --out parts{at} --device {device}"));
        assert!(!stderr.contains("making frames"), "{stderr}");
        let bytes = |run: &str| fs::read(root.join(format!("{run}{at}/last.safetensors"))).unwrap();
        assert!(bytes("whole") == bytes("parts"), "{set}");
    }
}

#[test]
fn runs_are_resumed_to_the_same_bytes() {
    is_resumed_to_the_same_bytes("cpu", &[0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn runs_on_a_device_are_resumed_to_the_same_bytes() {
    // To a device, all of them are frames: of one's own, changed, of a published set.
    is_resumed_to_the_same_bytes("cuda", &[0, 2, 5]);
}

#[test]
fn changes_are_part_of_a_run() {
    let folder = sets();
    let root = folder.path();
    let trained = |flags: &str, out: &str| {
        ok(root, &format!("train -d events --data-dir tree {TINY} --epochs 1 --device cpu -q {flags} --out {out}"));
        fs::read(root.join(out).join("best.safetensors")).unwrap()
    };
    let parameters = |bytes: &[u8]| bytes[8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize..].to_vec();
    let mut seen = vec![parameters(&trained("", "plain"))];
    for (at, flags) in ["--flip", "--event-roll 3", "--event-rotate 45", "--event-drop 0.3", "--cutout 9"].into_iter().enumerate() {
        let one = parameters(&trained(flags, &format!("run{at}")));
        assert!(!seen.contains(&one), "{flags} changes what is learned");
        seen.push(one);
        if at == 3 {
            let config = fs::read_to_string(root.join("run3/config.toml")).unwrap();
            assert!(config.contains("event_drop = 0.3\n") && config.contains("event_roll = 0\n"), "{config}");
        }
    }
    // With any number of threads, and without the file of frames, the same.
    let again = parameters(&trained("--event-rotate 45 --threads 1", "one"));
    assert!(seen.contains(&again));
    let (code, _, stderr) = dsr(root, "train --resume auto --out run1 --event-roll 2");
    assert!(code == 2 && stderr.contains("event-roll"), "{stderr}");
}

#[test]
fn a_checkpoint_says_the_same_on_both_devices() {
    let folder = sets();
    let root = folder.path();
    for (at, (set, _)) in SETS.iter().enumerate().filter(|(at, _)| [0, 2, 5].contains(at)) {
        ok(root, &format!("train {set} {TINY} --epochs 1 --device cpu -q --out run{at}"));
        let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
            let line = format!("eval --checkpoint run{at} -b 4 --confusion --device {device} --predictions {device}.csv -o json");
            let result = json(&ok(root, &line).0);
            let row = &result["results"][0];
            (
                row["loss"].clone(),
                row["confusion"].clone(),
                fs::read(root.join(format!("{device}.csv"))).unwrap(),
                result["dataset"].clone(),
            )
        });
        assert!(cpu == cuda, "{set}");
    }
    // One frame first: those for other T are read anew.
    let rows = |line: &str| json(&ok(root, line).0)["results"].as_array().unwrap().clone();
    let several = rows("eval --checkpoint run0 -T 1,2,4,1 --device cpu -o json");
    for (row, time_steps) in several.iter().zip([1, 2, 4, 1]) {
        let alone = &rows(&format!("eval --checkpoint run0 -T {time_steps} --device cpu -o json"))[0];
        assert_eq!([&row["loss"], &row["top1"]], [&alone["loss"], &alone["top1"]], "T = {time_steps}");
    }
    // The network as an ANN, and what is done with it.
    ok(root, &format!("train -d events --data-dir tree {TINY} -T 1 --neuron relu --device cpu -q --out ann"));
    ok(root, "calibrate --checkpoint ann --device cpu -q");
    ok(
        root,
        &format!("train -d events --data-dir tree {TINY} --device cpu -q --init-from ann/calibrated.safetensors --epochs 1 --out spiking"),
    );
    ok(root, "export --checkpoint spiking --out spiking.safetensors");
    ok(root, "bench data -d events --data-dir tree -b 4 --warmup 0 --repeats 1");
}

#[test]
fn sets_can_be_looked_at() {
    let folder = sets();
    let root = folder.path();
    for (set, _) in SETS {
        let set = set.split(" --flip ").next().unwrap();
        ok(root, &format!("data sheet {set} -T 4 --out sheet.png"));
        let (code, stdout, stderr) = dsr(root, &format!("data verify {set} -T 4"));
        let is_own = set.starts_with("-d events");
        assert!(
            if is_own { code == 0 && stdout.contains(": ok, ") } else { code == 1 && stderr.contains("published are ") },
            "{set}: {stdout}{stderr}"
        );
    }
    let (stdout, _) = ok(root, "data info -d events --data-dir tree -T 4");
    for part in [
        "events tree: recordings as 4 frames of 30x40, darker and brighter apart, 3 classes",
        "camera 60x80; frames by number, orientation as in the file",
        "train 12 files",
        "0 ball 4 2",
    ] {
        assert!(in_one_line(&stdout).contains(part), "{part:?} is missing in {stdout}");
    }
    let (stdout, _) = ok(root, "data info -d n-caltech101 --data-dir things --frame-ms 2.5 --flip-y");
    let line = in_one_line(&stdout);
    for part in [
        "camera 180x240; frames of 2.5 ms, orientation flipped in y",
        "split: none is published; the last tenth of each class is tested on",
    ] {
        assert!(line.contains(part), "{part:?} is missing in {stdout}");
    }
    assert!(!root.join("tree/.dsr-cache").exists(), "nothing is made for this");
    let (_, stderr) = ok(root, "data convert -d events --data-dir tree -T 4");
    assert!(stderr.contains("3 files are recordings of formats that are not read"), "{stderr}");
    // A recording that cannot be read is named by each command, and can be left out.
    fs::write(root.join("tree/train/cup/1.dat"), "no recording").unwrap();
    for line in [format!("train -d events --data-dir tree {TINY} --out run"), "data convert -d events --data-dir tree -T 4".into()] {
        let (code, _, stderr) = dsr(root, &line);
        assert!(code == 1 && stderr.contains("tree/train/cup/1.dat: is no recording that is read"), "{line}: {stderr}");
    }
    let (code, stdout, stderr) = dsr(root, "data verify -d events --data-dir tree -T 4");
    assert!(
        code == 1 && stdout.contains("cup/1.dat: is no recording") && stderr.contains("events tree: 1 files cannot be read"),
        "{stdout}{stderr}"
    );
    let (_, stderr) = ok(root, &format!("train -d events --data-dir tree {TINY} --device cpu --skip-unreadable 1 --out run"));
    assert!(stderr.contains("left out 1 file") && stderr.contains("(11 + 6 images)"), "{stderr}");
}

#[test]
fn a_conversion_that_is_killed_leaves_no_half_file() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for set in ["set", "other"] {
        for (class, name) in CLASSES.iter().enumerate() {
            (0..30).for_each(|seed| {
                put(root.join(set).join(name).join(format!("{seed}.dat")), dat([240, 304], &of_class(class, seed, 20_000, [240, 304])))
            });
        }
    }
    let line = |set: &str| format!("data convert -d events --data-dir {set} --val-share 0.2 -T 5 --threads 1 --progress-every 0");
    let name = ".dsr-cache/events-t5-number-48x60.frames";
    let (stdout, _) = ok(root, &line("other"));
    assert!(
        in_one_line(&stdout).contains(&format!("events other: 72 + 18 recordings, each as 5 frames of 48x60: other/{name} (10.4 MB)")),
        "{stdout}"
    );
    let mut child = command(root, &line("set")).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("converted, file ")));
    child.kill().unwrap();
    child.wait().unwrap();
    ok(root, &line("set"));
    let frames = |set: &str| fs::read(root.join(set).join(name)).unwrap();
    let (set, other) = (frames("set"), frames("other"));
    // Headers differ in the times of the files.
    let frames = 90 * 4 * (5 * 48 * 60 * 2 + 1);
    assert!(set[set.len() - frames..] == other[other.len() - frames..]);
    let left: Vec<_> =
        fs::read_dir(root.join("set/.dsr-cache")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|file| file == "lock" || name.ends_with(file.as_str())), "{left:?}");
}

#[test]
fn wrong_settings_are_named() {
    let folder = sets();
    let root = folder.path();
    fs::write(root.join("bad.csv"), "path,label,start,end\nball.aedat,ball,soon,\ncup.aedat,ball,,\n").unwrap();
    fs::write(root.join("empty.csv"), "path,label,start,end\nball.aedat,ball,5,5\ncup.aedat,ball,5,5\n").unwrap();
    fs::write(root.join("one.csv"), "path,label,start,end\nball.aedat,ball,5,9\nball.aedat,ball,9,20\n").unwrap();
    fs::create_dir(root.join("gestures/none")).unwrap();
    let cases = [
        ("train -d events", 2, "data-dir: events is read from disk"),
        ("train -d events --data-dir heap --sensor 34x34", 2, "val-share: heap has no test split: give --val-share 0.2"),
        (
            "data info -d events --data-dir heap --val-share 0.2",
            1,
            "does not say how many pixels its camera has; say it by --sensor HEIGHTxWIDTH",
        ),
        ("data info -d events --data-dir tree --frame-size 61x80", 2, "frame-size: 61x80 is not in 1x1..=60x80, the size of the camera"),
        ("data info -d events --data-dir tree --frame-size 61", 2, "is no height and width such as 48x64"),
        ("data info -d events --data-dir tree --frame-ms 0.0001", 2, "frame-ms: 0.0001 is not in 0.001.."),
        ("data info -d n-mnist --data-dir digits --sensor 34x34", 2, "sensor: n-mnist has no such setting, only events has"),
        (
            "data info -d dvs-cifar10 --data-dir x --flip-x",
            2,
            "flip-x: dvs-cifar10 has no such setting, only events and the sets like it has",
        ),
        ("train --event-roll 2", 2, "event-roll: fashion-mnist-3k has no such changes"),
        ("train -d events --data-dir tree --event-drop 1", 2, "event-drop: 1 is not in 0 ≤ event-drop < 1"),
        ("train -d events --data-dir tree --event-rotate 181", 2, "event-rotate: 181 is not in"),
        ("train -d events --data-dir tree --auto-augment cifar10", 2, "events has recordings of events"),
        ("train -d events --data-dir tree --mean 0,0 --std 1,1", 2, "mean: frames of events are counts and not normalised"),
        ("data convert -d events --data-dir made -T 5", 1, "has 4 frames of 16x20, and 5 of 16x20 are wanted; see -T"),
        ("data info -d events --data-dir bad.csv --val-share 0.5", 1, "bad.csv: has the start \"soon\" of ball.aedat"),
        (
            "data info -d events --data-dir empty.csv --val-share 0.5",
            1,
            "empty.csv: has a part of cup.aedat that begins at 5 and ends at 5 µs",
        ),
        (
            "data info -d events --data-dir one.csv --val-share 0.5",
            2,
            "val-share: 0.5 of 2 training samples of 1 classes is none, since parts of a file stay together; give more, or more files",
        ),
        ("data info -d dvs-gesture --data-dir gestures/none", 1, "gestures/none/trials_to_train.txt: No such file"),
        ("data info -d n-mnist --data-dir heap", 1, "heap/Train/0: does not exist; see docs/data.md"),
    ];
    for (line, code, problem) in cases {
        let (found, stdout, stderr) = dsr(root, line);
        assert!(found == code && in_one_line(&stderr).contains(problem), "dsr {line}: {found} {stdout}{stderr}");
    }
}

/// Chance is a third.
#[test]
fn the_shipped_recipe_learns() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for (class, name) in CLASSES.iter().enumerate() {
        (0..24).for_each(|seed| {
            put(root.join("set").join(name).join(format!("{seed}.raw")), evt3([48, 64], &of_class(class, seed, 400, [48, 64])))
        });
    }
    for neuron in ["if", "lif"] {
        let line = format!(
            "train -d events --data-dir set --val-share 0.25 --neuron {neuron} --frame-size 12x16 --epochs 12 --device cpu -q -o json"
        );
        let accuracy = json(&ok(root, &line).0)["test_accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.8, "{neuron}: {accuracy}");
    }
}

/// A clock in microseconds and places of a DVS128, as AEDAT 2.0 has them.
fn aedat2(n: u32) -> Vec<u8> {
    let event = |i: u32| [((i % 128) << 1 | (i % 128) << 8).to_be_bytes(), (1000 + i).to_be_bytes()].concat();
    [b"#!AER-DAT2.0\r\n".to_vec(), (0..n).flat_map(event).collect()].concat()
}

#[test]
fn files_without_a_camera_of_their_own_are_of_theirs_only() {
    let folder = tempdir().unwrap();
    for (part, name) in [("train", "ball"), ("train", "cup"), ("val", "ball"), ("val", "cup")] {
        put(folder.path().join("old").join(part).join(name).join("1.aedat"), aedat2(300));
    }
    let line = "data convert -d events --data-dir old -T 4";
    ok(folder.path(), line);
    ok(folder.path(), &format!("{line} --sensor 128x128"));
    let (code, _, stderr) = dsr(folder.path(), &format!("{line} --sensor 34x34"));
    let problem = "1.aedat: is AEDAT 2.0, which is read of a DVS128 (128x128) only, and the camera is 34x34; see --sensor";
    assert!(code == 1 && stderr.contains(problem), "{stderr}");
}

#[test]
fn samples_are_left_out_and_files_are_counted() {
    let folder = sets();
    let root = folder.path();
    // A part of a file without events leaves the other parts of that file.
    let list = fs::read_to_string(root.join("list.csv")).unwrap();
    fs::write(root.join("empty.csv"), format!("{list}ball.aedat,ball,train,90000000,90000001\n")).unwrap();
    let (stdout, stderr) = ok(root, "data convert -d events --data-dir empty.csv -T 4 --skip-unreadable 1");
    assert!(stderr.contains("left out 1 files") && stdout.contains("12 + 3 recordings"), "{stdout}{stderr}");
    // A damaged recording takes all of its samples, and is one file.
    let trial = root.join("gestures/DvsGesture/user01_lab.aedat");
    let bytes = fs::read(&trial).unwrap();
    fs::write(&trial, &bytes[..bytes.len() - 3]).unwrap();
    let (code, stdout, stderr) = dsr(root, "data verify -d dvs-gesture --data-dir gestures -T 4");
    assert!(code == 1 && stderr.contains("; 1 files cannot be read"), "{stderr}");
    assert_eq!(stdout.matches("user01_lab.aedat").count(), 1, "{stdout}");
    let (stdout, stderr) = ok(root, "data convert -d dvs-gesture --data-dir gestures -T 4 --skip-unreadable 1");
    assert!(stderr.contains("left out 11 samples of 1 files") && stdout.contains("11 + 11 recordings"), "{stdout}{stderr}");
}

#[test]
fn what_cannot_be_read_is_remembered_for_its_settings_only() {
    let folder = sets();
    let short = of_class(0, 77, 3, [60, 80]);
    put(folder.path().join("tree/train/ball/short.dat"), dat([60, 80], &short));
    // Three events are enough for two frames and not for four.
    for (steps, train) in [(2, 13), (4, 12), (2, 13), (4, 12)] {
        let (stdout, _) = ok(folder.path(), &format!("data convert -d events --data-dir tree -T {steps} --skip-unreadable 1"));
        assert!(stdout.contains(&format!("{train} + 6 recordings")), "{stdout}");
    }
}

#[test]
fn parts_of_a_recording_are_all_trained_on_or_all_tested_on() {
    let folder = tempdir().unwrap();
    let mut list = "path,label,start,end\n".to_string();
    for (class, name) in CLASSES.iter().enumerate() {
        for file in 0..3 {
            let path = format!("{name}{file}.aedat");
            fs::write(folder.path().join(&path), aedat3("DVS128", &of_class(class, file, 1000, [128, 128]))).unwrap();
            for part in 0..5 {
                list += &format!("{path},{name},{},{}\n", 1000 + 4000 * part, 5000 + 4000 * part);
            }
        }
    }
    fs::write(folder.path().join("list.csv"), list).unwrap();
    // A fifth of fifteen parts are three, and a file has five.
    let line = "data info -d events --data-dir list.csv --val-share 0.2 -T 4 -o json";
    for seed in 0..3 {
        let info = json(&ok(folder.path(), &format!("{line} --seed {seed}")).0);
        let of = |split: &str| info[split]["per_class"].clone();
        assert_eq!([of("train"), of("test")], [serde_json::json!([10, 10, 10]), serde_json::json!([5, 5, 5])], "{info}");
    }
}

#[test]
fn frames_have_no_times_to_cut_them_by() {
    let folder = tempdir().unwrap();
    let frames = npy("<f4", &[4, 2, 8, 8], &[0; 4 * 4 * 2 * 8 * 8]);
    fs::write(folder.path().join("a.npz"), npz(&[("frames", frames)], true)).unwrap();
    let list = "path,label,split,start,end\na.npz,one,train,0,100\na.npz,two,train,100,200\na.npz,one,test,,\na.npz,two,test,,\n";
    fs::write(folder.path().join("list.csv"), list).unwrap();
    let (code, _, stderr) = dsr(folder.path(), "data convert -d events --data-dir list.csv -T 4");
    assert!(code == 1 && stderr.contains("a.npz: has frames, which have no times: start and end of a list are for events"), "{stderr}");
}
