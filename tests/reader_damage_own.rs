//! As `reader_damage.rs`, of the files of somebody's own sets: arrays, archives of them, CIFAR's pickles, lists.

use std::path::Path;

use dsr::data::arrays::{npy, pickle};
use dsr::data::cifar::{CIFAR10, empty_split, python};
use dsr::data::own::table;
use dsr::data::{Reading, open};

#[path = "support/damage.rs"]
mod damage;
#[path = "support/own_sets.rs"]
mod own_sets;
use damage::{EACH, peak, scratch, survives};
use own_sets::{batch, batches_meta, images, npy as saved, npz};

/// docs/data.md: twice the length, and 128 KiB.
fn array_bound(len: usize) -> usize {
    2 * len + (1 << 17)
}

#[test]
fn damaged_arrays_harm_nobody() {
    let path = Path::new("x");
    let read = |bytes: &[u8]| npy::read(path, bytes, bytes.len() as u64, bytes.len() as u64).is_ok();
    let good = saved("|u1", &[3, 6, 5, 3], &images(3, [6, 5, 3], 0).0);
    println!("npy: {} read", survives("npy", EACH, &good, read, array_bound));
    let good = saved("<i8", &[40], &images(40, [1, 1, 1], 0).1);
    println!("labels: {} read", survives("npy of labels", EACH / 4, &good, read, array_bound));
    // A size in a header is not believed.
    let promise = saved("|u1", &[4_000_000_000, 1], &[0; 100]);
    let (result, most) = peak(|| npy::read(path, &promise[..], promise.len() as u64, promise.len() as u64));
    assert!(result.unwrap_err().to_string().contains("is truncated") && most < array_bound(promise.len()), "{most}");
}

/// What the headers tell is refused before any value is unpacked.
#[test]
fn an_archive_of_unusable_sizes_is_not_unpacked() {
    let folder = scratch();
    let (pixels, labels) = (vec![0; 4 * 4100 * 4100], [0u8, 1, 0, 1].map(|label| [label, 0, 0, 0, 0, 0, 0, 0]).concat());
    let mut reading = Reading::default();
    reading.own.share = Some(0.5);
    for (sizes, count, words) in [
        (&[4, 4100, 4100, 1][..], 4, "has images of 4100x4100 with 1 channels"),
        (&[4, 4100, 4100][..], 4, "has images of 4100x4100"),
        (&[8, 4000, 4000][..], 4, "has 8 samples, and y has 4 labels"),
        (&[4, 4100, 2, 2, 2050][..], 4, "more than 255 frames"),
    ] {
        let file = npz(&[("x", saved("|u1", sizes, &pixels)), ("y", saved("<i8", &[count], &labels))], true);
        let path = folder.path().join("bomb.npz");
        std::fs::write(&path, &file).unwrap();
        let (result, most) = peak(|| open("arrays", Some(&path), &reading));
        let error = result.err().unwrap().to_string();
        assert!(error.contains(words) && most < archive_bound(0), "{error}: {most} bytes");
    }
}

/// Those of the test split, too, and what the settings say of both.
#[test]
fn an_archive_is_not_unpacked_for_what_its_headers_tell() {
    let folder = scratch();
    let labels = |n: usize| (0..n).flat_map(|at| [(at % 2) as u8, 0, 0, 0, 0, 0, 0, 0]).collect::<Vec<u8>>();
    let x = saved("|u1", &[4, 2000, 2000], &vec![0; 4 * 2000 * 2000]);
    let frames = saved("|u1", &[4, 5, 900, 900, 1], &vec![0; 4 * 5 * 900 * 900]);
    let y = saved("<i8", &[4], &labels(4));
    let no_point = saved("<f8", &[4], &labels(4));
    let small = saved("|u1", &[4, 20, 20], &[0; 4 * 20 * 20]);
    let jump = saved("<i8", &[4], &labels(4).iter().map(|&value| 3 * value).collect::<Vec<u8>>());
    let set = |train: &[u8], of_train: &[u8], test: Option<[&[u8]; 2]>| {
        let mut arrays = vec![("x_train", train.to_vec()), ("y_train", of_train.to_vec())];
        arrays.extend(test.into_iter().flat_map(|[x, y]| [("x_test", x.to_vec()), ("y_test", y.to_vec())]));
        npz(&arrays, true)
    };
    let two = saved("<i8", &[2], &labels(2));
    for (file, words) in [
        (set(&x, &y, Some([&x, &no_point])), "has labels with a point"),
        (set(&x, &y, Some([&x, &two])), "has 4 samples, and y_test has 2 labels"),
        (set(&x, &y, Some([&small, &y])), "has samples of 1 frames of 20x20x1, bytes, the training samples are 1 frames of 2000x2000x1"),
        (set(&x, &y, None), "has no test split: give --val-share"),
        (set(&frames, &y, Some([&frames, &y])), "have 5 frames, one per step; give -T 5"),
        (set(&x, &jump, Some([&x, &y])), "has no training sample of class 1"),
    ] {
        let path = folder.path().join("bomb.npz");
        std::fs::write(&path, &file).unwrap();
        let (result, most) = peak(|| open("arrays", Some(&path), &Reading::default()));
        let error = result.err().unwrap().to_string();
        assert!(error.contains(words) && most < archive_bound(0), "{error}: {most} bytes");
    }
}

/// Opens each damaged file as a set.
fn sets(what: &str, ending: &str, n: u64, good: &[u8], bound: impl Fn(usize) -> usize + Sync) {
    let folder = scratch();
    let mut reading = Reading::default();
    reading.own.share = Some(0.34);
    let read = |bytes: &[u8]| {
        let name = format!("{:?}.{ending}", std::thread::current().id()).replace(['(', ')'], "_");
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        open("arrays", Some(&path), &reading).is_ok()
    };
    println!("{what}: {} of {n} read", survives(what, n, good, read, bound));
}

fn pair() -> Vec<(&'static str, Vec<u8>)> {
    let (x, y) = images(6, [5, 6, 1], 0);
    vec![("x", saved("|u1", &[6, 5, 6, 1], &x)), ("y", saved("<i8", &[6], &y))]
}

/// Of a few hundred bytes that unpack to a few hundred: what unpacking takes, whatever the length.
fn archive_bound(_: usize) -> usize {
    1 << 20
}

#[test]
fn damaged_archives_of_arrays_harm_nobody() {
    sets("npz", "npz", EACH, &npz(&pair(), false), archive_bound);
}

#[test]
fn damaged_packed_archives_of_arrays_harm_nobody() {
    sets("packed npz", "npz", EACH, &npz(&pair(), true), archive_bound);
}

#[test]
fn damaged_tensors_harm_nobody() {
    use safetensors::{Dtype, tensor::TensorView};
    let (x, y) = images(6, [5, 6, 1], 0);
    let x = TensorView::new(Dtype::U8, vec![6, 5, 6, 1], &x).unwrap();
    let y = TensorView::new(Dtype::I64, vec![6], &y).unwrap();
    let good = safetensors::serialize([("x", x), ("y", y)], None).unwrap();
    sets("safetensors", "safetensors", EACH, &good, |len| 64 * len + (1 << 18));
}

/// docs/data.md: 128 bytes for each of the file; its 128 MiB of values are not among these few.
fn pickle_bound(len: usize) -> usize {
    128 * len + (1 << 18)
}

#[test]
fn damaged_pickles_harm_nobody() {
    let path = Path::new("x");
    let rows: Vec<u8> = (0..2 * 3072).map(|at| at as u8).collect();
    let good = batch("labels", &[3, 9], &rows);
    let append = |bytes: &[u8]| python::append(path, bytes, &CIFAR10, &mut empty_split()).is_ok();
    println!("pickle: {} read", survives("pickle", EACH, &good, append, pickle_bound));
    // Without the images most damage is in the operations.
    let read = |bytes: &[u8]| pickle::read(path, bytes).is_ok();
    survives("pickle of names", EACH, &batches_meta(), read, pickle_bound);
    survives("pickle of labels", EACH, &batch("labels", &[], &[]), read, pickle_bound);
}

#[test]
fn a_pickle_takes_no_more_than_its_values() {
    let path = Path::new("x");
    let deep = [b"\x80\x02}".to_vec(), b"N".to_vec(), vec![0x85; 3_000_000], b".".to_vec()].concat();
    let many = [b"\x80\x02}".to_vec(), vec![b'N'; 3_000_000], b".".to_vec()].concat();
    let marks = [b"\x80\x02}".to_vec(), b"(N".repeat(1_500_000), b"e.".to_vec()].concat();
    let kept: Vec<u8> = (0..3_000_000u32).flat_map(|key| [&b"r"[..], &key.to_le_bytes()].concat()).collect();
    let kept = [b"\x80\x02}U\x01a".to_vec(), kept, b".".to_vec()].concat();
    for (bomb, problem) in [(deep, "containers within tuples"), (many, "more than 1048576 values"), (marks, "values"), (kept, "more than")]
    {
        let (result, most) = peak(|| pickle::read(path, &bomb).map(|pairs| pairs.len()));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(problem) && most < (160 << 20), "{error}: {most}");
    }
}

/// A row of a list becomes a few texts, of which each has its own place.
fn list_bound(len: usize) -> usize {
    128 * len + (1 << 17)
}

#[test]
fn damaged_lists_harm_nobody() {
    let path = Path::new("x.csv");
    let good = "path,label,split,start\n\"a, b.png\",oak,train,1\nc.png,elm,val,\nd/e.png,10,test,7\n";
    let read = |bytes: &[u8]| table::rows(path, bytes, &["start"]).is_ok();
    println!("CSV: {} read", survives("CSV", EACH, good.as_bytes(), read, list_bound));
    let good = "val_0.JPEG\tn03444034\t0\t32\t44\t62\nval_1.JPEG\tn04067472\t52\t55\t57\t59\n";
    let read = |bytes: &[u8]| table::annotations(path, bytes).is_ok();
    println!("annotations: {} read", survives("annotations", EACH, good.as_bytes(), read, list_bound));
}
