//! The readers of data files: what is accepted, what each kind of damage is called, and that no bytes make them panic.

use std::path::Path;

use dsr::data::{Split, cifar, idx, load};
use proptest::prelude::*;

#[path = "support/data_files.rs"]
mod data_files;
use data_files::{cifar_files, gz, idx_file, idx_pair, record, says, tar};

/// A complete set: 20 training and 10 test images of 4×4.
fn idx_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (part, n) in [("train", 20), ("t10k", 10)] {
        let [images, labels] = idx_pair(n, 4);
        std::fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
    folder
}

#[test]
fn damaged_idx_images_are_named() {
    let good = idx_pair(2, 2)[0].clone();
    let zipped = gz(&good);
    let mut bad_sum = zipped.clone();
    let at = bad_sum.len() - 6;
    bad_sum[at] ^= 1;
    let replaced = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", vec![], &["ends in the header, after 0 of 16 bytes"]),
        ("a page", b"<!DOCTYPE html>".to_vec(), &["is no IDX file", "[3c, 21, 44, 4f]", "[00, 00, 08, 03]", "download"]),
        ("header cut", good[..9].to_vec(), &["ends in the header, after 9 of 16 bytes"]),
        ("first byte", replaced(0, 1), &["is no IDX file"]),
        ("floats", replaced(2, 0x0d), &["type 0x0d", "unsigned bytes (type 0x08)"]),
        ("labels for images", idx_pair(2, 2)[1].clone(), &["has 1 dimensions, images have 3"]),
        ("no images", idx_file(&[0, 2, 2], &[]), &["holds no images", "[0, 2, 2]"]),
        ("no pixels", idx_file(&[2, 0, 2], &[]), &["holds no images"]),
        ("truncated", good[..23].to_vec(), &["is truncated", "need 8 bytes, it has 7"]),
        ("too long", [&good[..], &[0]].concat(), &["goes on after the 8 bytes"]),
        ("sizes overflow", idx_file(&[u32::MAX, u32::MAX, u32::MAX], &[1]), &["promises sizes", "4294967295", "damaged"]),
        ("sizes absurd", idx_file(&[1 << 20, 32, 33], &[1]), &["more than the 1073741824 bytes"]),
        ("sizes just allowed", idx_file(&[1 << 20, 32, 32], &[1]), &["is truncated", "need 1073741824 bytes, it has 1"]),
        ("gzip cut", zipped[..zipped.len() - 9].to_vec(), &["is truncated: the gzip stream has no end"]),
        ("gzip header only", zipped[..2].to_vec(), &["is truncated: the gzip stream has no end"]),
        ("gzip checksum", bad_sum, &["is damaged: its gzip stream cannot be read"]),
        ("gzip bomb", gz(&[&good[..], &vec![0; 50_000_000]].concat()), &["goes on after the 8 bytes"]),
    ];
    for (what, bytes, parts) in cases {
        let error = idx::images(Path::new("images.idx"), &bytes[..]).expect_err(what);
        says(&error, parts);
        says(&error, &["images.idx: "]);
    }
}

#[test]
fn damaged_idx_labels_are_named() {
    let [images, labels] = idx_pair(12, 2);
    let (path, labels_path) = (Path::new("images.idx"), Path::new("labels.idx"));
    let error = idx::labels(labels_path, &labels[..], 9).unwrap_err();
    says(error, &["labels.idx: record 9 has label 9, but the classes are 0..=8"]);
    let error = idx::split((path, &images[..]), (labels_path, &idx_pair(11, 2)[1][..]), 10).unwrap_err();
    says(error, &["labels.idx: has 11 labels for the 12 images of images.idx"]);
    let split = idx::split((path, &images[..]), (labels_path, &gz(&labels)[..]), 10).unwrap();
    assert_eq!((split.images.shape, split.len(), split.labels[11]), ([2, 2, 1], 12, 1));
    assert_eq!(split.images.image(1), [4, 5, 6, 7]);
}

#[test]
fn idx_folders_may_be_spelled_and_zipped_in_any_way() {
    let expected = load("mnist", Some(idx_folder().path())).unwrap();
    assert_eq!((expected.shape, expected.train.len(), expected.test.len(), expected.classes.len()), ([4, 4, 1], 20, 10, 10));
    type Rename = fn(&str) -> String;
    let cases: [(&str, Rename, bool); 7] = [
        ("gz", |name| format!("{name}.gz"), true),
        ("plain in spite of its name", |name| format!("{name}.gz"), false),
        ("gz in spite of its name", str::to_string, true),
        ("dots", |name| name.replace("-idx", ".idx"), false),
        ("dots and gz", |name| format!("{}.gz", name.replace("-idx", ".idx")), true),
        ("torchvision", |name| format!("MNIST/raw/{name}"), false),
        ("torchvision's folder", |name| format!("raw/{name}.gz"), true),
    ];
    for (what, rename, zip) in cases {
        let folder = idx_folder();
        for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap).collect::<Vec<_>>() {
            let bytes = std::fs::read(entry.path()).unwrap();
            std::fs::remove_file(entry.path()).unwrap();
            let path = folder.path().join(rename(entry.file_name().to_str().unwrap()));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, if zip { gz(&bytes) } else { bytes }).unwrap();
        }
        assert_eq!(load("mnist", Some(folder.path())).expect(what), expected, "{what}");
    }
    let fashion = load("fashion-mnist", Some(idx_folder().path())).unwrap();
    assert_eq!((fashion.name.as_str(), fashion.classes[2].as_str()), ("fashion-mnist", "Pullover"));
}

#[test]
fn broken_idx_folders_say_which_file_is_missing_or_wrong() {
    let folder = idx_folder();
    let nowhere = folder.path().join("nowhere");
    says(load("mnist", Some(&nowhere)).unwrap_err(), &["nowhere: does not exist", "--data-dir"]);
    let file = folder.path().join("train-images-idx3-ubyte");
    says(load("fashion-mnist", Some(&file)).unwrap_err(), &["is no folder", "dataset-fashion-mnist"]);

    type Break = fn(&Path);
    let cases: [(Break, &[&str]); 5] = [
        (
            |path| std::fs::remove_file(path.join("t10k-labels-idx1-ubyte")).unwrap(),
            &["has no t10k-labels-idx1-ubyte (nor t10k-labels-idx1-ubyte.gz, t10k-labels.idx1-ubyte", "--data-dir"],
        ),
        (|path| std::fs::remove_file(path.join("train-images-idx3-ubyte")).unwrap(), &["has no train-images-idx3-ubyte"]),
        (
            |path| std::fs::write(path.join("t10k-images-idx3-ubyte"), &idx_pair(10, 3)[0]).unwrap(),
            &["t10k-images-idx3-ubyte: has images of 3x3, the training images are 4x4"],
        ),
        (
            |path| std::fs::write(path.join("train-labels-idx1-ubyte"), &idx_pair(19, 4)[1]).unwrap(),
            &["train-labels-idx1-ubyte: has 19 labels for the 20 images of", "train-images-idx3-ubyte"],
        ),
        (
            |path| std::fs::write(path.join("train-labels-idx1-ubyte"), idx_file(&[20], &[10; 20])).unwrap(),
            &["train-labels-idx1-ubyte: record 0 has label 10, but the classes are 0..=9"],
        ),
    ];
    for (damage, parts) in cases {
        let folder = idx_folder();
        damage(folder.path());
        says(load("mnist", Some(folder.path())).unwrap_err(), parts);
    }
}

fn write_files(folder: &Path, files: &[(String, Vec<u8>)]) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn cifar_is_read_from_wherever_it_is() {
    for (name, layout, train, first) in [("cifar10", &cifar::CIFAR10, 15, 0.4914), ("cifar100", &cifar::CIFAR100, 3, 0.5071)] {
        let root = tempfile::tempdir().unwrap();
        let mut files = cifar_files(layout, 3);
        write_files(&root.path().join("plain"), &files);
        write_files(&root.path().join("above").join(layout.folder), &files);
        // Archives list their files in no particular order.
        files.reverse();
        files.insert(2, ("readme.html".into(), vec![b'x'; 700]));
        write_files(&root.path().join("archive"), &[(layout.archive.into(), gz(&tar(&files, layout.folder)))]);
        write_files(&root.path().join("unzipped"), &[("any.tar".into(), tar(&files, "."))]);

        let dataset = load(name, Some(&root.path().join("plain"))).unwrap();
        assert_eq!((dataset.shape, dataset.train.len(), dataset.test.len()), ([32, 32, 3], train, 3));
        assert_eq!((dataset.mean[0], dataset.classes[9].as_str(), dataset.classes.len()), (first, "class 9", layout.classes));
        for index in 0..train {
            assert_eq!(dataset.train.labels[index] as usize, index * 7 % layout.classes);
            let (y, x, c) = (index, 31 - index, index % 3);
            let expected = record(&[0], index)[1 + c * 1024 + y * 32 + x];
            assert_eq!(dataset.train.images.image(index)[(y * 32 + x) * 3 + c], expected, "{name}: image {index}");
        }
        assert_eq!(dataset.test.labels[0] as usize, train * 7 % layout.classes);
        for place in ["above", &format!("above/{}", layout.folder), "archive", &format!("archive/{}", layout.archive), "unzipped/any.tar"] {
            assert_eq!(load(name, Some(&root.path().join(place))).expect(place), dataset, "{place}");
        }
        std::fs::remove_file(root.path().join("plain").join(layout.names)).unwrap();
        let unnamed = load(name, Some(&root.path().join("plain"))).unwrap();
        assert_eq!(unnamed.classes[9], if name == "cifar10" { "truck" } else { "9" });
        assert_eq!(unnamed.classes.len(), layout.classes);
    }
}

#[test]
fn damaged_cifar_folders_say_what_is_wrong_and_where() {
    type Break = fn(&Path);
    let cases: [(&str, Break, &[&str]); 9] = [
        (
            "cifar10",
            |f| std::fs::remove_file(f.join("data_batch_3.bin")).unwrap(),
            &["data_batch_3.bin: is missing", "cifar-10-binary.tar.gz"],
        ),
        ("cifar10", |f| std::fs::remove_file(f.join("test_batch.bin")).unwrap(), &["test_batch.bin: is missing"]),
        (
            "cifar10",
            |f| std::fs::write(f.join("data_batch_2.bin"), [0; 3073 + 99]).unwrap(),
            &["data_batch_2.bin: has 3172 bytes", "no multiple of a record (3073 bytes)"],
        ),
        ("cifar10", |f| std::fs::write(f.join("test_batch.bin"), []).unwrap(), &["test_batch.bin: has 0 bytes"]),
        (
            "cifar10",
            |f| std::fs::write(f.join("data_batch_4.bin"), [record(&[9], 0), record(&[10], 1)].concat()).unwrap(),
            &["data_batch_4.bin: record 1 has label 10, but the classes are 0..=9"],
        ),
        (
            "cifar100",
            |f| std::fs::write(f.join("train.bin"), [record(&[19, 99], 0), record(&[20, 0], 1)].concat()).unwrap(),
            &["train.bin: record 1 has coarse label 20, but the classes are 0..=19"],
        ),
        (
            "cifar100",
            |f| std::fs::write(f.join("test.bin"), record(&[0, 100], 0)).unwrap(),
            &["test.bin: record 0 has label 100, but the classes are 0..=99"],
        ),
        ("cifar100", |f| std::fs::write(f.join("fine_label_names.txt"), "apple\n\nbear").unwrap(), &["names 2 classes, there are 100"]),
        (
            "cifar10",
            |f| {
                std::fs::remove_file(f.join("data_batch_1.bin")).unwrap();
                std::fs::create_dir(f.join("data_batch_1.bin")).unwrap();
            },
            &["data_batch_1.bin: "],
        ),
    ];
    for (name, damage, parts) in cases {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), &cifar_files(if name == "cifar10" { &cifar::CIFAR10 } else { &cifar::CIFAR100 }, 2));
        damage(folder.path());
        says(load(name, Some(folder.path())).unwrap_err(), parts);
    }
}

#[test]
fn places_without_cifar_say_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    says(load("cifar10", Some(&root.join("no"))).unwrap_err(), &["no: does not exist", "https://www.cs.toronto.edu/~kriz/cifar.html"]);
    says(
        load("cifar10", Some(root)).unwrap_err(),
        &["has neither data_batch_1.bin, nor cifar-10-batches-bin/, nor cifar-10-binary.tar.gz;", "--data-dir"],
    );
    std::fs::create_dir(root.join("cifar-100-python")).unwrap();
    says(
        load("cifar100", Some(root)).unwrap_err(),
        &["cifar-100-python is the version for Python, which is read when it is whole and unpacked", "binary version"],
    );
}

#[test]
fn a_folder_of_torchvision_gives_the_set_that_was_asked_for() {
    let root = tempfile::tempdir().unwrap();
    for (set, side) in [("MNIST", 4), ("FashionMNIST", 5)] {
        let folder = root.path().join(set).join("raw");
        std::fs::create_dir_all(&folder).unwrap();
        for (part, n) in [("train", 20), ("t10k", 10)] {
            let [images, labels] = idx_pair(n, side);
            std::fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
            std::fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
        }
    }
    for (name, side) in [("mnist", 4), ("fashion-mnist", 5)] {
        assert_eq!(load(name, Some(root.path())).unwrap().shape, [side, side, 1], "{name}");
    }
    // What is missing of one set is not taken from the other.
    std::fs::remove_file(root.path().join("FashionMNIST/raw/t10k-labels-idx1-ubyte")).unwrap();
    says(load("fashion-mnist", Some(root.path())).unwrap_err(), &["FashionMNIST/raw: has no t10k-labels-idx1-ubyte"]);
    std::fs::remove_dir_all(root.path().join("FashionMNIST")).unwrap();
    says(load("fashion-mnist", Some(root.path())).unwrap_err(), &["has no train-images-idx3-ubyte", "dataset-fashion-mnist"]);
}

/// Bytes as they come, bytes behind a good beginning, and good files with a byte changed or the end cut off.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let (start, len) = (good.clone(), good.len());
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..700),
        (prop::collection::vec(any::<u8>(), 0..100), 0..len.min(300)).prop_map(move |(rest, kept)| [&start[..kept], &rest].concat()),
        (0..len, any::<u8>(), 0..=len).prop_map(move |(at, byte, kept)| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes.truncate(kept.max(at));
            bytes
        }),
    ]
}

fn consistent(split: &Split, classes: usize) -> bool {
    split.images.pixels.len() == split.len() * split.images.size() && split.labels.iter().all(|&label| (label as usize) < classes)
}

proptest! {
    #[test]
    fn no_bytes_make_the_idx_reader_panic(
        images in prop_oneof![damaged(idx_pair(3, 4)[0].clone()), damaged(gz(&idx_pair(3, 4)[0]))],
        labels in prop_oneof![damaged(idx_pair(3, 4)[1].clone()), damaged(gz(&idx_pair(3, 4)[1]))],
    ) {
        let path = Path::new("any");
        let _ = idx::labels(path, &labels[..], 10);
        if let Ok(split) = idx::split((path, &images[..]), (path, &labels[..]), 10) {
            prop_assert!(consistent(&split, 10) && !split.is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_cifar_reader_panic(
        bytes in damaged(cifar_files(&cifar::CIFAR100, 2)[0].1.clone()), length in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        for layout in [&cifar::CIFAR10, &cifar::CIFAR100] {
            let mut split = cifar::empty_split();
            let length = length.unwrap_or(bytes.len() as u64);
            if cifar::append_records(Path::new("any"), length, &bytes[..], layout, &mut split).is_ok() {
                prop_assert!(consistent(&split, layout.classes) && split.len() as u64 * layout.record() as u64 == length);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_archive_reader_panic(
        bytes in prop_oneof![
            damaged(tar(&cifar_files(&cifar::CIFAR100, 1), "x")),
            damaged(gz(&tar(&cifar_files(&cifar::CIFAR100, 1), "x"))),
        ],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(dataset) = load("cifar100", Some(&path)) {
            prop_assert!(consistent(&dataset.train, 100) && consistent(&dataset.test, 100));
        }
    }

    #[test]
    fn idx_files_come_back_as_written(
        (n, height, width) in (1u32..9, 1u32..9, 1u32..9), zip: bool, pixels in prop::collection::vec(any::<u8>(), 512),
        labels in prop::collection::vec(0u8..7, 8),
    ) {
        let pixels = &pixels[..(n * height * width) as usize];
        let labels = &labels[..n as usize];
        let files = [idx_file(&[n, height, width], pixels), idx_file(&[n], labels)].map(|file| if zip { gz(&file) } else { file });
        let path = Path::new("any");
        let split = idx::split((path, &files[0][..]), (path, &files[1][..]), 7).unwrap();
        prop_assert_eq!(split.images.shape, [height as usize, width as usize, 1]);
        prop_assert_eq!(&split.images.pixels[..], pixels);
        prop_assert!(split.labels.iter().copied().eq(labels.iter().map(|&label| u32::from(label))));
    }

    #[test]
    fn cifar_files_come_back_as_written(
        labels in prop::collection::vec((0u8..20, 0u8..100), 1..4), pixels in prop::collection::vec(any::<u8>(), 3072 * 3),
    ) {
        let records = labels.iter().zip(pixels.chunks(3072));
        let bytes: Vec<u8> = records.clone().flat_map(|(&(coarse, fine), pixels)| [&[coarse, fine], pixels].concat()).collect();
        let mut split = cifar::empty_split();
        cifar::append_records(Path::new("any"), bytes.len() as u64, &bytes[..], &cifar::CIFAR100, &mut split).unwrap();
        prop_assert!(split.labels.iter().copied().eq(labels.iter().map(|&(_, fine)| u32::from(fine))));
        for (index, (_, planes)) in records.enumerate() {
            for (at, pixel) in split.images.image(index).chunks(3).enumerate() {
                prop_assert_eq!(pixel, &[planes[at], planes[1024 + at], planes[2048 + at]]);
            }
        }
    }
}
