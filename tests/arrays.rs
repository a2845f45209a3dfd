//! Arrays of one's own: every container says the same, every layout, and what is refused by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dsr::data::{Augment, Dataset, Layout, Loader, Preparation, Reading, Split, hold_out, load, open, prepare};
use md5::{Digest, Md5};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::{TempDir, tempdir};

#[path = "support/data_files.rs"]
mod data_files;
#[path = "support/own_sets.rs"]
mod own_sets;
use data_files::cifar_files;
use own_sets::{arrays, batch, batches_meta, images, npy, npz};

fn reading(share: Option<f64>, layout: Layout) -> Reading {
    let mut reading = Reading::default();
    (reading.own.share, reading.arrays.layout, reading.arrays.time_steps) = (share, layout, 4);
    reading
}

/// An archive with these arrays.
fn archive(folder: &TempDir, arrays: &[(&str, Vec<u8>)]) -> PathBuf {
    let path = folder.path().join("set.npz");
    fs::write(&path, npz(arrays, false)).unwrap();
    path
}

fn pair(x: Vec<u8>, y: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    vec![("x", x), ("y", y)]
}

fn all(dataset: &Dataset) -> (Split, Split, Vec<String>) {
    (dataset.train.clone(), dataset.test.clone(), dataset.classes.clone())
}

#[test]
fn every_container_gives_the_same_set() {
    let folder = tempdir().unwrap();
    let expected = all(&open("arrays", Some(&archive(&folder, &arrays())), &Reading::default()).unwrap());
    assert_eq!((expected.0.len(), expected.1.len(), expected.0.images.shape), (24, 9, [6, 5, 3]));
    let (pixels, _) = images(24, [6, 5, 3], 0);
    assert!(expected.0.images.pixels == pixels && expected.0.labels[..4] == [0, 1, 2, 0]);

    let packed = folder.path().join("packed.npz");
    fs::write(&packed, npz(&arrays(), true)).unwrap();
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    arrays().iter().for_each(|(name, bytes)| fs::write(files.join(format!("{name}.npy")), bytes).unwrap());
    // Under other names, with other types of labels.
    let (x, y) = images(9, [6, 5, 3], 100);
    let labels: Vec<u8> = y.chunks_exact(8).map(|label| label[0]).collect();
    let short: Vec<u8> = (0..24).map(|image| image % 3).collect();
    let train = images(24, [6, 5, 3], 0).0;
    let views = [
        ("train_images", TensorView::new(Dtype::U8, vec![24, 6, 5, 3], &train).unwrap()),
        ("train_labels", TensorView::new(Dtype::U8, vec![24, 1], &short).unwrap()),
        ("val_images", TensorView::new(Dtype::U8, vec![9, 6, 5, 3], &x).unwrap()),
        ("val_labels", TensorView::new(Dtype::I8, vec![9], &labels).unwrap()),
    ];
    let tensors = folder.path().join("set.safetensors");
    fs::write(&tensors, safetensors::serialize(views, None).unwrap()).unwrap();
    for place in [packed, files.clone(), files.join("x_train.npy"), tensors] {
        let found = open("arrays", Some(&place), &Reading::default()).unwrap_or_else(|e| panic!("{e}"));
        assert!(all(&found) == expected, "{}", place.display());
    }
}

#[test]
fn of_several_splits_the_first_is_tested_on_and_a_note_names_the_others() {
    let folder = tempdir().unwrap();
    let of = |name: &'static str, n: usize| (name, npy("|u1", &[n, 6, 5, 3], &images(n, [6, 5, 3], 0).0));
    let labels = |name: &'static str, n: usize| (name, npy("<i8", &[n], &images(n, [1, 1, 1], 0).1));
    // What is trained on need not be called so.
    let plain = vec![of("x", 12), labels("y", 12), of("x_test", 6), labels("y_test", 6)];
    let three = [("x_train", "y_train", 12), ("x_test", "y_test", 6), ("x_val", "y_val", 3)];
    let three = three.into_iter().flat_map(|(x, y, n)| [of(x, n), labels(y, n)]).collect();
    for (arrays, sizes, note) in [(plain, (12, 6), None), (three, (12, 3), Some("not read: x_test"))] {
        let set = open("arrays", Some(&archive(&folder, &arrays)), &Reading::default()).unwrap();
        assert_eq!((set.train.len(), set.test.len()), sizes);
        assert!(!set.is_divided());
        let mut set = set;
        let told = std::sync::Mutex::new(Vec::new());
        let tell = |what: dsr::data::Told| {
            told.lock().unwrap().push(format!("{what:?}"));
            Ok(())
        };
        prepare(&mut set, folder.path(), &Preparation::default(), &tell).unwrap();
        let told = told.into_inner().unwrap();
        assert!(told.len() == usize::from(note.is_some()) && note.is_none_or(|note| told[0].contains(note)), "{told:?}");
    }
}

#[test]
fn axes_are_found_or_asked_for() {
    let folder = tempdir().unwrap();
    let (pixels, labels) = images(12, [6, 5, 3], 0);
    let y = || npy("<i8", &[12], &labels);
    let get = |x: Vec<u8>, layout: Layout| open("arrays", Some(&archive(&folder, &pair(x, y()))), &reading(Some(0.25), layout));
    let last = get(npy("|u1", &[12, 6, 5, 3], &pixels), Layout::Auto).unwrap();
    assert_eq!((last.train.len(), last.test.len()), (9, 3));
    // The same with channels first.
    let mut planes = Vec::new();
    for image in pixels.chunks_exact(90) {
        (0..3).for_each(|channel| planes.extend(image.iter().skip(channel).step_by(3)));
    }
    for layout in [Layout::Auto, Layout::Nchw] {
        assert!(all(&get(npy("|u1", &[12, 3, 6, 5], &planes), layout).unwrap()) == all(&last));
    }
    assert_eq!(get(npy("|u1", &[12, 18, 5], &pixels), Layout::Auto).unwrap().shape, [18, 5, 1]);
    // Three rows, or three channels.
    let both = || npy("|u1", &[12, 3, 10, 3], &pixels);
    let error = get(both(), Layout::Auto).unwrap_err().to_string();
    assert!(error.contains("[12, 3, 10, 3] do not tell where the channels are; give --layout nhwc, nchw, or nthw"), "{error}");
    assert_eq!(get(both(), Layout::Nhwc).unwrap().shape, [3, 10, 3]);
    assert_eq!(get(both(), Layout::Nchw).unwrap().shape, [10, 3, 3]);
    let error = get(npy("|u1", &[12, 90], &pixels), Layout::Auto).unwrap_err().to_string();
    assert!(error.contains("has sizes [12, 90]; images are [N][H][W], [N][H][W][C] or [N][C][H][W]"), "{error}");
}

#[test]
fn numbers_with_a_point_are_normalised() {
    let folder = tempdir().unwrap();
    let (pixels, labels) = images(12, [6, 5, 3], 0);
    let floats: Vec<u8> = pixels.iter().flat_map(|&byte| (f32::from(byte) / 100.0 - 0.5).to_le_bytes()).collect();
    let doubles: Vec<u8> = pixels.iter().flat_map(|&byte| f64::from(f32::from(byte) / 100.0 - 0.5).to_le_bytes()).collect();
    let set = |descr: &str, values: &[u8]| {
        let arrays = pair(npy(descr, &[12, 6, 5, 3], values), npy("<i8", &[12], &labels));
        open("arrays", Some(&archive(&folder, &arrays)), &reading(Some(0.25), Layout::Auto)).unwrap()
    };
    let single = set("<f4", &floats);
    assert!(!single.has_bytes() && single == set("<f8", &doubles));
    let batch = Loader::train(Arc::new(single.clone()), 9, Augment::default(), 1, 1, 0).next().unwrap();
    for channel in 0..3 {
        let values: Vec<f64> = batch.data.iter().skip(channel).step_by(3).map(|&value| value.into()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        // Rounding of 270 values near 1 to 24 bits.
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{channel}: {mean} {variance}");
    }
    // What crops put around an image is 0 before it is normalised.
    let (mean, std) = (single.mean.clone(), single.std.clone());
    let padded = Loader::train(Arc::new(single.clone()), 9, Augment { crop_pad: 4, ..Augment::default() }, 1, 1, 0).next().unwrap();
    let zero: Vec<f32> = mean.iter().zip(&std).map(|(mean, std)| (0.0 - mean) / std).collect();
    let is_zero = |pixel: &&[f32]| **pixel == zero[..];
    assert!(padded.data.chunks_exact(3).filter(is_zero).count() > 100 && batch.data.chunks_exact(3).filter(is_zero).count() == 0);
    // A part held out is the same samples.
    let (rest, held) = hold_out(single.clone(), 0.34, 3).unwrap();
    assert_eq!((rest.train.len(), held.test.len(), held.train.len()), (6, 3, 0));
    let of = |set: Dataset| Loader::test(Arc::new(set), 3).next().unwrap().data;
    let whole = Loader::train(Arc::new(single), 9, Augment::default(), 1, 1, 0).next().unwrap();
    assert!(of(held).chunks_exact(90).all(|sample| whole.data.chunks_exact(90).any(|other| other == sample)));
}

#[test]
fn frames_are_one_a_step() {
    let folder = tempdir().unwrap();
    let (pixels, labels) = images(6, [4 * 6, 5, 2], 0);
    let set = |sizes: &[usize], layout: Layout, time_steps: usize| {
        let arrays = pair(npy("|u1", sizes, &pixels), npy("<i8", &[6], &labels));
        let mut reading = reading(Some(0.5), layout);
        reading.arrays.time_steps = time_steps;
        open("arrays", Some(&archive(&folder, &arrays)), &reading)
    };
    let frames = set(&[6, 4, 6, 5, 2], Layout::Auto, 4).unwrap();
    assert_eq!((frames.frames, frames.shape, frames.sample_values()), (4, [6, 5, 2], 240));
    let batch = Loader::test(Arc::new(frames), 2).next().unwrap();
    assert_eq!((batch.frames, batch.data.len()), (4, 480));
    assert_eq!(set(&[6, 4, 2, 6, 5], Layout::Auto, 4).unwrap().shape, [6, 5, 2]);
    assert_eq!(set(&[6, 4, 6, 10], Layout::Nthw, 4).unwrap().shape, [6, 10, 1]);
    let error = set(&[6, 4, 6, 5, 2], Layout::Auto, 5).unwrap_err().to_string();
    assert!(error.contains("time-steps: 5: samples of set.npz have 4 frames, one per step; give -T 4"), "{error}");
}

#[test]
fn what_is_not_read_is_named() {
    let folder = tempdir().unwrap();
    let (pixels, labels) = images(12, [6, 5, 3], 0);
    let x = || npy("|u1", &[12, 6, 5, 3], &pixels);
    let y = || npy("<i8", &[12], &labels);
    let of = |labels: &[i64]| npy("<i8", &[12], &labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>());
    let wide = vec![0; 12 * 90 * 4];
    let fortran = || String::from_utf8_lossy(&npy("|u1", &[2, 2], b"")).replace("False", "True ").into_bytes();
    let fortran = [b"\x93", &fortran()["\u{fffd}".len()..], &[0; 4]].concat();
    let nan: Vec<u8> = (0..12 * 90).flat_map(|at| (if at == 500 { f32::NAN } else { 1.0 }).to_le_bytes()).collect();
    let cases: Vec<(Vec<(&str, Vec<u8>)>, &str)> = vec![
        (pair(npy("|O", &[12], b"\x80\x03]q\0."), y()), "holds Python objects, which are pickled and never read"),
        (pair(npy("<U5", &[12], &[0; 240]), y()), "values of the type <U5"),
        (pair(npy(">f4", &[12, 6, 5, 3], &wide), y()), "big-endian"),
        (pair(npy("<i4", &[12, 6, 5, 3], &wide), y()), "integers of several bytes"),
        (pair(fortran, y()), "lies column by column (fortran_order)"),
        (pair(b"\x80\x03]q\0.".to_vec(), y()), "x.npy: is a pickle, of which nothing is read"),
        (pair(npy("|u1", &[12, 6, 5, 3], &pixels[1..]), y()), "is truncated: its sizes [12, 6, 5, 3] need 1080 bytes"),
        (pair(npy("|u1", &[12, 6, 5, 2], &pixels), y()), "goes on behind the last value"),
        (pair(npy("|u1", &[1 << 40, 6, 5, 3], &pixels), y()), "more than the 4294967296 bytes that are supported"),
        (pair(npy("<f4", &[12, 6, 5, 3], &nan), y()), "sample 5 has a value that is no finite number"),
        (pair(x(), npy("<f8", &[12], &[0; 96])), "y.npy: has labels with a point"),
        (pair(x(), npy("|u1", &[12, 3], &[0; 36])), "has labels of [12, 3]"),
        (pair(x(), npy("|u1", &[11], &[0; 11])), "has 12 samples, and y has 11 labels"),
        (pair(x(), of(&[0, 1, 2, 0, 1, 2, 0, 1, -2, 0, 1, 2])), "sample 8 has label -2"),
        (pair(x(), of(&[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3])), "has no training sample of class 0, though there is a label 3"),
        (pair(x(), of(&[0, 1, 2, 0, 1, 1 << 30, 0, 1, 2, 0, 1, 2])), "has label 1073741824 among 12 training samples"),
        (vec![("a", x()), ("b", y())], "has no images and labels by name (it has: a, b); expected are x_train and y_train"),
    ];
    for (arrays, problem) in cases {
        let error = open("arrays", Some(&archive(&folder, &arrays)), &reading(Some(0.25), Layout::Auto)).unwrap_err().to_string();
        assert!(error.contains(problem) && !error.contains('\n'), "{error:?} does not say {problem:?}");
    }
    let path = archive(&folder, &pair(x(), y()));
    let error = open("arrays", Some(&path), &Reading::default()).unwrap_err().to_string();
    assert!(error.starts_with("val-share: ") && error.contains("set.npz has no test split: give --val-share 0.2"), "{error}");
    for (name, bytes, problem) in [
        ("cut.npz", fs::read(&path).unwrap()[..400].to_vec(), "is no archive that can be read"),
        ("set.pkl", b"\x80\x03".to_vec(), "is no .npz, .npy or .safetensors"),
        ("set.safetensors", b"\x80\x03".to_vec(), "is no .safetensors that can be read"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = open("arrays", Some(&path), &Reading::default()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error:?} does not say {problem:?}");
    }
}

/// The files of a small set for Python with the images of the binary files.
fn python(root: &Path, n: usize) {
    fs::create_dir_all(root).unwrap();
    for (name, bytes) in cifar_files(&dsr::data::cifar::CIFAR10, n) {
        let Some(stem) = name.strip_suffix(".bin") else { continue };
        let labels: Vec<u8> = bytes.chunks_exact(3073).map(|record| record[0]).collect();
        let rows: Vec<u8> = bytes.chunks_exact(3073).flat_map(|record| record[1..].to_vec()).collect();
        fs::write(root.join(stem), batch("labels", &labels, &rows)).unwrap();
    }
    fs::write(root.join("batches.meta"), batches_meta()).unwrap();
}

#[test]
fn cifar_for_python_is_cifar() {
    // What these tests write is laid out as what was published: its list of names has torchvision's MD5 of that file.
    let md5: String = Md5::digest(batches_meta()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(md5, "5ff9c542aee3614f3951f8cda6e48888");
    let folder = tempdir().unwrap();
    let binary = folder.path().join("binary");
    fs::create_dir(&binary).unwrap();
    for (name, bytes) in cifar_files(&dsr::data::cifar::CIFAR10, 300) {
        fs::write(binary.join(name), bytes).unwrap();
    }
    let expected = load("cifar10", Some(&binary)).unwrap();
    let place = folder.path().join("cifar-10-batches-py");
    python(&place, 300);
    for place in [&place, folder.path()] {
        let found = load("cifar10", Some(place)).unwrap();
        assert!(found.train == expected.train && found.test == expected.test && found.mean == expected.mean);
        assert_eq!(found.classes[..2], ["airplane", "automobile"]);
        let own = load("arrays", Some(place)).unwrap();
        assert!(own.train == expected.train && own.classes == found.classes && own.mean != expected.mean);
    }
    let good = fs::read(place.join("data_batch_3")).unwrap();
    let changed = |from: &[u8], to: &[u8], problem: &str| {
        let at = good.windows(from.len()).position(|window| window == from).unwrap();
        fs::write(place.join("data_batch_3"), [&good[..at], to, &good[at + from.len()..]].concat()).unwrap();
        let error = load("cifar10", Some(&place)).unwrap_err().to_string();
        assert!(error.contains("data_batch_3: ") && error.contains(problem) && !error.contains('\n'), "{error:?} does not say {problem:?}");
    };
    changed(b"cnumpy\nndarray\n", b"cos\nsystem\n", "it names os.system");
    changed(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", "it calls something else than what makes an array");
    changed(b"U\x02u1", b"U\x02f4", "it has an array of \"f4\" instead of bytes");
    changed(b"\x80\x02", b"\x80\x04", "it is written in protocol 4");
    changed(b"K\x01M\x2c\x01M\x00\x0c\x86", b"K\x01M\x2d\x01M\x00\x0c\x86", "its array of 301x3072 has 921600 bytes");
    changed(b"\x89T", b"\x88T", "its array is not laid out row by row in bytes");
    changed(b"eu.", b"eu.N", "it goes on behind its end");
    changed(b"labels", b"lapels", "has no \"labels\"");
    changed(b"]q\x05(K", b"]q\x05(N", "is no batch of CIFAR for Python");
    fs::write(place.join("data_batch_3"), &good).unwrap();
    fs::remove_file(place.join("data_batch_4")).unwrap();
    let error = load("arrays", Some(&place)).unwrap_err().to_string();
    assert!(error.contains("data_batch_4: is missing"), "{error}");
}
