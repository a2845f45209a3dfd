//! Pictures of one's own: every layout of folders and lists, squares, and the same bits from memory and from disk.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use dsr::Error;
use dsr::data::images::square;
use dsr::data::{
    Augment, AutoAugment, Batch, Dataset, ImageFit, Loader, OwnReading, Part, PhotoReading, Preparation, Reading, Told, open, prepare,
};
use tempfile::tempdir;

#[path = "support/own_sets.rs"]
mod own_sets;
use own_sets::{heap, picture, pictures, splits};

fn reading(share: Option<f64>) -> Reading {
    let photos = PhotoReading { size: 8, resize: 8, crop_scale: [1.0, 1.0], channels: 3, fit: ImageFit::Crop, takes_part: false };
    Reading { photos, own: OwnReading { share, ..OwnReading::default() }, ..Reading::default() }
}

fn counts(dataset: &Dataset) -> [usize; 2] {
    [dataset.train.len(), dataset.test.len()]
}

#[test]
fn every_layout_is_read() {
    for test in ["val", "valid", "validation", "test"] {
        let folder = tempdir().unwrap();
        splits(folder.path(), test, [3, 2]);
        pictures(&folder.path().join("train/oak/deeper/down"), 2, 1);
        let set = open("images", Some(folder.path()), &reading(None)).unwrap();
        assert_eq!((counts(&set), set.shape), ([10, 6], [8, 8, 3]), "{test}");
        assert_eq!(set.classes, ["ash", "birch", "oak"]);
        assert_eq!(set.label(), format!("images {}", folder.path().file_name().unwrap().display()));
    }
    // Of several the first is taken, and it is said.
    let folder = tempdir().unwrap();
    splits(folder.path(), "val", [2, 1]);
    splits(folder.path(), "test", [2, 5]);
    let set = open("images", Some(folder.path()), &reading(None)).unwrap();
    assert_eq!(counts(&set), [6, 3]);
    assert_eq!(set.stream.unwrap().note().unwrap(), "note: not read: test/");
}

#[test]
fn a_heap_is_divided_by_seed() {
    let folder = tempdir().unwrap();
    heap(folder.path(), 10);
    let files = |seed: u64, share: f64| {
        let mut reading = reading(Some(share));
        reading.own.seed = seed;
        let set = open("images", Some(folder.path()), &reading).unwrap();
        assert!(set.is_divided());
        let stream = set.stream.clone().unwrap();
        let path = |part| (0..stream.len(part)).map(|index| stream.path(part, index)).collect::<Vec<_>>();
        [path(Part::Train), path(Part::Test)]
    };
    let [train, test] = files(1, 0.2);
    assert_eq!((train.len(), test.len()), (24, 6));
    assert!(test.iter().all(|file| !train.contains(file)));
    assert_eq!(files(1, 0.2)[1], test);
    assert_ne!(files(2, 0.2)[1], test);
    // Another picture moves one of its class over the border at most, and none of another class.
    let before: Vec<_> = (0..8).map(|seed| files(seed, 0.2)).collect();
    fs::copy(folder.path().join("birch/003.png"), folder.path().join("birch/000a.png")).unwrap();
    for (seed, [train, test]) in (0..).zip(before) {
        let after = files(seed, 0.2);
        let came: Vec<_> = after[1].iter().filter(|file| !test.contains(file)).collect();
        let trained: Vec<_> = after[1].iter().filter(|file| train.contains(file)).collect();
        assert!(came.len() <= 1 && trained.is_empty() && came.iter().all(|file| file.ends_with("birch/000a.png")), "{seed}: {came:?}");
    }
    fs::remove_file(folder.path().join("birch/000a.png")).unwrap();
    // The same with a folder for the training split alone.
    let alone = tempdir().unwrap();
    heap(&alone.path().join("train"), 10);
    assert_eq!(counts(&open("images", Some(alone.path()), &reading(Some(0.5))).unwrap()), [15, 15]);
}

#[test]
fn lists_are_read() {
    let folder = tempdir().unwrap();
    heap(&folder.path().join("all"), 4);
    let list = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let rows: String = (0..4).map(|n| format!("all/ash/00{n}.png,10\nall/birch/00{n}.png,9\nall/oak/00{n}.png,2\n")).collect();
    let set = open("images", Some(&list("a.csv", &format!("path,label\n{rows}"))), &reading(Some(0.25))).unwrap();
    assert_eq!(set.classes, ["2", "9", "10"], "numbers are in their order");
    assert_eq!(counts(&set), [9, 3]);
    let split = "\u{feff}label, split ,file\noak,train,all/oak/000.png\nash,Training,all/ash/000.png\noak,test,all/oak/001.png\nash,val,all/ash/001.png\n";
    let set = open("images", Some(&list("b.csv", split)), &reading(None)).unwrap();
    assert_eq!((set.classes.clone(), counts(&set)), (vec!["ash".to_string(), "oak".to_string()], [2, 1]));
    assert_eq!(set.stream.unwrap().note().unwrap(), "note: not read: 1 rows of another split");
    let cases = [
        ("file;label\na;b\n", "names no column path"),
        ("path\na.png\n", "names no column label"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,\n", "line 2 has no label"),
        ("path,label\na.png\n", "is no CSV file"),
        ("path,label,split\na.png,b,dev\n", "line 2 has the split \"dev\"; known are train, val, valid and test"),
        ("path,label,split\na.png,b,val\n", "no row with the split train"),
        ("path,label,split\na.png,b,train\na.png,c,val\n", "is of class 'c', of which there are no pictures to train on"),
    ];
    for (text, problem) in cases {
        let error = open("images", Some(&list("c.csv", text)), &reading(None)).unwrap_err().to_string();
        assert!(error.contains(problem) && !error.contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn tiny_imagenets_layout_is_read() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for (class, name) in ["n01", "n02"].iter().enumerate() {
        pictures(&root.join("train").join(name).join("images"), class, 3);
        fs::write(root.join("train").join(name).join(format!("{name}_boxes.txt")), "n01_0.JPEG\t0\t0\t62\t62\n").unwrap();
    }
    pictures(&root.join("val/images"), 1, 3);
    pictures(&root.join("test/images"), 1, 3);
    let list = root.join("val/val_annotations.txt");
    fs::write(&list, "000.png\tn02\t0\t32\t44\t62\n001.png\tn01\t1\t1\t2\t2\n002.png\tn02\t0\t0\t6\t6\n").unwrap();
    let set = open("images", Some(root), &reading(None)).unwrap();
    assert_eq!((counts(&set), &set.test.labels[..]), ([6, 3], &[1, 0, 1][..]));
    fs::write(&list, "000.png n02\n").unwrap();
    let error = open("images", Some(root), &reading(None)).unwrap_err().to_string();
    assert!(error.contains("val_annotations.txt: line 1 is no file and class, parted by a tab"), "{error}");
}

#[test]
fn what_is_no_set_is_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let refused = |problem: &str| {
        let error = open("images", Some(root), &reading(None)).unwrap_err().to_string();
        assert!(error.contains(problem), "{error:?} does not say {problem:?}");
    };
    refused("has no class folders in it; expected are pictures in train/CLASS/");
    picture(0, 0, [5, 5]).save(root.join("loose.png")).unwrap();
    refused("has 1 pictures but no class folders");
    heap(root, 2);
    refused("val-share");
    fs::create_dir(root.join("elm")).unwrap();
    fs::write(root.join("elm/a.gif"), "").unwrap();
    refused("elm: has no pictures (.jpg");
    fs::remove_dir_all(root.join("elm")).unwrap();
    splits(root, "val", [2, 1]);
    pictures(&root.join("val/elm"), 1, 1);
    refused("is of class 'elm', of which there are no pictures to train on");
    let error = open("images", Some(Path::new("Cargo.toml")), &reading(None)).unwrap_err().to_string();
    assert!(error.contains("neither a folder of pictures nor a .csv"), "{error}");
}

#[test]
fn squares_are_what_they_are_called() {
    let wide = picture(1, 3, [20, 10]);
    let of = |fit: ImageFit, size: usize, channels: usize| {
        let reading = PhotoReading { size, resize: size, crop_scale: [1.0, 1.0], channels, fit, takes_part: false };
        square(wide.as_raw(), [10, 20], &reading)
    };
    let middle = image::imageops::crop_imm(&wide, 5, 0, 10, 10).to_image().into_raw();
    assert!(of(ImageFit::Crop, 10, 3) == middle);
    let padded = of(ImageFit::Pad, 20, 3);
    assert!(padded[..5 * 60].iter().chain(&padded[15 * 60..]).all(|&byte| byte == 0));
    assert!(padded[5 * 60..15 * 60] == wide.as_raw()[..]);
    let fitted = of(ImageFit::Fit, 20, 3);
    assert!(fitted.len() == 1200 && fitted.chunks_exact(3).all(|pixel| pixel[1] > 100));
    // Grey as Pillow has it: 150 of green with noise.
    let grey = of(ImageFit::Crop, 10, 1);
    let [r, g, b]: [u32; 3] = [0, 1, 2].map(|at| middle[at].into());
    assert_eq!((grey.len(), u32::from(grey[0])), (100, (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16));
}

fn batches(dataset: &Dataset, augment: Augment) -> Vec<Batch> {
    let shared = Arc::new(dataset.clone());
    Loader::train(Arc::clone(&shared), 7, augment, 5, 2, 0).chain(Loader::test(shared, 7)).collect()
}

#[test]
fn memory_and_disk_give_the_same_bits() {
    let folder = tempdir().unwrap();
    splits(folder.path(), "val", [5, 2]);
    for (fit, channels, auto_augment) in
        [(ImageFit::Crop, 3, AutoAugment::Off), (ImageFit::Pad, 1, AutoAugment::Off), (ImageFit::Fit, 3, AutoAugment::Cifar10)]
    {
        let mut reading = reading(None);
        (reading.photos.fit, reading.photos.channels) = (fit, channels);
        let mut held = open("images", Some(folder.path()), &reading).unwrap();
        prepare(&mut held, folder.path(), &Preparation::default(), &|_| Ok(())).unwrap();
        assert!(held.stream.is_none() && held.own.as_ref().unwrap().is_normalised);
        let (mean, std) = dsr::data::moments(&held.train.images, 255);
        for (channel, (mean, std)) in mean.into_iter().zip(std).enumerate() {
            assert_eq!((held.mean[channel], held.std[channel]), (mean as f32, std as f32));
        }
        let mut streamed = open("images", Some(folder.path()), &reading).unwrap();
        (streamed.mean, streamed.std) = (held.mean.clone(), held.std.clone());
        let augment = Augment { crop_pad: 2, flip: true, auto_augment, ..Augment::default() };
        assert!(batches(&held, augment) == batches(&streamed, augment), "{fit:?}");
    }
}

/// On one thread, so that nothing else is on its way: of many pictures a single one is decoded, or read, and no file is left.
#[test]
fn who_listens_may_end_the_preparation_of_data() {
    let folder = tempdir().unwrap();
    splits(folder.path(), "val", [20, 20]);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (preparation, what) in [
        (Preparation::default(), "decoded"),
        (Preparation { skip_unreadable: 1, ..Preparation::default() }, "read"),
        (Preparation { converts: true, ..Preparation::default() }, "converted"),
    ] {
        let mut set = open("images", Some(folder.path()), &reading(None)).unwrap();
        let told = Mutex::new(Vec::new());
        let tell = |heard: Told| match heard {
            Told::Note(_) => Ok(()),
            Told::Done { what, .. } => {
                told.lock().unwrap().push(what.to_string());
                Err(Error::config("listener", "no more"))
            }
        };
        let error = one.install(|| prepare(&mut set, folder.path(), &preparation, &tell)).unwrap_err().to_string();
        assert_eq!((error.as_str(), told.into_inner().unwrap()), ("listener: no more", vec![what.to_string()]));
        let left = std::fs::read_dir(folder.path().join(".dsr-cache")).into_iter().flatten().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "lock").collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[test]
fn squares_on_disk_are_those_of_decoding() {
    let folder = tempdir().unwrap();
    splits(folder.path(), "val", [5, 2]);
    let made = |converts: bool| {
        let mut set = open("images", Some(folder.path()), &reading(None)).unwrap();
        prepare(&mut set, folder.path(), &Preparation { converts, ..Preparation::default() }, &|_| Ok(())).unwrap();
        set
    };
    let decoded = made(false);
    assert!(!folder.path().join(".dsr-cache").exists(), "nothing is written unasked");
    let converted = made(true);
    let again = made(false);
    assert!(again.own.as_ref().unwrap().squares.is_some() && again.train == decoded.train && converted.test == decoded.test);
    // Of other decoders, squares may have other pixels.
    let squares = again.own.as_ref().unwrap().squares.clone().unwrap();
    let kept = fs::read(&squares).unwrap();
    let at = kept.windows(10).position(|part| part == b"image 0.25").unwrap();
    fs::write(&squares, [&kept[..at], b"image 0.24", &kept[at + 10..]].concat()).unwrap();
    assert!(made(false).own.as_ref().unwrap().squares.is_none());
    fs::write(&squares, kept).unwrap();
    assert!(made(false).own.as_ref().unwrap().squares.is_some());
    // Another picture in the place of one: made from the files, not from what was kept.
    picture(0, 77, [30, 12]).save(folder.path().join("train/oak/000.png")).unwrap();
    let changed = made(false);
    assert!(changed.own.as_ref().unwrap().squares.is_none() && changed.train != decoded.train);
}

#[test]
fn given_numbers_are_taken() {
    let folder = tempdir().unwrap();
    splits(folder.path(), "val", [2, 1]);
    let mut reading = reading(None);
    (reading.own.mean, reading.own.std) = (vec![0.25, 0.5, 0.75], vec![0.5, 1.0, 2.0]);
    let mut set = open("images", Some(folder.path()), &reading).unwrap();
    prepare(&mut set, folder.path(), &Preparation::default(), &|_| Ok(())).unwrap();
    assert_eq!((set.mean.clone(), set.std.clone()), (vec![0.25, 0.5, 0.75], vec![0.5, 1.0, 2.0]));
    reading.photos.channels = 1;
    let error = open("images", Some(folder.path()), &reading).unwrap_err().to_string();
    assert!(error.starts_with("mean: 3 numbers, but samples of ") && error.ends_with("have 1 channels; give one for each"), "{error}");
}
