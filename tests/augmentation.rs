//! Label smoothing, AutoAugment, cutout and mixup together: the batches of a loader in every form, and runs of the real binary on CPU and
//! device.

#[path = "support/streamed_sets.rs"]
mod streamed_sets;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use assert_cmd::cargo::cargo_bin;
use dsr::data::{Augment, AutoAugment, Batch, Dataset, Form, Hole, Images, Loader, Mix, Pixels, Split};
use tempfile::tempdir;

const ALL: &str = "--label-smoothing 0.1 --auto-augment cifar10 --cutout 5 --mixup 0.2";

fn dsr(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split_whitespace()).env("LD_LIBRARY_PATH", emulator::directory()).output().unwrap()
}

#[track_caller]
fn ok(folder: &Path, line: &str) {
    let output = dsr(folder, line);
    assert!(output.status.success(), "dsr {line}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn fails(folder: &Path, line: &str, words: &[&str]) {
    let output = dsr(folder, line);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "dsr {line}: {stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "dsr {line}: {stderr}");
    words.iter().for_each(|word| assert!(stderr.contains(word), "dsr {line}: {word:?} is missing in {stderr}"));
}

/// Of each epoch of a run.
fn train_losses(folder: &Path, run: &str) -> Vec<f64> {
    let records = fs::read_to_string(folder.join(run).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["train_loss"].as_f64().unwrap();
    records.lines().map(loss).collect()
}

/// Two epochs at once leave the bytes of the `steps` of one epoch, a stop in the middle of the second, and the rest.
fn is_resumed_to_the_same_bits(folder: &Path, line: &str, steps: usize) {
    let last = |run: &str| fs::read(folder.join(run).join("last.safetensors")).unwrap();
    ok(folder, &format!("{line} {ALL} --epochs 2 --out whole"));
    let stopped = dsr(folder, &format!("{line} {ALL} --epochs 2 --out parts --stop-after-steps {steps}"));
    assert_eq!(stopped.status.code(), Some(1), "{}", String::from_utf8_lossy(&stopped.stderr));
    let device = if line.contains("--device cuda") { "--device cuda" } else { "--device cpu" };
    let stopped = dsr(folder, &format!("train --resume auto --out parts {device} --threads 1 --stop-after-steps 2 -q"));
    assert_eq!(stopped.status.code(), Some(1), "{}", String::from_utf8_lossy(&stopped.stderr));
    ok(folder, &format!("train --resume auto --out parts {device} --threads 1 -q"));
    assert!(last("whole") == last("parts"), "{line}");
    let config = fs::read_to_string(folder.join("whole/config.toml")).unwrap();
    for set in ["label_smoothing = 0.1", "auto_augment = \"cifar10\"", "cutout = 5", "mixup = 0.2"] {
        assert!(config.lines().any(|line| line == set), "{set} is missing in {config}");
    }
}

/// Thresholds are low, so that the layers fire. One thread: several wait for each other where the machine is busy.
const PHOTOS: &str = "train -d imagenet --data-dir photos --image-size 9 --image-resize 12 --widths 4 --blocks 1 -T 2 -b 4 \
                      --readout current --vth 0.2 --warmup 0 -q --threads 1 --device";

#[test]
fn grey_pictures_are_resumed_to_the_same_bits() {
    let folder = tempdir().unwrap();
    let line = "train -d fashion-mnist-3k --widths 4 --blocks 1 -T 1 -b 1000 --threads 1 -q --device cpu";
    let steps = dsr::data::load("fashion-mnist-3k", None).unwrap().train.len().div_ceil(1000);
    is_resumed_to_the_same_bits(folder.path(), line, steps);
}

#[test]
fn a_device_is_resumed_to_the_same_bits() {
    let folder = tempdir().unwrap();
    streamed_sets::photos(&folder.path().join("photos"));
    is_resumed_to_the_same_bits(folder.path(), &format!("{PHOTOS} cuda"), 3);
}

#[test]
fn a_run_is_resumed_with_its_own_changes_and_each_of_them_matters() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    streamed_sets::photos(&root.join("photos"));
    is_resumed_to_the_same_bits(root, &format!("{PHOTOS} cpu"), 3);
    let last = |run: &str| fs::read(root.join(run).join("last.safetensors")).unwrap();
    ok(root, &format!("{PHOTOS} cpu {ALL} --epochs 2 --threads 2 --out two"));
    assert!(last("whole") == last("two"), "another number of threads");
    for off in ["--label-smoothing 0", "--auto-augment off", "--cutout 0", "--mixup 0"] {
        ok(root, &format!("{PHOTOS} cpu {ALL} {off} --epochs 2 --out without"));
        assert!(train_losses(root, "whole") != train_losses(root, "without"), "{off}");
        fs::remove_dir_all(root.join("without")).unwrap();
    }
    fails(root, "train --resume auto --out whole --cutout 4", &["cutout 5 (asked for: 4)"]);
    fails(root, "train --resume auto --out whole --auto-augment imagenet", &["auto-augment \"cifar10\" (asked for: \"imagenet\")"]);
    // The checkpoint of a run without them has no word of them.
    ok(root, &format!("{PHOTOS} cpu --epochs 1 --out plain"));
    let bytes = fs::read(root.join("plain/last.safetensors")).unwrap();
    let head = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let settings = String::from_utf8_lossy(&bytes[8..8 + head]);
    for name in ["label_smoothing", "auto_augment", "cutout", "mixup"] {
        assert!(!settings.contains(name), "{settings}");
    }
    fails(root, "train --resume auto --out plain --epochs 2 --mixup 0.5", &["mixup 0.0 (asked for: 0.5)"]);
    fails(root, "train --resume auto --out plain --epochs 2 --auto-augment cifar10", &["auto-augment \"off\" (asked for: \"cifar10\")"]);
}

/// Steps of a device whose pictures are held, sent as bytes, or mixed on the host, have the loss of the CPU, to the last digits that the
/// file of a run shows: the first step has the same bits of input and logits.
#[test]
fn a_device_reports_the_loss_of_the_cpu() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    streamed_sets::photos(&root.join("photos"));
    let digits = "-d digits-8x8 -b 1437";
    let photos = "-d imagenet --data-dir photos --image-size 9 --image-resize 12 -b 12 --readout current --vth 0.2";
    let cases = [
        (digits, "--cutout 3 --label-smoothing 0.1"),
        (photos, "--auto-augment imagenet --cutout 4"),
        (photos, "--auto-augment imagenet --cutout 4 --mixup 1 --label-smoothing 0.1"),
    ];
    for (at, (set, flags)) in cases.into_iter().enumerate() {
        // One step an epoch, of the initial network.
        let [cpu, cuda, plain] = [("cpu", flags), ("cuda", flags), ("cpu", "")].map(|(device, flags)| {
            let run = format!("{device}{at}{}", flags.is_empty());
            ok(
                root,
                &format!(
                    "train {set} --widths 4 --blocks 1 -T 2 --epochs 1 --warmup 0 --threads 1 -q --device {device} {flags} --out {run}"
                ),
            );
            train_losses(root, &run)[0]
        });
        assert!((cpu - cuda).abs() <= 1e-9 * cpu, "{set} {flags}: {cpu}, on the device {cuda}");
        assert!((cpu - plain).abs() > 1e-6, "{set} {flags} changes nothing: {cpu}");
    }
}

#[test]
fn wrong_values_are_refused_in_one_line() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    streamed_sets::recordings(&root.join("events"), &[0, 900]);
    let events = "-d dvs-cifar10 --data-dir events --event-size 16 -b 4";
    for (line, words) in [
        ("-d digits-8x8 --label-smoothing 1", "label-smoothing: 1 is not in 0 ≤ label-smoothing < 1"),
        ("-d digits-8x8 --cutout 9", "cutout: 9 is not in 0..=8: images are 8x8"),
        ("-d digits-8x8 --mixup 100.5", "mixup: 100.5 is neither 0 nor in 0.001 ≤ mixup ≤ 100"),
        ("-d digits-8x8 --auto-augment cifar10", "auto-augment: cifar10: pictures of digits-8x8 have bytes in 0..=16"),
        (&format!("{events} --auto-augment imagenet"), "auto-augment: imagenet: dvs-cifar10 has recordings of events"),
        (&format!("{events} --cutout 17"), "cutout: 17 is not in 0..=16: images are 16x16"),
    ] {
        fails(root, &format!("train {line} --widths 4 --blocks 1 -T 2 --epochs 1 --out run"), &[words]);
        assert!(!root.join("run").exists(), "{line}");
    }
    let tiny = "--widths 4 --blocks 1 -T 2 --epochs 1 --crop-pad 1 -q --threads 1 --device cpu";
    ok(root, &format!("train {events} {tiny} --cutout 6 --mixup 0.2 --label-smoothing 0.1 --out run"));
}

/// Pictures as CIFAR has them.
fn pictures() -> Arc<Dataset> {
    let shape = [9, 8, 3];
    let pixels = (0..40 * 216).map(|n: usize| (n * n / 7 % 251) as u8).collect();
    let split = Split { images: Images { shape, pixels }, labels: (0..40).map(|n| n % 5).collect() };
    let classes = (0..5).map(|n| n.to_string()).collect();
    Arc::new(Dataset::new("pictures", classes, split.clone(), split, 255).unwrap())
}

/// Crop and flip, AutoAugment, what bytes stand for, cutout, mixup: in this order, each by its own words, and in every form.
#[test]
fn batches_are_those_of_the_parts_in_their_order() {
    let dataset = pictures();
    let (pixels, shape, [seed, epoch]) = (Pixels::of(&dataset), dataset.shape, [4, 2]);
    let how = Augment { crop_pad: 2, flip: true, auto_augment: AutoAugment::Cifar10, cutout: 4, mixup: 0.0, ..Augment::default() };
    let mixed = Augment { mixup: 0.5, ..how };
    let batches = |form, how| -> Vec<Batch> { Loader::train_as(form, dataset.clone(), 16, how, seed, epoch as usize, 0).collect() };
    let order = dsr::data::epoch_order(40, seed, epoch);
    let values = batches(Form::Values, how);
    for (step, (batch, places)) in values.iter().zip(order.chunks(16)).enumerate() {
        let mut expected = Vec::new();
        for &index in places {
            let (image, mut picture, mut sample) = (dataset.train.images.image(index as usize), Vec::new(), Vec::new());
            pixels.append_drawn_bytes(image, 2, how.draw(seed, epoch, index.into()), &mut picture);
            AutoAugment::Cifar10.augment(&mut picture, shape, seed, epoch, index.into());
            pixels.append(&picture, &mut sample);
            Hole::draw(4, shape, seed, epoch, index.into()).clear(&mut sample, shape);
            expected.extend(sample);
        }
        assert!(batch.data == expected && batch.holes.is_empty() && batch.blends.is_empty());
        let mix = Mix::draw(0.5, places.len(), seed, epoch, step as u64);
        mix.mix(&mut expected, 216);
        let got = &batches(Form::Draws, mixed)[step];
        assert!(got.data == expected && got.labels == batch.labels && got.draws.is_empty() && got.bytes.is_empty());
        for (blend, &partner) in got.blends.iter().zip(&mix.partners) {
            assert_eq!((blend.other, blend.share), (batch.labels[partner], mix.share));
        }
        assert_eq!(got.blends.len(), places.len());
    }
    // Draws that no device could make of held images come as bytes.
    for form in [Form::Bytes, Form::Draws] {
        for (batch, values) in batches(form, how).iter().zip(&values) {
            let mut data = Vec::new();
            batch.bytes.chunks_exact(216).for_each(|picture| pixels.append(picture, &mut data));
            data.chunks_exact_mut(216).zip(&batch.holes).for_each(|(sample, hole)| hole.clear(sample, shape));
            assert!(data == values.data && batch.data.is_empty() && batch.draws.is_empty() && batch.holes.len() == batch.labels.len());
        }
    }
    let late: Vec<Batch> = Loader::train_as(Form::Values, dataset.clone(), 16, mixed, seed, epoch as usize, 1).collect();
    assert_eq!(late, batches(Form::Values, mixed)[1..], "from a later step on");
    assert!(batches(Form::Values, mixed) != Loader::train(dataset.clone(), 16, mixed, seed, 3, 0).collect::<Vec<_>>());
}

/// The middle is any pixel, as likely as any other; what lies outside is cut off.
#[test]
fn holes_lie_anywhere() {
    let shape = [6, 5, 1];
    for side in [1, 2, 3, 5] {
        let mut seen = [[0; 5]; 6];
        for index in 0..3000 {
            let Hole { top, left, bottom, right } = Hole::draw(side, shape, 1, 2, index);
            assert!(0 <= top && top < bottom && bottom <= 6 && 0 <= left && left < right && right <= 5);
            assert!(bottom - top <= side as i32 && right - left <= side as i32);
            let mut sample = vec![1.0; 2 * 30];
            Hole { top, left, bottom, right }.clear(&mut sample, shape);
            assert_eq!(sample.iter().filter(|value| **value == 0.0).count(), 2 * ((bottom - top) * (right - left)) as usize);
            seen[top as usize][left as usize] += 1;
        }
        if side == 1 {
            // 100 expected each, and five standard deviations.
            assert!(seen.iter().flatten().all(|n| (50..150).contains(n)), "{seen:?}");
        }
    }
}

/// Mean 1/2 and variance 1 / (8α + 4).
#[test]
fn shares_are_of_a_beta_distribution() {
    for alpha in [0.01, 0.2, 1.0, 1.5, 8.0, 100.0] {
        let n = 20_000;
        let shares: Vec<f64> = (0..n).map(|step| Mix::draw(alpha, 1, 1, 0, step).share.into()).collect();
        assert!(shares.iter().all(|x| (0.0..=1.0).contains(x)));
        let mean = shares.iter().sum::<f64>() / n as f64;
        let variance = shares.iter().map(|x| (x - 0.5) * (x - 0.5)).sum::<f64>() / n as f64;
        let expected = 1.0 / (8.0 * alpha + 4.0);
        // Five standard errors of the mean; one of the variance is below 1 % of it.
        assert!((mean - 0.5).abs() < 5.0 * (expected / n as f64).sqrt(), "{alpha}: {mean}");
        assert!((variance / expected - 1.0).abs() < 0.05, "{alpha}: {variance}, expected {expected}");
    }
}

/// One product and one fused operation a value, in place as with a copy.
#[test]
fn partners_are_those_before_the_batch_was_mixed() {
    for (batch, values) in [(1, 5), (2, 33), (7, 1), (40, 19)] {
        for step in 0..5 {
            let mix = Mix::draw(0.7, batch, 3, 1, step);
            let mut sorted = mix.partners.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..batch).collect::<Vec<_>>());
            let before: Vec<f32> = (0..batch * values).map(|n| (n as f32).sin()).collect();
            let value =
                |at: usize| mix.share.mul_add(before[at], (1.0 - mix.share) * before[mix.partners[at / values] * values + at % values]);
            let mut mixed = before.clone();
            mix.mix(&mut mixed, values);
            assert_eq!(mixed, (0..batch * values).map(value).collect::<Vec<_>>());
        }
    }
}
