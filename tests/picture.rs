//! Decoding of photos against Pillow, and what damaged files are called.
//!
//! `tests/fixtures/photos/make.py` made the photos with Pillow 13.0 and stored beside each what Pillow decodes it to.

use std::path::{Path, PathBuf};

use dsr::data::picture::{parse, read};
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

#[test]
fn photos_are_those_that_pillow_sees() {
    // The largest difference of a byte, and the mean in thousandths, as measured. JPEG fixes no rounding: decoders differ by what
    // their transforms round, and by how they enlarge colour that is stored at half the size. PNG leaves no choice.
    let cases = [
        ("named.JPEG", 0, 0),
        ("rgba.png", 0, 0),
        ("palette.png", 0, 0),
        ("grey.jpg", 1, 10),
        ("cmyk.jpg", 1, 10),
        ("full.JPEG", 2, 20),
        ("subsampled.JPEG", 4, 100),
        ("progressive.jpg", 4, 100),
    ];
    for (name, most_allowed, mean_allowed) in cases {
        let found = read(&fixture(name)).unwrap();
        let pillow = image::open(fixture(&format!("{name}.rgb.png"))).unwrap().into_rgb8();
        assert_eq!(found.dimensions(), pillow.dimensions(), "{name}");
        let differences = found.as_raw().iter().zip(pillow.as_raw()).map(|(a, b)| a.abs_diff(*b));
        let (most, total) = differences.fold((0, 0), |(most, total), d| (d.max(most), total + usize::from(d)));
        let mean = 1000 * total / found.as_raw().len();
        assert!(most <= most_allowed && mean <= mean_allowed, "{name}: at most {most}, mean {mean} thousandths");
    }
}

#[test]
fn damaged_files_are_named() {
    let (jpeg, png) = (bytes("full.JPEG"), bytes("named.JPEG"));
    // A thumbnail, with an end of its own, in a segment before the picture.
    let thumbnail = [&[0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9][..]].concat();
    let with_thumbnail = [&jpeg[..2], &thumbnail, &jpeg[2..]].concat();
    assert_eq!(parse(Path::new("x"), &with_thumbnail).unwrap(), parse(Path::new("x"), &jpeg).unwrap());
    let mut wrong_checksum = png.clone();
    let at = png.len() - 40;
    wrong_checksum[at] ^= 1;
    let cases: [(&str, Vec<u8>, &str); 10] = [
        ("empty", vec![], "is empty"),
        ("a page", b"<!DOCTYPE html>".to_vec(), "is neither JPEG nor PNG: begins with \"<!DO\""),
        ("another format", b"GIF89a\0\0".to_vec(), "is neither JPEG nor PNG"),
        ("no JPEG header", jpeg[..3].to_vec(), "cut off"),
        ("JPEG cut in the header", jpeg[..100].to_vec(), "is a JPEG that is cut off"),
        ("JPEG cut in the picture", jpeg[..jpeg.len() / 2].to_vec(), "is a JPEG that is cut off"),
        ("JPEG without its last byte", jpeg[..jpeg.len() - 1].to_vec(), "is a JPEG that is cut off"),
        ("JPEG with a thumbnail, cut", with_thumbnail[..with_thumbnail.len() / 2].to_vec(), "is a JPEG that is cut off"),
        ("PNG cut", png[..png.len() / 2].to_vec(), "cannot be decoded"),
        ("PNG changed", wrong_checksum, "cannot be decoded"),
    ];
    for (what, bytes, problem) in cases {
        let error = parse(Path::new("n01440764_1.JPEG"), &bytes).map(|image| image.dimensions()).expect_err(what).to_string();
        assert!(error.starts_with("n01440764_1.JPEG: ") && error.contains(problem), "{what}: {error}");
        assert!(!error.contains('\n'), "{what}: {error}");
    }
    assert!(read(Path::new("/nowhere/x.JPEG")).unwrap_err().to_string().starts_with("/nowhere/x.JPEG: "));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(kind in 0..3usize, at in 0.0..1.0f64, byte: u8, cut in 0.0..1.0f64, noise: Vec<u8>) {
        let mut bytes = bytes(["full.JPEG", "progressive.jpg", "palette.png"][kind]);
        let place = (at * bytes.len() as f64) as usize;
        bytes[place] ^= byte;
        let _ = parse(Path::new("x"), &bytes);
        bytes.truncate((cut * bytes.len() as f64) as usize);
        let _ = parse(Path::new("x"), &bytes);
        bytes.extend(&noise);
        let _ = parse(Path::new("x"), &bytes);
        let _ = parse(Path::new("x"), &[&[0xff, 0xd8, 0xff], &noise[..]].concat());
    }
}
