//! ImageNet: which photos there are, random crops, batches, and files that cannot be read.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dsr::data::photos::{middle, random_crop};
use dsr::data::{Augment, Batch, Dataset, ImageFit, Loader, Part, PhotoReading, Preparation, Reading, open, picture, prepare};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tempfile::{TempDir, tempdir};

#[path = "support/streamed_sets.rs"]
mod streamed_sets;
use streamed_sets::photos;

const SMALL: PhotoReading =
    PhotoReading { size: 24, resize: 28, crop_scale: [0.08, 1.0], channels: 3, fit: ImageFit::Crop, takes_part: true };

fn set() -> TempDir {
    let folder = tempdir().unwrap();
    photos(folder.path());
    folder
}

fn opened(root: &Path) -> dsr::error::Result<Dataset> {
    open("imagenet", Some(root), &Reading { photos: SMALL, ..Reading::default() })
}

#[test]
fn classes_are_folders_in_order() {
    let folder = set();
    // What is no photo does not count, whatever it is called; nor does what is hidden.
    fs::write(folder.path().join("train/n02/Thumbs.db"), "x").unwrap();
    fs::write(folder.path().join("train/n02/._n02_0.JPEG"), "x").unwrap();
    fs::create_dir(folder.path().join("train/.cache")).unwrap();
    fs::write(folder.path().join("train/readme.txt"), "x").unwrap();
    let dataset = opened(folder.path()).unwrap();
    assert_eq!((dataset.classes.join(" ").as_str(), dataset.shape, dataset.frames), ("n01 n02 n03", [24, 24, 3], 1));
    assert_eq!(dataset.train.labels, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!(dataset.test.labels, [0, 0, 1, 1, 2, 2]);
    assert_eq!((dataset.mean[0], dataset.std[2]), (0.485, 0.225));
    assert_eq!(dataset.stream.as_ref().unwrap().path(Part::Test, 3), folder.path().join("val/n02/n02_1.png"));
}

fn batches(dataset: &Dataset, threads: usize, batch: usize, epoch: usize) -> Vec<Batch> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let augment = Augment { flip: true, ..Augment::default() };
    let dataset = Arc::new(dataset.clone());
    pool.install(|| Loader::train(Arc::clone(&dataset), batch, augment, 1, epoch, 0).chain(Loader::test(dataset, batch)).collect())
}

#[test]
fn a_photo_gets_the_same_crop_whatever_the_threads_and_the_batch() {
    let folder = set();
    let dataset = opened(folder.path()).unwrap();
    let expected = batches(&dataset, 1, 5, 3);
    let sizes: Vec<usize> = expected.iter().map(|batch| batch.data.len() / (24 * 24 * 3)).collect();
    assert_eq!(sizes, [5, 5, 2, 5, 1]);
    for threads in [2, 3] {
        assert_eq!(batches(&dataset, threads, 5, 3), expected, "{threads} threads");
    }
    let all = |batches: Vec<Batch>| batches.into_iter().flat_map(|batch| batch.data).collect::<Vec<f32>>();
    let one_by_one = all(batches(&dataset, 2, 1, 3));
    assert!(one_by_one == all(expected));
    // Another epoch has other crops, and the test photos are as they were.
    let other = all(batches(&dataset, 2, 1, 4));
    let train = 12 * 24 * 24 * 3;
    assert!(other[..train] != one_by_one[..train] && other[train..] == one_by_one[train..]);
}

#[test]
fn test_photos_are_their_middle_normalised() {
    let folder = set();
    let dataset = opened(folder.path()).unwrap();
    let image = picture::read(&folder.path().join("val/n01/n01_1.png")).unwrap();
    let bytes = middle(image.as_raw(), [image.height() as usize, image.width() as usize], 28, 24);
    let expected: Vec<f32> =
        bytes.iter().enumerate().map(|(i, &b)| (f32::from(b) / 255.0 - dataset.mean[i % 3]) / dataset.std[i % 3]).collect();
    let batch = Loader::test(Arc::new(dataset), 2).next().unwrap();
    assert!(batch.data[24 * 24 * 3..] == expected);
}

#[test]
fn a_flip_mirrors_and_nothing_else() {
    let folder = set();
    let dataset = Arc::new(opened(folder.path()).unwrap());
    let epoch = |flip: bool| -> Vec<f32> {
        let augment = Augment { flip, ..Augment::default() };
        Loader::train(Arc::clone(&dataset), 4, augment, 1, 0, 0).flat_map(|batch| batch.data).collect()
    };
    let (plain, flipped) = (epoch(false), epoch(true));
    let mut mirrored = 0;
    for (a, b) in plain.chunks_exact(24 * 24 * 3).zip(flipped.chunks_exact(24 * 24 * 3)) {
        let mirror: Vec<f32> = a.chunks_exact(24 * 3).flat_map(|row| row.chunks_exact(3).rev().flatten().copied()).collect();
        assert!(a == b || mirror == b);
        mirrored += usize::from(a != b);
    }
    assert!((1..12).contains(&mirrored), "{mirrored} of 12");
}

#[test]
fn random_crops_have_the_shares_and_shapes_that_were_asked_for() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let n = 20_000;
    let (mut share, mut log_aspect, mut top) = (0.0, 0.0, 0.0);
    for _ in 0..n {
        let crop = random_crop([1000, 1000], [0.1, 0.5], &mut rng);
        let [height, width] = crop.size.map(|side| side as f64);
        assert!((0.099..0.501).contains(&(height * width / 1e6)), "{crop:?}");
        assert!((0.745..1.34).contains(&(width / height)), "{crop:?}");
        share += height * width / 1e6 / f64::from(n);
        log_aspect += (width / height).ln() / f64::from(n);
        top += crop.at[0] as f64 / (1000.0 - height) / f64::from(n);
    }
    // Uniform in share, in the logarithm of the shape, and in the place: the means, within five times what chance moves them.
    assert!((share - 0.3).abs() < 5.0 * 0.4 / 12f64.sqrt() / 141.0, "{share}");
    assert!(log_aspect.abs() < 5.0 * 0.576 / 12f64.sqrt() / 141.0, "{log_aspect}");
    assert!((top - 0.5).abs() < 5.0 / 12f64.sqrt() / 141.0, "{top}");
}

#[test]
fn where_no_crop_fits_the_middle_is_taken() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    // torchvision.transforms.RandomResizedCrop.get_params on photos that are too long: top and left, height and width.
    let cases = [([10, 1000], [0, 493], [10, 13]), ([1000, 10], [493, 0], [13, 10]), ([100, 136], [0, 1], [100, 133])];
    for (photo, at, size) in cases {
        let crop = random_crop(photo, [1.0, 1.0], &mut rng);
        assert_eq!((crop.at, crop.size), (at, size), "{photo:?}");
    }
}

proptest! {
    #[test]
    fn a_crop_lies_inside(rows in 1..3000usize, columns in 1..3000usize, low in 0.001..1.0f64, high in 0.001..1.0f64, seed: u64) {
        let crop = random_crop([rows, columns], [low.min(high), low.max(high)], &mut ChaCha8Rng::seed_from_u64(seed));
        prop_assert!(crop.size[0] >= 1 && crop.size[1] >= 1);
        prop_assert!(crop.at[0] + crop.size[0] <= rows && crop.at[1] + crop.size[1] <= columns, "{crop:?}");
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    type Change = fn(&Path);
    let cases: [(Change, &str, &[&str]); 9] = [
        (|root| fs::remove_dir_all(root.join("val")).unwrap(), "val", &["does not exist", "train/CLASS/*.JPEG", "docs/data.md"]),
        (|root| fs::rename(root.join("train"), root.join("training")).unwrap(), "train", &["does not exist"]),
        (|root| fs::remove_dir_all(root.join("val/n02")).unwrap(), "val/n02", &["is missing, though train/ has that class"]),
        (|root| fs::create_dir(root.join("val/n04")).unwrap(), "val/n04", &["is no class of train/", "same class folders", "docs/data.md"]),
        (
            |root| {
                (1..4).for_each(|n| fs::remove_dir_all(root.join(format!("val/n0{n}"))).unwrap());
                fs::write(root.join("val/ILSVRC2012_val_00000001.JPEG"), "x").unwrap();
            },
            "val",
            &["has 1 photos but no class folders", "move each photo into the folder of its class"],
        ),
        (|root| (1..4).for_each(|n| fs::remove_dir_all(root.join(format!("train/n0{n}"))).unwrap()), "train", &["has no folders in it"]),
        (
            |root| {
                fs::remove_dir_all(root.join("train/n02")).unwrap();
                fs::create_dir(root.join("train/n02")).unwrap();
            },
            "train/n02",
            &["has no photos (.jpg, .jpeg, .jpe, "],
        ),
        (
            |root| ["config.toml", "last.safetensors"].iter().for_each(|name| fs::write(root.join("val/n02").join(name), "").unwrap()),
            "val/n02",
            &["has no photos (.jpg, .jpeg, .jpe, ", "; not read, with a training run in it: ", "; every class needs some"],
        ),
        (|root| fs::remove_dir_all(root).unwrap(), "train", &["does not exist"]),
    ];
    for (change, place, parts) in cases {
        let folder = set();
        let root = folder.path().to_path_buf();
        change(&root);
        let error = opened(&root).expect_err(place).to_string();
        assert!(error.starts_with(&format!("{}: ", root.join(place).display())) && !error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing in {error:?}");
        }
    }
}

#[test]
fn an_unreadable_photo_ends_the_pass_or_is_left_out() {
    let folder = set();
    let bad = folder.path().join("train/n02/n02_0.JPEG");
    let half = fs::read(&bad).unwrap();
    fs::write(&bad, &half[..half.len() / 2]).unwrap();
    let ready = |skip_unreadable: usize| {
        let mut dataset = opened(folder.path())?;
        prepare(&mut dataset, folder.path(), &Preparation { skip_unreadable, ..Preparation::default() }, &|_| Ok(()))?;
        Ok::<Dataset, dsr::error::Error>(dataset)
    };
    let mut loader = Loader::train(Arc::new(ready(0).unwrap()), 5, Augment::default(), 1, 3, 0);
    let seen = loader.by_ref().count();
    let error = loader.outcome().unwrap_err().to_string();
    assert!(seen < 3 && error == format!("{}: is a JPEG that is cut off; get it again", bad.display()), "{seen}: {error}");
    assert!(loader.outcome().is_ok() && loader.next().is_none(), "told once");
    assert!(!folder.path().join(".dsr-cache").exists(), "nothing is written unless it is asked for");

    for _ in 0..2 {
        let dataset = ready(1).unwrap(); // the second time from the list that the first one left
        assert_eq!(dataset.train.labels, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(batches(&dataset, 2, 4, 0).len(), 3 + 2);
    }
    // One more is more than allowed; a class with no photo left is no class.
    let second = folder.path().join("val/n02/n02_0.JPEG");
    fs::write(&second, "").unwrap();
    let error = ready(1).unwrap_err().to_string();
    assert!(error.contains("2 files cannot be read, 1 may be left out") && error.contains("n02_0.JPEG: is empty"), "{error}");
    fs::write(folder.path().join("val/n02/n02_1.png"), "").unwrap();
    let error = ready(9).unwrap_err().to_string();
    assert!(error.contains("val/n02: has no photo that can be read"), "{error}");
}

#[test]
fn folders_and_formats_are_those_of_torchvision() {
    let folder = set();
    let class = folder.path().join("train/n02");
    for inner in ["b", "b/c", "b-d", ".hidden"] {
        fs::create_dir(class.join(inner)).unwrap();
    }
    let photo = image::RgbImage::from_pixel(30, 30, image::Rgb([9, 8, 7]));
    for name in ["b/z.webp", "b/a.bmp", "b/c/x.ppm", "b-d/y.PNG", "a.png", ".hidden/h.png"] {
        photo.save(class.join(name)).unwrap();
    }
    for name in ["n.jfif", "n.jpe"] {
        fs::copy(class.join("n02_0.JPEG"), class.join(name)).unwrap();
    }
    for name in ["b/t.tif", "u.TIFF", "v.gif", "notes.txt"] {
        fs::write(class.join(name), "x").unwrap();
    }
    let mut dataset = opened(folder.path()).unwrap();
    let stream = dataset.stream.clone().unwrap();
    let names: Vec<String> =
        (4..15).map(|i| stream.path(Part::Train, i).strip_prefix(&class).unwrap().to_str().unwrap().to_string()).collect();
    // sorted(os.walk(folder)), and the sorted files of each.
    let expected = [
        "a.png",
        "n.jfif",
        "n.jpe",
        "n02_0.JPEG",
        "n02_1.png",
        "n02_2.JPEG",
        "n02_3.JPEG",
        "b/a.bmp",
        "b/z.webp",
        "b-d/y.PNG",
        "b/c/x.ppm",
    ];
    assert_eq!(names, expected);
    assert_eq!(dataset.train.labels.iter().filter(|&&label| label == 1).count(), 11);
    let notes = std::sync::Mutex::new(Vec::new());
    let tell = |told: dsr::data::Told| {
        if let dsr::data::Told::Note(note) = told {
            notes.lock().unwrap().push(note.to_string());
        }
        Ok(())
    };
    prepare(&mut dataset, folder.path(), &Preparation::default(), &tell).unwrap();
    let notes = notes.into_inner().unwrap();
    assert!(notes.len() == 1 && notes[0].starts_with("left out 3 pictures of kinds that are not read (.tif, "), "{notes:?}");
    assert_eq!(batches(&dataset, 2, 5, 0).len(), 4 + 2);

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&class, class.join("b/again")).unwrap();
        let again = opened(folder.path()).unwrap();
        let notes = again.stream.as_ref().unwrap().notes();
        assert!(notes.len() == 2 && notes[1].starts_with("note: not followed, a link to a folder above it: "), "{notes:?}");
        assert!(notes[1].ends_with("b/again") && again.train.labels == dataset.train.labels, "{notes:?}");
    }
}

#[test]
fn the_middle_of_a_thin_photo_is_that_of_the_whole_resized() {
    use dsr::data::resample::{Area, bilinear};
    for [rows, columns] in [[3, 700], [700, 3], [5, 5], [40, 41], [200, 1], [61, 300], [28, 90], [90, 28]] {
        let pixels: Vec<u8> = (0..rows * columns * 3).map(|i| (i * i % 251) as u8).collect();
        for (resize, size) in [(28, 24), (28, 28), (60, 1), (17, 16)] {
            let to = [rows, columns].map(|side| resize * side / rows.min(columns));
            let whole = bilinear(&Area { pixels: &pixels, stride: columns, at: [0, 0], size: [rows, columns] }, to);
            let [top, left] = to.map(|side| ((side - size) as f64 / 2.0).round_ties_even() as usize);
            let expected: Vec<u8> = (top..top + size).flat_map(|y| &whole[(y * to[1] + left) * 3..][..size * 3]).copied().collect();
            assert!(middle(&pixels, [rows, columns], resize, size) == expected, "{rows}x{columns}, {resize}, {size}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn only_damaged_contents_are_remembered() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let folder = set();
    let class = folder.path().join("train/n02");
    let ready = |skip_unreadable: usize| {
        let mut dataset = opened(folder.path())?;
        prepare(&mut dataset, folder.path(), &Preparation { skip_unreadable, ..Preparation::default() }, &|_| Ok(()))?;
        Ok::<usize, dsr::error::Error>(dataset.train.len())
    };
    let lists = || {
        let files = fs::read_dir(folder.path().join(".dsr-cache")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.to_str().unwrap().contains("unreadable-")).collect::<Vec<_>>()
    };
    // Damaged contents, a link to nothing, a name that is no text, and a file that the system does not give.
    let text = class.join(std::ffi::OsStr::from_bytes(b"\xff.jpg"));
    fs::write(&text, "no photo").unwrap();
    fs::write(class.join("n02_0.JPEG"), "no photo").unwrap();
    symlink(class.join("nothing"), class.join("dangling.jpg")).unwrap();
    symlink("/proc/self/mem", class.join("refused.png")).unwrap();
    let error = ready(3).unwrap_err().to_string();
    assert!(error.contains("4 files cannot be read, 3 may be left out; the next one: "), "{error}");
    assert_eq!((ready(4).unwrap(), lists().len()), (11, 0));
    fs::remove_file(class.join("refused.png")).unwrap();
    for _ in 0..2 {
        assert_eq!((ready(3).unwrap(), lists().len()), (11, 1));
        assert_eq!(fs::read_to_string(&lists()[0]).unwrap(), "[5,9]", "places of the damaged files in the set");
    }
    // What the link names is there again: the photo counts, and all are looked at anew.
    fs::copy(class.join("n02_1.png"), class.join("nothing")).unwrap();
    assert_eq!((ready(2).unwrap(), lists().len()), (12, 2));
}
