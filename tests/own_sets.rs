//! Sets of one's own as a user runs them: the real binary, from a folder or a file to a trained network and what is said of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use tempfile::{TempDir, tempdir};

#[path = "support/lines.rs"]
mod lines;
use lines::{command, dsr, in_one_line, json, ok};
#[path = "support/own_sets.rs"]
mod own_sets;
use own_sets::{arrays, heap, images, npy, npz, picture, splits};

const TINY: &str = "--widths 4,8 --blocks 1,1 -T 4 --epochs 2 -b 8 --crop-pad 1";

/// Each set with its flags, and what the headline says of it.
const SETS: [(&str, &str); 7] = [
    ("-d images --data-dir photos --image-size 12", "images photos (15 + 6 images)"),
    ("-d images --data-dir photos --image-size 12 --channels 1 --image-fit pad", "images photos (15 + 6 images)"),
    ("-d images --data-dir photos --image-size 12 --crop-scale 0.3,1 --crop-pad 0", "images photos (15 + 6 images)"),
    ("-d images --data-dir heap --image-size 12 --val-share 0.25", "images heap (0.25 of each class to test on) (18 + 6 images)"),
    ("-d arrays --data-dir set.npz", "arrays set.npz (24 + 9 images)"),
    ("-d arrays --data-dir floats.npz --val-share 0.25", "arrays floats.npz (0.25 of each class to test on) (18 + 6 images)"),
    ("-d arrays --data-dir frames.npz", "arrays frames.npz (12 + 6 images)"),
];

fn sets() -> TempDir {
    let folder = tempdir().unwrap();
    let root = folder.path();
    splits(&root.join("photos"), "val", [5, 2]);
    heap(&root.join("heap"), 8);
    fs::write(root.join("set.npz"), npz(&arrays(), true)).unwrap();
    let (pixels, labels) = images(24, [8, 8, 3], 0);
    let floats: Vec<u8> = pixels.iter().flat_map(|&byte| (f32::from(byte) / 100.0).to_le_bytes()).collect();
    let of_floats = [("x", npy("<f4", &[24, 8, 8, 3], &floats)), ("y", npy("<i8", &[24], &labels))];
    fs::write(root.join("floats.npz"), npz(&of_floats, false)).unwrap();
    let frames = |n: usize, first: usize| npy("|u1", &[n, 4, 8, 8, 2], &images(n, [32, 8, 2], first).0);
    let labels = |n: usize| npy("<i8", &[n], &images(n, [1, 1, 1], 0).1);
    let of_frames = [("x_train", frames(12, 0)), ("y_train", labels(12)), ("x_test", frames(6, 50)), ("y_test", labels(6))];
    fs::write(root.join("frames.npz"), npz(&of_frames, false)).unwrap();
    folder
}

/// Two epochs, and the same with a stop in the middle: the same bytes.
fn is_resumed_to_the_same_bytes(device: &str) {
    let folder = sets();
    let root = folder.path();
    for (at, (set, headline)) in SETS.iter().enumerate() {
        let line = format!(
            "train {set} {} --device {device}",
            if set.contains("--crop-pad") { TINY.replace("--crop-pad 1", "") } else { TINY.into() }
        );
        let (_, stderr) = ok(root, &format!("{line} --out whole{at}"));
        assert!(in_one_line(&stderr).contains(headline), "{set}: {stderr}");
        let (code, _, stderr) = dsr(root, &format!("{line} --out parts{at} --stop-after-steps 3"));
        assert_eq!(code, 1, "{stderr}");
        ok(root, &format!("train --resume auto --out parts{at} --device {device}"));
        let bytes = |run: &str| fs::read(root.join(format!("{run}{at}/last.safetensors"))).unwrap();
        assert!(bytes("whole") == bytes("parts"), "{set}");
    }
}

#[test]
fn runs_are_resumed_to_the_same_bytes() {
    is_resumed_to_the_same_bytes("cpu");
}

#[test]
fn runs_on_a_device_are_resumed_to_the_same_bytes() {
    is_resumed_to_the_same_bytes("cuda");
}

/// Labels are numbers of classes in the order of their names: under another name they would be learned anew.
#[test]
fn a_run_is_not_resumed_with_other_classes() {
    let folder = sets();
    let root = folder.path();
    let (_, stderr) =
        ok(root, &format!("train -d images --data-dir photos --image-size 12 {TINY} --threshold-init auto --device cpu --out run"));
    assert!(stderr.contains("thresholds from 15 training samples:"), "{stderr}");
    let class = fs::read_dir(root.join("photos/train")).unwrap().map(|entry| entry.unwrap().file_name()).min().unwrap();
    let before = fs::read(root.join("run/last.safetensors")).unwrap();
    for part in ["train", "val"] {
        fs::rename(root.join("photos").join(part).join(&class), root.join("photos").join(part).join("zebra")).unwrap();
    }
    let (code, _, stderr) = dsr(root, "train --resume auto --out run --epochs 3 --device cpu");
    assert!(code == 1 && stderr.contains("other classes: class 0 is") && stderr.contains("--init-from"), "{code}: {stderr}");
    assert!(fs::read(root.join("run/last.safetensors")).unwrap() == before);
}

#[test]
fn a_checkpoint_says_the_same_on_both_devices_and_of_what_it_was_trained_on() {
    let folder = sets();
    let root = folder.path();
    for (at, (set, _)) in SETS.iter().enumerate() {
        let tiny = if set.contains("--crop-pad") { TINY.replace("--crop-pad 1", "") } else { TINY.into() };
        ok(root, &format!("train {set} {tiny} --epochs 1 --device cpu -q --out run"));
        let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
            let line = format!("eval --checkpoint run -b 4 --confusion --device {device} --predictions {device}.csv -o json");
            let result = json(&ok(root, &line).0);
            let row = &result["results"][0];
            let name = result["dataset"].as_str().unwrap().to_string();
            (row["loss"].clone(), row["confusion"].clone(), fs::read(root.join(format!("{device}.csv"))).unwrap(), name)
        });
        assert!(cpu == cuda, "{set}");
        assert!(cpu.3.starts_with(set.split(' ').nth(1).unwrap()) && !cpu.3.contains("imagenet"), "{}", cpu.3);
        let bytes = fs::read(root.join("run/last.safetensors")).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header = String::from_utf8_lossy(&bytes[8..8 + length]).into_owned();
        assert!(header.contains("mean = [") && !header.contains("imagenet"), "{set}: {header}");
        fs::rename(root.join("run"), root.join(format!("run{at}"))).unwrap();
    }
}

#[test]
fn normalisation_travels_with_a_checkpoint() {
    let folder = sets();
    let root = folder.path();
    ok(root, &format!("train -d images --data-dir photos --image-size 12 {TINY} --device cpu -q --out run"));
    let config = fs::read_to_string(root.join("run/config.toml")).unwrap();
    assert!(config.contains("\nmean = [0.") && config.contains("\nstd = [0."), "{config}");
    let loss =
        |extra: &str| json(&ok(root, &format!("eval --checkpoint run --device cpu -o json {extra}")).0)["results"][0]["loss"].clone();
    let before = loss("");
    // Other training pictures, and the same to test on: nothing is measured anew.
    for class in ["ash", "birch", "oak"] {
        image::RgbImage::from_pixel(20, 20, image::Rgb([255; 3])).save(root.join(format!("photos/train/{class}/white.png"))).unwrap();
    }
    assert_eq!(loss(""), before);
    assert_ne!(loss("--mean 0.1,0.1,0.1 --std 1,1,1"), before);
}

#[test]
fn other_commands_take_them() {
    let folder = sets();
    let root = folder.path();
    for (at, (set, _)) in SETS.iter().enumerate().filter(|(at, _)| [0, 3, 4].contains(at)) {
        ok(root, &format!("train {set} {TINY} -T 1 --neuron relu --device cpu -q --out ann{at}"));
        ok(root, &format!("calibrate --checkpoint ann{at} --device cpu -q"));
        let calibrated = format!("ann{at}/calibrated.safetensors");
        ok(root, &format!("eval --checkpoint {calibrated} --device cpu -q"));
        ok(root, &format!("train {set} {TINY} --device cpu -q --init-from {calibrated} --epochs 1 --out spiking{at}"));
        ok(root, &format!("export --checkpoint spiking{at} --out spiking{at}.safetensors"));
        ok(root, &format!("profile --checkpoint spiking{at} --device cpu --steps 1 --warmup 0 -q"));
        ok(root, &format!("bench decision --checkpoint spiking{at} --device cpu -q"));
    }
    ok(root, "bench data -d images --data-dir photos -b 4 --warmup 0 --repeats 1");
    ok(root, "bench data -d arrays --data-dir set.npz -b 4 --warmup 0 --repeats 1");
}

#[test]
fn sets_can_be_looked_at() {
    let folder = sets();
    let root = folder.path();
    let (stdout, _) = ok(root, "data info -d images --data-dir photos --image-size 12");
    for part in ["images photos: images of 12x12, 3 channels", "train     15 images, mean 0.", "0 ash        5      2", "crc32c "] {
        assert!(stdout.contains(part), "{part:?} is missing in {stdout}");
    }
    let (stdout, _) = ok(root, "data info -d arrays --data-dir frames.npz -T 4");
    assert!(stdout.contains("12 files") || stdout.contains("12 "), "{stdout}");
    let heap =
        |seed: u64| ok(root, &format!("data sheet -d images --data-dir heap --val-share 0.25 --split test --seed {seed} --out s.png")).0;
    let sheet = |seed: u64| (heap(seed), fs::read(root.join("s.png")).unwrap()).1;
    assert!(sheet(1) == sheet(1) && sheet(1) != sheet(2));
    for (set, _) in SETS {
        let set = set.replace(" --crop-pad 0", "");
        ok(root, &format!("data sheet {set} -T 4 --out sheet.png"));
        let (stdout, _) = ok(root, &format!("data verify {set} -T 4"));
        assert!(stdout.contains(": ok, "), "{stdout}");
    }
    // A file that cannot be read is named by each command, and can be left out.
    fs::write(root.join("photos/train/oak/002.png"), "no picture").unwrap();
    let photos = "-d images --data-dir photos --image-size 12";
    for line in [format!("data info {photos}"), format!("train {photos} {TINY} --out run"), format!("data convert {photos}")] {
        let (code, _, stderr) = dsr(root, &line);
        assert!(code == 1 && stderr.contains("photos/train/oak/002.png: is no JPEG") && !stderr.contains("panicked"), "{line}: {stderr}");
    }
    let (code, stdout, stderr) = dsr(root, &format!("data verify {photos}"));
    assert!(code == 1 && stdout.contains("oak/002.png: is no JPEG"), "{stdout}{stderr}");
    assert!(stderr.contains("images photos: 1 files cannot be read; get them again") && !stderr.contains("published"), "{stderr}");
    let (_, stderr) = ok(root, &format!("train {photos} {TINY} --device cpu --skip-unreadable 1 --out run"));
    assert!(stderr.contains("left out 1 file") && stderr.contains("(14 + 6 images)"), "{stderr}");
}

#[test]
fn a_conversion_that_is_killed_leaves_no_half_file() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for set in ["set", "other"] {
        for (class, name) in ["ash", "oak"].iter().enumerate() {
            let folder = root.join(set).join(name);
            fs::create_dir_all(&folder).unwrap();
            (0..30).for_each(|number| picture(class, number, [300, 200]).save(folder.join(format!("{number}.png"))).unwrap());
        }
    }
    let line =
        |set: &str| format!("data convert -d images --data-dir {set} --image-size 16 --val-share 0.2 --threads 1 --progress-every 0");
    let (stdout, _) = ok(root, &line("other"));
    assert!(
        in_one_line(&stdout).contains("images other: 48 + 12 pictures, decoded to 16x16x3: other/.dsr-cache/images-16-crop-16-3.squares"),
        "{stdout}"
    );
    let mut child = command(root, &line("set")).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("converted, file ")));
    child.kill().unwrap();
    child.wait().unwrap();
    let squares = |set: &str| fs::read(root.join(set).join(".dsr-cache/images-16-crop-16-3.squares"));
    ok(root, &line("set"));
    let (set, other) = (squares("set").unwrap(), squares("other").unwrap());
    // Headers differ in the times of the files.
    assert!(set[set.len() - 60 * 772..] == other[other.len() - 60 * 772..]);
    let left: Vec<_> = fs::read_dir(root.join("set/.dsr-cache")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "lock" || name == "images-16-crop-16-3.squares"), "{left:?}");
    // Training takes it, and gives the bytes that it gives without.
    let train = |out: &str| format!("train -d images --data-dir set --image-size 16 --val-share 0.2 {TINY} --device cpu -q --out {out}");
    ok(root, &train("with"));
    fs::remove_dir_all(root.join("set/.dsr-cache")).unwrap();
    ok(root, &train("without"));
    let bytes = |run: &str| fs::read(root.join(run).join("last.safetensors")).unwrap();
    assert!(bytes("with") == bytes("without"));
}

#[test]
fn wrong_settings_are_named() {
    let folder = sets();
    let cases = [
        ("train -d images", 2, "data-dir: images is read from disk: name its folder"),
        ("train -d images --data-dir heap", 2, "val-share: heap has no test split: give --val-share 0.2"),
        ("train -d images --data-dir photos --channels 2", 2, "channels: 2 is neither 1 (grey) nor 3 (colour)"),
        ("train --channels 1", 2, "channels: fashion-mnist-3k has no such setting, only images has; leave --channels out"),
        ("train -d images --data-dir photos --layout nhwc", 2, "layout: images has no such setting, only arrays has"),
        ("train --mean 0.5 --std 1", 2, "mean: fashion-mnist-3k has no such setting, only a set of your own has"),
        ("train -d images --data-dir photos --mean 0.5", 2, "std: 0 numbers, --mean has 1; give one a channel to each"),
        ("train -d images --data-dir photos --mean 1,1,1 --std 1,0,1", 2, "std: [1.0, 0.0, 1.0] are not all positive numbers"),
        ("train -d images --data-dir photos --crop-scale 0.5,1", 2, "crop-pad: 4: photos are cropped by --crop-scale, set it to 0"),
        ("train -d arrays --data-dir frames.npz -T 5", 2, "time-steps: 5: samples of frames.npz have 4 frames, one per step; give -T 4"),
        ("train -d images --data-dir nowhere", 1, "nowhere: does not exist; name a folder of pictures, or a .csv that lists them, by"),
        ("data info -d digits-8x8 --seed 3", 2, "seed"),
    ];
    for (line, code, problem) in cases {
        let (found, stdout, stderr) = dsr(folder.path(), line);
        assert!(found == code && stderr.contains(problem), "dsr {line}: {found} {stdout}{stderr}");
    }
}

/// What a command writes never replaces a picture or an array.
#[test]
fn results_do_not_replace_data() {
    let folder = sets();
    let root = folder.path();
    ok(root, &format!("train -d arrays --data-dir set.npz {TINY} --epochs 1 --device cpu -q --out run"));
    let heap = fs::read_dir(root.join("heap")).unwrap().next().unwrap().unwrap().path();
    let photo = fs::read_dir(heap).unwrap().next().unwrap().unwrap().path();
    let before = [fs::read(root.join("set.npz")).unwrap(), fs::read(&photo).unwrap()];
    let below = photo.strip_prefix(root).unwrap().to_str().unwrap();
    let other = below.replace("000", "001");
    fs::write(root.join("some.csv"), format!("path,label\n{below},a\n{other},a\n{below},b\n{other},b\n")).unwrap();
    fs::create_dir(root.join("sheets")).unwrap();
    // Beside the classes, where it is not read.
    let loose = root.join("heap/loose.png");
    ok(root, "data sheet -d digits-8x8 --out heap/loose.png");
    let not_read = fs::read(&loose).unwrap();
    for line in [
        "data sheet -d images --data-dir heap --image-size 12 --val-share 0.25 --out heap/loose.png".into(),
        "eval --checkpoint run --device cpu --predictions set.npz".into(),
        format!("data sheet -d images --data-dir heap --image-size 12 --val-share 0.25 --out {}", photo.display()),
        format!("data sheet -d images --data-dir some.csv --image-size 12 --val-share 0.5 --out {}", photo.display()),
        format!("profile --device cpu --widths 4 --blocks 1 -T 2 --steps 1 --trace {}", photo.display()),
        "profile --device cpu --widths 4 --blocks 1 -T 2 --steps 1 --html set.npz".into(),
    ] {
        let (code, _, stderr) = dsr(root, &line);
        assert!(code == 2 && stderr.contains("give another name"), "dsr {line}: {code} {stderr}");
    }
    assert!([fs::read(root.join("set.npz")).unwrap(), fs::read(&photo).unwrap()] == before);
    assert!(fs::read(&loose).unwrap() == not_read);
    // An earlier result is replaced.
    for _ in 0..2 {
        ok(root, "eval --checkpoint run --device cpu --predictions predictions.csv");
        ok(root, "data sheet -d arrays --data-dir set.npz --out sheets/1.png");
        ok(&root.join("heap"), "data sheet -d images --data-dir . --image-size 12 --val-share 0.25");
        ok(root, "profile --device cpu --widths 4 --blocks 1 -T 2 --steps 1 --trace trace.json --html page.html");
    }
}

/// Chance is a third.
#[test]
fn shipped_recipes_learn() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    splits(&root.join("photos"), "val", [20, 10]);
    fs::write(root.join("set.npz"), npz(&arrays(), true)).unwrap();
    for set in ["-d images --data-dir photos --epochs 6", "-d arrays --data-dir set.npz --epochs 20 -b 8"] {
        for neuron in ["if", "lif"] {
            let (stdout, _) = ok(root, &format!("train {set} --neuron {neuron} --device cpu -q -o json"));
            let accuracy = json(&stdout)["test_accuracy"].as_f64().unwrap();
            assert!(accuracy > 0.8, "{set} {neuron}: {accuracy}");
        }
    }
}
