//! Resizing against Pillow and torchvision, byte for byte.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dsr::data::photos::middle;
use dsr::data::resample::{Area, bilinear};
use image::RgbImage;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos").join(name)
}

/// A photo of 64 rows and 96 columns.
fn photo() -> RgbImage {
    image::open(fixture("mosaic.png")).unwrap().into_rgb8()
}

#[derive(Clone, Copy, Debug)]
enum Transform {
    /// Top, left, height, width; then the side of the result.
    Crop([usize; 4], usize),
    /// Shorter side of the whole, side of its middle.
    Middle(usize, usize),
}

const TRANSFORMS: [Transform; 13] = [
    Transform::Crop([0, 0, 64, 96], 32),
    Transform::Crop([0, 0, 64, 96], 224),
    Transform::Crop([5, 7, 33, 41], 33),
    Transform::Crop([5, 7, 41, 33], 33),
    Transform::Crop([63, 95, 1, 1], 7),
    Transform::Crop([10, 20, 3, 2], 64),
    Transform::Crop([10, 20, 50, 60], 1),
    Transform::Crop([1, 2, 61, 59], 60),
    Transform::Crop([0, 0, 11, 90], 40),
    Transform::Middle(64, 56),
    Transform::Middle(64, 63),
    Transform::Middle(256, 224),
    Transform::Middle(37, 32),
];

fn ours(image: &RgbImage, transform: Transform) -> Vec<u8> {
    let (pixels, [rows, columns]) = (image.as_raw(), [image.height() as usize, image.width() as usize]);
    match transform {
        Transform::Crop([top, left, height, width], size) => {
            bilinear(&Area { pixels, stride: columns, at: [top, left], size: [height, width] }, [size; 2])
        }
        Transform::Middle(resize, size) => middle(pixels, [rows, columns], resize, size),
    }
}

#[test]
fn photos_are_resized_as_by_torchvision() {
    // CRC-32C of what `tests/fixtures/photos/transforms.py` gave with torchvision 0.29.2 and Pillow 13.0.0.
    let expected: [u32; TRANSFORMS.len()] = [
        0xf879_001d,
        0x4b21_e59a,
        0x30a8_78c1,
        0x95e1_1ed8,
        0x6b3e_1cbe,
        0xa4ab_bfd7,
        0x59c2_7b8c,
        0xf270_e237,
        0x7910_40ee,
        0x26d3_fae1,
        0xf0e5_79cb,
        0x5d4a_644d,
        0x0ebe_67ac,
    ];
    let image = photo();
    let found = TRANSFORMS.map(|transform| crc32c::crc32c(&ours(&image, transform)));
    for (transform, (found, expected)) in TRANSFORMS.iter().zip(found.iter().zip(&expected)) {
        assert_eq!(found, expected, "{transform:?}: {found:#010x}");
    }
}

/// The interpreter that `DSR_TEST_PYTHON` names, or python3; none without torchvision.
fn python() -> Option<String> {
    let python = std::env::var("DSR_TEST_PYTHON").unwrap_or("python3".into());
    let found = Command::new(&python).args(["-c", "import torchvision"]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn photos_are_resized_as_by_the_torchvision_of_this_machine() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with torchvision; name one by DSR_TEST_PYTHON");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // The other way up, too: a photo may be higher than wide.
    let upright = image::imageops::rotate90(&photo());
    for (name, image) in [("wide.png", photo()), ("high.png", upright)] {
        let (path, out) = (folder.path().join(name), folder.path().join("out"));
        image.save(&path).unwrap();
        let (rows, columns) = (image.height() as usize, image.width() as usize);
        let fits = |transform: &Transform| match transform {
            Transform::Crop([top, left, height, width], _) => top + height <= rows && left + width <= columns,
            Transform::Middle(..) => true,
        };
        let transforms: Vec<Transform> = TRANSFORMS.into_iter().filter(fits).collect();
        let script = Command::new(&python).arg(fixture("transforms.py")).args([&path, &out]).stdin(Stdio::piped()).spawn();
        let mut script = script.unwrap();
        let mut lines = script.stdin.take().unwrap();
        for transform in &transforms {
            match transform {
                Transform::Crop([top, left, height, width], size) => writeln!(lines, "{top} {left} {height} {width} {size}").unwrap(),
                Transform::Middle(resize, size) => writeln!(lines, "{resize} {size}").unwrap(),
            }
        }
        drop(lines);
        assert!(script.wait().unwrap().success());
        let mut theirs = &std::fs::read(&out).unwrap()[..];
        for &transform in &transforms {
            let found = ours(&image, transform);
            let expected = theirs.split_off(..found.len()).unwrap();
            let different = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            assert_eq!(different, 0, "{name}, {transform:?}: {different} of {} bytes differ", found.len());
        }
        assert!(theirs.is_empty());
    }
}
