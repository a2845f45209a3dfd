//! The sets that are built in, and what becomes of a set on its way into a network: order, crops, flips, batches.
//! The readers of files are tested in data_files.rs.

use std::path::Path;
use std::sync::Arc;

use dsr::data::{
    Augment, AutoAugment, Batch, Dataset, Draw, EventChange, Images, Loader, Part, Pixels, Split, check_batch, contact_sheet, epoch_order,
    load, moments, names, problems, summarize,
};
use proptest::prelude::*;

/// A set whose labels number its images, so that a batch tells which images are in it; the bytes look random.
fn numbered(images: usize, shape: [usize; 3]) -> Dataset {
    let size: usize = shape.iter().product();
    let byte = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8;
    let split = |first: usize, n: usize| Split {
        images: Images { shape, pixels: (first * size..(first + n) * size).map(byte).collect() },
        labels: (first as u32..(first + n) as u32).collect(),
    };
    let classes = (0..images + 7).map(|class| format!("image {class}")).collect();
    Dataset::new("numbered", classes, split(0, images), split(images, 7), 255).unwrap()
}

#[test]
fn built_in_sets_are_the_published_ones() {
    // Counts, checksums and moments as a separate script in another language found them in the files.
    struct Case {
        name: &'static str,
        shape: [usize; 3],
        images: [usize; 2],
        crc32c: [u32; 2],
        max_value: u8,
        mean: &'static [f64],
        std: &'static [f64],
    }
    let cases = [
        Case {
            name: "fashion-mnist-3k",
            shape: [28, 28, 1],
            images: [2500, 500],
            crc32c: [0xc2622af8, 0x7d9910a5],
            max_value: 255,
            mean: &[0.28587574],
            std: &[0.35335933],
        },
        Case {
            name: "digits-8x8",
            shape: [8, 8, 1],
            images: [1437, 360],
            crc32c: [0xef2fdd07, 0x74734431],
            max_value: 16,
            mean: &[0.30538611],
            std: &[0.37550711],
        },
        Case {
            name: "photo-patches-10",
            shape: [32, 32, 3],
            images: [500, 120],
            crc32c: [0xc2ab2f37, 0x70c859c8],
            max_value: 255,
            mean: &[0.47096114, 0.36684845, 0.33878590],
            std: &[0.27477105, 0.21723344, 0.21967744],
        },
    ];
    for Case { name, shape, images, crc32c, max_value, mean, std } in cases {
        let dataset = load(name, None).unwrap();
        let summary = summarize(&dataset);
        assert_eq!((dataset.name.as_str(), dataset.shape, dataset.max_value), (name, shape, max_value));
        assert_eq!([summary.train.images, summary.test.images], images, "{name}");
        assert_eq!([summary.train.crc32c, summary.test.crc32c], crc32c.map(Some), "{name}");
        assert_eq!([dataset.train.images.len(), dataset.test.images.len()], images, "{name}");
        assert_eq!(dataset.classes.len(), 10, "{name}");
        assert_eq!(dataset.train.images.pixels.iter().copied().max(), Some(max_value), "{name}");
        for (got, expected) in [(&dataset.mean, mean), (&dataset.std, std)] {
            assert_eq!(got.len(), expected.len(), "{name}");
            assert!(got.iter().zip(expected).all(|(g, e)| (f64::from(*g) - e).abs() < 1e-7), "{name}: {got:?}, expected {expected:?}");
        }
        assert_eq!(problems(&summary).unwrap(), Vec::<String>::new(), "{name}");
    }
    assert_eq!(load("fashion-mnist-3k", None).unwrap().classes[9], "Ankle boot");
    assert_eq!(load("photo-patches-10", None).unwrap().classes[1], "chelsea");
    assert_eq!(summarize(&load("digits-8x8", None).unwrap()).test.per_class, [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]);
}

#[test]
fn names_are_known_and_others_are_refused() {
    let known = [
        "fashion-mnist-3k",
        "digits-8x8",
        "photo-patches-10",
        "fashion-mnist",
        "mnist",
        "cifar10",
        "cifar100",
        "dvs-cifar10",
        "imagenet",
        "images",
        "arrays",
        "events",
        "dvs-gesture",
        "n-mnist",
        "n-caltech101",
    ];
    assert_eq!(names(), known);
    let cases: [(&str, Option<&str>, &[&str]); 8] = [
        (
            "cifar-10",
            None,
            &["dataset:", "unknown data set 'cifar-10'; did you mean 'cifar10'?", "cifar10, cifar100, dvs-cifar10, imagenet"],
        ),
        ("", None, &["dataset:", "fashion-mnist-3k"]),
        ("imagenet", None, &["data-dir:", "imagenet is read from disk", "docs/data.md", "--data-dir"]),
        ("dvs-cifar10", None, &["data-dir:", "dvs-cifar10 is read from disk", "docs/data.md"]),
        ("digits-8x8", Some("/tmp"), &["data-dir:", "digits-8x8 is built in", "/tmp"]),
        ("photo-patches-10", Some("/tmp"), &["data-dir:", "built in"]),
        ("mnist", None, &["data-dir:", "mnist is read from disk", "--data-dir"]),
        ("cifar100", None, &["data-dir:", "cifar-100-binary.tar.gz", "--data-dir"]),
    ];
    for (name, data_dir, parts) in cases {
        let error = load(name, data_dir.map(Path::new)).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{name}: {error:?} does not say {part:?}");
        }
    }
    let usual = Path::new("/usr/share/datasets/fashion-mnist");
    match load("fashion-mnist", None) {
        Ok(dataset) => assert!(usual.is_dir() && dataset.classes[0] == "T-shirt/top"),
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("/usr/share/datasets/fashion-mnist") && error.contains("dataset-fashion-mnist"), "{error}");
        }
    }
}

#[test]
fn a_changed_set_is_found_out() {
    type Change = fn(&mut Dataset);
    let cases: [(Change, &str); 5] = [
        (|set| set.train.images.pixels[12_345] ^= 1, "training split has checksum"),
        (|set| set.test.labels.swap(0, 1), "test split has checksum"),
        (|set| set.test.labels[0] = 0, "test images of each class are"),
        (|set| set.shape = [32, 32, 3], "images are [32, 32, 3]"),
        (
            |set| {
                set.train.labels.pop();
            },
            "2499 training images, published are 2500",
        ),
    ];
    let dataset = load("fashion-mnist-3k", None).unwrap();
    assert_eq!(dataset.test.labels[..2], [9, 2]);
    for (change, expected) in cases {
        let mut changed = dataset.clone();
        change(&mut changed);
        let problems = problems(&summarize(&changed)).unwrap().join("; ");
        assert!(problems.contains(expected), "{problems:?} does not say {expected:?}");
    }
}

#[test]
fn sets_that_do_not_fit_together_are_refused() {
    let split = |shape: [usize; 3], bytes: usize, labels: &[u32]| Split {
        images: Images { shape, pixels: vec![0; bytes] },
        labels: labels.to_vec(),
    };
    let good = || split([2, 1, 1], 4, &[0, 1]);
    let cases = [
        (good(), split([1, 2, 1], 4, &[0, 1]), 255, "test images: expected [2, 1, 1], got [1, 2, 1]"),
        (split([2, 1, 1], 5, &[0, 1]), good(), 255, "training images: expected"),
        (good(), split([2, 1, 1], 4, &[0]), 255, "test images: expected"),
        (split([2, 1, 1], 0, &[]), good(), 255, "at least one"),
        (good(), split([2, 1, 1], 4, &[1, 2]), 255, "test image 1 has label 2"),
        (good(), good(), 0, "max_value"),
    ];
    for (train, test, max_value, expected) in cases {
        let classes = vec!["a".to_string(), "b".to_string()];
        let error = Dataset::new("pair", classes, train, test, max_value).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    let flat = Dataset::new("flat", vec!["a".into(), "b".into()], good(), good(), 255).unwrap();
    assert_eq!((flat.mean, flat.std), (vec![0.0], vec![1.0]), "a channel without variance must stay finite");
}

#[test]
fn moments_are_those_of_the_definition() {
    let images = Images { shape: [1, 2, 2], pixels: vec![0, 10, 4, 20, 8, 30, 12, 40] };
    let (mean, std) = moments(&images, 16);
    assert_eq!(mean, [6.0 / 16.0, 25.0 / 16.0]);
    assert_eq!(std, [20f64.sqrt() / 16.0, 125f64.sqrt() / 16.0]);
}

/// Crop, flip and normalise with a padded image, pixel by pixel.
fn slow(dataset: &Dataset, image: &[u8], pad: usize, draw: Draw) -> Vec<f32> {
    let [height, width, channels] = dataset.shape;
    let (padded_height, padded_width) = (height + 2 * pad, width + 2 * pad);
    let mut padded = vec![0u8; padded_height * padded_width * channels];
    for y in 0..height {
        for x in 0..width {
            for c in 0..channels {
                padded[((y + pad) * padded_width + x + pad) * channels + c] = image[(y * width + x) * channels + c];
            }
        }
    }
    let mut cut = vec![0u8; image.len()];
    for y in 0..height {
        for x in 0..width {
            for c in 0..channels {
                let target = if draw.flip { width - 1 - x } else { x };
                cut[(y * width + target) * channels + c] = padded[((y + draw.top) * padded_width + x + draw.left) * channels + c];
            }
        }
    }
    let normalised = |(i, &byte): (usize, &u8)| {
        let value = f32::from(byte) / f32::from(dataset.max_value);
        (value - dataset.mean[i % channels]) / dataset.std[i % channels]
    };
    cut.iter().enumerate().map(normalised).collect()
}

proptest! {
    #[test]
    fn augmentation_is_that_of_a_slow_reference(
        shape in [1usize..6, 1usize..6, 1usize..4], pad in 0usize..5, at in (0usize..9, 0usize..9), flip: bool, seed: u8,
    ) {
        let mut dataset = numbered(3, shape);
        dataset.max_value = if flip { 255 } else { 16 };
        for (c, (mean, std)) in dataset.mean.iter_mut().zip(&mut dataset.std).enumerate() {
            (*mean, *std) = (0.1 + 0.2 * c as f32, 0.3 + 0.1 * c as f32);
        }
        let draw = Draw { top: at.0 % (2 * pad + 1), left: at.1 % (2 * pad + 1), flip };
        let image: Vec<u8> = dataset.train.images.image(1).iter().map(|byte| byte.wrapping_add(seed)).collect();
        let mut got = vec![7.0];
        Pixels::of(&dataset).append_drawn(&image, pad, draw, &mut got);
        prop_assert_eq!(&got[1..], slow(&dataset, &image, pad, draw));
        prop_assert_eq!(got[0], 7.0);
    }
}

#[test]
fn padding_is_black_before_normalisation() {
    let mut dataset = numbered(2, [4, 4, 3]);
    (dataset.mean, dataset.std) = (vec![0.4914, 0.4822, 0.4465], vec![0.2023, 0.1994, 0.2010]);
    let mut out = Vec::new();
    Pixels::of(&dataset).append_drawn(&[255; 48], 4, Draw { top: 0, left: 0, flip: false }, &mut out);
    for pixel in out.chunks(3) {
        // (0 − mean) / std, what torchvision makes of a padded pixel.
        assert_eq!(pixel, [-0.4914f32 / 0.2023, -0.4822f32 / 0.1994, -0.4465f32 / 0.2010]);
    }
}

#[test]
fn draws_cover_every_offset_evenly_and_depend_on_everything() {
    let augment = Augment { crop_pad: 2, flip: true, ..Augment::default() };
    let draws: Vec<Draw> = (0..5000).map(|index| augment.draw(3, 1, index)).collect();
    // 50 cells expect 100 draws each; 60..=140 is four standard deviations.
    for top in 0..=4 {
        for left in 0..=4 {
            for flip in [false, true] {
                let count = draws.iter().filter(|&&draw| draw == Draw { top, left, flip }).count();
                assert!((60..=140).contains(&count), "{count} draws of {top} {left} {flip}");
            }
        }
    }
    for (seed, epoch, first) in [(4, 1, 0), (3, 2, 0), (3, 1, 1)] {
        let equal = draws.iter().zip(first..).filter(|(draw, index)| augment.draw(seed, epoch, *index) == **draw).count();
        assert!(equal < 200, "{equal} of 5000 draws are the same for ({seed}, {epoch}, {first})");
    }
    let none = Augment::default().draw(3, 1, 0);
    assert_eq!(none, Draw { top: 0, left: 0, flip: false });
}

/// Fixes what a seed means: a change here makes every checkpoint resume into another run. The numbers come from ChaCha8 as
/// written anew, in another language, from its definition.
#[test]
fn a_seed_means_what_it_always_meant() {
    assert_eq!(epoch_order(8, 1, 0), [6, 1, 0, 7, 5, 4, 2, 3]);
    assert_eq!(epoch_order(8, 1, 3), [1, 6, 2, 3, 5, 7, 0, 4]);
    assert_eq!(Augment { crop_pad: 4, flip: true, ..Augment::default() }.draw(1, 2, 3), Draw { top: 3, left: 8, flip: true });
}

#[test]
fn crops_that_could_miss_the_image_are_refused() {
    assert!(Augment { crop_pad: 4, ..Augment::default() }.check([8, 8, 1]).is_ok());
    assert!(Augment::default().check([1, 1, 1]).is_ok());
    let error = Augment { crop_pad: 8, ..Augment::default() }.check([8, 9, 1]).unwrap_err().to_string();
    assert!(error.contains("crop-pad") && error.contains("8x9"), "{error}");
    assert!(Augment { cutout: 8, ..Augment::default() }.check([8, 9, 1]).is_ok());
    let error = Augment { cutout: 9, ..Augment::default() }.check([8, 9, 1]).unwrap_err().to_string();
    assert_eq!(error, "cutout: 9 is not in 0..=8: images are 8x9");
}

#[test]
fn batch_sizes_are_checked() {
    let dataset = numbered(10, [1, 1, 1]);
    assert!(check_batch(&dataset, 1).is_ok() && check_batch(&dataset, 10).is_ok());
    for (batch, expected) in [(0, "at least one"), (11, "11 is more than the 10 training images of numbered")] {
        let error = check_batch(&dataset, batch).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

const AUGMENT: Augment = Augment {
    crop_pad: 1,
    flip: true,
    auto_augment: AutoAugment::Off,
    cutout: 0,
    mixup: 0.0,
    events: EventChange { roll: 0, rotate: 0.0, drop: 0.0 },
};

fn epoch(dataset: &Arc<Dataset>, batch: usize, seed: u64, epoch: usize, first_step: usize) -> Vec<Batch> {
    Loader::train(Arc::clone(dataset), batch, AUGMENT, seed, epoch, first_step).collect()
}

fn labels(batches: &[Batch]) -> Vec<u32> {
    batches.iter().flat_map(|batch| batch.labels.clone()).collect()
}

#[test]
fn an_epoch_is_a_function_of_seed_and_epoch() {
    let dataset = Arc::new(numbered(101, [3, 4, 2]));
    let first = epoch(&dataset, 10, 5, 2, 0);
    assert_eq!(first, epoch(&dataset, 10, 5, 2, 0));
    for other in [epoch(&dataset, 10, 5, 3, 0), epoch(&dataset, 10, 6, 2, 0)] {
        let same = labels(&first).iter().zip(labels(&other)).filter(|(a, b)| **a == *b).count();
        assert!(same < 10, "{same} of 101 images at the same place");
    }
    // Every image once; the last batch is the rest, even of one image.
    let mut seen = labels(&first);
    seen.sort_unstable();
    assert_eq!(seen, (0..101).collect::<Vec<u32>>());
    assert_eq!(first.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 1]);
    assert!(first.iter().all(|batch| batch.frames == 1 && batch.data.len() == batch.labels.len() * 24));
}

#[test]
fn a_resumed_epoch_goes_on_with_the_same_batches() {
    let dataset = Arc::new(numbered(23, [3, 4, 2]));
    let whole = epoch(&dataset, 4, 9, 7, 0);
    assert_eq!(whole.len(), 6);
    for step in 0..=6 {
        assert_eq!(epoch(&dataset, 4, 9, 7, step), whole[step..], "from step {step}");
    }
    assert!(epoch(&dataset, 4, 9, 7, 100).is_empty());
    assert_eq!(epoch(&dataset, 0, 9, 7, 0).len(), 23, "a batch of 0 counts as 1");
}

#[test]
fn what_happens_to_an_image_does_not_depend_on_the_batch_size() {
    let dataset = Arc::new(numbered(23, [3, 4, 2]));
    let by_image = |batch| -> Vec<Vec<f32>> {
        let batches = epoch(&dataset, batch, 9, 7, 0);
        let mut images: Vec<(u32, Vec<f32>)> =
            batches.iter().flat_map(|b| b.labels.iter().copied().zip(b.data.chunks(24).map(<[f32]>::to_vec))).collect();
        images.sort_by_key(|(label, _)| *label);
        images.into_iter().map(|(_, image)| image).collect()
    };
    let one = by_image(1);
    for batch in [2, 5, 23, 1000] {
        assert_eq!(by_image(batch), one, "batch {batch}");
    }
    // And it is what the draw of the image says.
    for (index, image) in one.iter().enumerate() {
        let draw = AUGMENT.draw(9, 7, index as u64);
        assert_eq!(*image, slow(&dataset, dataset.train.images.image(index), 1, draw), "image {index}");
    }
}

#[test]
fn test_images_come_in_order_and_as_they_are() {
    let dataset = Arc::new(numbered(23, [3, 4, 2]));
    let batches: Vec<Batch> = Loader::test(Arc::clone(&dataset), 3).collect();
    assert_eq!(labels(&batches), (23..30).collect::<Vec<u32>>());
    let data: Vec<f32> = batches.iter().flat_map(|batch| batch.data.clone()).collect();
    let none = Draw { top: 0, left: 0, flip: false };
    let expected: Vec<f32> = (0..7).flat_map(|i| slow(&dataset, dataset.test.images.image(i), 0, none)).collect();
    assert_eq!(data, expected);
}

#[test]
fn a_dropped_loader_lets_its_thread_and_data_go() {
    let dataset = Arc::new(numbered(1000, [3, 4, 2]));
    for taken in [0, 1, 5, 250] {
        let mut loader = Loader::train(Arc::clone(&dataset), 4, AUGMENT, 0, 0, 0);
        assert_eq!(loader.len(), 250);
        assert_eq!(loader.by_ref().take(taken).count(), taken);
        assert_eq!(loader.len(), 250 - taken);
        drop(loader);
        assert_eq!(Arc::strong_count(&dataset), 1, "after {taken} batches");
    }
}

#[test]
fn a_contact_sheet_shows_the_first_images_of_each_class() {
    let dataset = load("digits-8x8", None).unwrap();
    let sheet = image::load_from_memory(&contact_sheet(&dataset, Part::Train, 3).unwrap()).unwrap().to_rgb8();
    // Images of 8x8 are enlarged four times and stand two pixels apart.
    assert_eq!(sheet.dimensions(), (3 * 34 + 2, 10 * 34 + 2));
    let of_class: Vec<usize> = (0..dataset.train.len()).filter(|&i| dataset.train.labels[i] == 6).collect();
    for y in 0..32 {
        for x in 0..32 {
            let byte = dataset.train.images.image(of_class[2])[y / 4 * 8 + x / 4];
            let level = (u32::from(byte) * 255 / 16) as u8;
            assert_eq!(sheet.get_pixel(2 + 2 * 34 + x as u32, 2 + 6 * 34 + y as u32).0, [level; 3], "{x} {y}");
        }
    }
    assert_eq!(sheet.get_pixel(0, 0).0, [255; 3]);
    // More images than there are is no wider sheet; none at all is refused.
    let all = image::load_from_memory(&contact_sheet(&dataset, Part::Test, usize::MAX).unwrap()).unwrap();
    assert_eq!(all.width(), 37 * 34 + 2);
    assert!(contact_sheet(&dataset, Part::Test, 0).unwrap_err().to_string().contains("at least one"));
    let photos = load("photo-patches-10", None).unwrap();
    let sheet = image::load_from_memory(&contact_sheet(&photos, Part::Test, 1).unwrap()).unwrap().to_rgb8();
    let first = photos.test.labels.iter().position(|&label| label == 0).unwrap();
    assert_eq!(sheet.get_pixel(2, 2).0, photos.test.images.image(first)[..3]);
}
