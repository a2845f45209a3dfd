//! Decoding of photos against Pillow, and what damaged files are called.
//!
//! `tests/fixtures/photos/make.py` made the photos with Pillow 13.0 and stored beside each what Pillow decodes it to.

use std::path::{Path, PathBuf};

use dsr::data::picture::{DECODERS, allowed_pixels, check_bytes, parse, read};
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
        ("a page", b"<!DOCTYPE html>".to_vec(), "is no JPEG, PNG, WebP, BMP or PNM: begins with \"<!DO\""),
        ("another format", b"GIF89a\0\0".to_vec(), "is no JPEG, PNG, WebP, BMP or PNM"),
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

fn damaged(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/damaged").join(name)).unwrap()
}

/// A photo with soft colours, so that stored at a part of the size they are still near.
fn soft(width: u32, height: u32) -> image::RgbImage {
    let wave = |a: u32, period: f32| ((a as f32 / period).sin() * 60.0 + 128.0) as u8;
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([wave(x, 40.0), wave(y, 45.0), wave(x + y, 60.0)]))
}

/// The largest difference of a byte.
fn most(a: &image::RgbImage, b: &image::RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn colours_are_right_for_every_sampling() {
    use jpeg_encoder::SamplingFactor::{R_4_1_0, R_4_1_1, R_4_2_0, R_4_2_2, R_4_4_0, R_4_4_1, R_4_4_4};
    let photo = soft(75, 61);
    for sampling in [R_4_4_4, R_4_4_0, R_4_4_1, R_4_2_2, R_4_2_0, R_4_1_1, R_4_1_0] {
        for (kind, progressive, interval) in [("baseline", false, 0), ("progressive", true, 0), ("restarts", false, 3)] {
            let mut bytes = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
            encoder.set_sampling_factor(sampling);
            encoder.set_progressive(progressive);
            if interval > 0 {
                encoder.set_restart_interval(interval);
            }
            encoder.encode(photo.as_raw(), 75, 61, jpeg_encoder::ColorType::Rgb).unwrap();
            // The encoder writes a scan for each component where colours have a quarter of the rows or columns.
            if interval > 0 && matches!(sampling, R_4_1_0 | R_4_1_1 | R_4_4_1) {
                let error = parse(Path::new("x"), &bytes).map(|image| image.dimensions()).unwrap_err().to_string();
                assert!(error.contains("restart markers in scans of single colours") && error.ends_with("convert it"), "{error}");
                continue;
            }
            let found = parse(Path::new("x"), &bytes).unwrap();
            assert!(most(&found, &photo) <= 24, "{sampling:?}, {kind}: {}", most(&found, &photo));
            check_bytes(Path::new("x"), &bytes).unwrap_or_else(|error| panic!("{sampling:?}, {kind}: {error}"));
        }
    }
    // A scan for each component, of which colours have half the rows and columns; and colours that are finer than brightness.
    for name in ["nonint420.jpg", "panic.jpg"] {
        let found = parse(Path::new(name), &damaged(name)).unwrap();
        let near = |x, y, expected: [u8; 3]| found.get_pixel(x, y).0.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 3);
        assert!(near(5, 40, [218, 39, 42]) && near(40, 5, [39, 61, 222]), "{name}: {:?}", found.get_pixel(5, 40));
    }
}

#[test]
fn damage_inside_a_jpeg_is_found_by_a_check() {
    let check = |bytes: &[u8]| check_bytes(Path::new("x.jpg"), bytes).map_err(|error| error.to_string());
    for name in ["grey.jpg", "cmyk.jpg", "full.JPEG", "subsampled.JPEG", "progressive.jpg", "named.JPEG", "rgba.png", "palette.png"] {
        check(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["full.JPEG", "subsampled.JPEG", "grey.jpg", "progressive.jpg"] {
        let whole = bytes(name);
        let half = whole.len() / 2;
        let missing = [&whole[..half], &whole[half + 100..]].concat();
        let ended = [&whole[..half], &[0xff, 0xd9]].concat();
        let two = [&whole[..half], &whole].concat();
        for (what, bytes) in [("bytes missing", missing), ("an end in the middle", ended), ("half a picture and a whole one", two)] {
            let error = check(&bytes).map(|()| format!("{name}: {what}")).unwrap_err();
            assert!(error.starts_with("x.jpg: is a damaged JPEG: ") && error.ends_with("; get it again"), "{name}: {what}: {error}");
        }
        // What stands behind the picture, or is too much before its end, harms nobody.
        check(&[&whole[..], b"behind"].concat()).unwrap();
    }
}

#[test]
fn a_header_is_not_believed() {
    for (what, bytes, parts) in [
        ("42 bytes", damaged("42-byte.png"), ["promises 20x8388624 pixels", "more than the 1048576"]),
        ("a JPEG of 65500x65500", as_large(bytes("full.JPEG"), 65500), ["promises 65500x65500 pixels", "more than the 1496064"]),
        ("a progressive JPEG", as_large(bytes("progressive.jpg"), 1200), ["promises 1200x1200 pixels", "more than the 1246720"]),
    ] {
        let error = parse(Path::new("x"), &bytes).map(|image| image.dimensions()).expect_err(what).to_string();
        assert!(parts.iter().all(|part| error.contains(part)) && error.contains("docs/data.md"), "{what}: {error}");
    }
    // Plain pictures have few bytes and are pictures all the same.
    let mut white = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(2000, 1500, image::Rgb([255; 3])).write_to(&mut white, image::ImageFormat::Png).unwrap();
    assert_eq!(parse(Path::new("x"), white.get_ref()).unwrap().dimensions(), (2000, 1500));
    let allowed = [0, 4000, 10_000, 100_000, 1 << 20, 1 << 30].map(allowed_pixels);
    assert_eq!(allowed, [1 << 20, 2_048_000, 1 << 22, 12_800_000, 1 << 25, 1 << 27]);
    // 16 bits of four channels take more than the pixels of the file may.
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let mut deep = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut deep, CompressionType::Best, FilterType::NoFilter);
    image::ImageBuffer::from_pixel(2000, 1500, image::Rgba([0u16; 4])).write_with_encoder(encoder).unwrap();
    let error = parse(Path::new("x"), &deep).map(|image| image.dimensions()).unwrap_err().to_string();
    assert!(error.contains("x: unpacks to 24000000 bytes, more than a file of its length may"), "{error}");
}

/// A JPEG whose header says another size.
fn as_large(mut bytes: Vec<u8>, side: u16) -> Vec<u8> {
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0] || pair == [0xff, 0xc2]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
    bytes
}

#[test]
fn other_formats_are_read() {
    use image::ImageFormat::{Bmp, Pnm, WebP};
    let photo = soft(33, 20);
    for format in [Bmp, Pnm, WebP] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        photo.write_to(&mut bytes, format).unwrap();
        let bytes = bytes.into_inner();
        assert_eq!(parse(Path::new("x"), &bytes).unwrap(), photo, "{format:?}");
        check_bytes(Path::new("x"), &bytes).unwrap();
        let error = parse(Path::new("x"), &bytes[..bytes.len() / 2]).map(|image| image.dimensions()).unwrap_err().to_string();
        assert!(error.starts_with("x: ") && error.ends_with("; get it again"), "{format:?}: {error}");
    }
}

/// Which files cannot be read is remembered for the versions that are named.
#[test]
fn the_decoders_are_those_of_the_lock_file() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for decoder in DECODERS.split(';').next().unwrap().split(", ") {
        let (name, version) = decoder.split_once(' ').unwrap();
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{decoder} is not in Cargo.lock");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(kind in 0..3usize, at in 0.0..1.0f64, byte: u8, cut in 0.0..1.0f64, noise: Vec<u8>) {
        let mut bytes = bytes(["full.JPEG", "progressive.jpg", "palette.png"][kind]);
        let place = (at * bytes.len() as f64) as usize;
        bytes[place] ^= byte;
        let _ = check_bytes(Path::new("x"), &bytes);
        bytes.truncate((cut * bytes.len() as f64) as usize);
        let _ = parse(Path::new("x"), &bytes);
        bytes.extend(&noise);
        let _ = parse(Path::new("x"), &bytes);
        let _ = parse(Path::new("x"), &[&[0xff, 0xd8, 0xff], &noise[..]].concat());
    }
}
