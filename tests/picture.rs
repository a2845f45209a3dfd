//! Decoding of photos against Pillow, and what damaged files are called.
//!
//! `tests/fixtures/photos/make.py` made the photos with Pillow 13.0 and stored beside each what Pillow decodes it to.

use std::path::{Path, PathBuf};

use dsr::data::picture::{parse, read};
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos").join(name)
}

#[test]
fn photos_are_those_that_pillow_sees() {
    // JPEG fixes no rounding: decoders differ by what their transforms and the enlargement of colour round.
    let cases = [
        ("named.JPEG", 0),
        ("rgba.png", 0),
        ("palette.png", 0),
        ("grey.jpg", 0),
        ("full.JPEG", 0),
        ("subsampled.JPEG", 0),
        ("progressive.jpg", 0),
        ("cmyk.jpg", 0),
    ];
    for (name, allowed) in cases {
        let found = read(&fixture(name)).unwrap();
        let pillow = image::open(fixture(&format!("{name}.rgb.png"))).unwrap().into_rgb8();
        assert_eq!(found.dimensions(), pillow.dimensions(), "{name}");
        let differences = found.as_raw().iter().zip(pillow.as_raw()).map(|(a, b)| a.abs_diff(*b));
        let (most, total) = differences.fold((0, 0), |(most, total), d| (d.max(most), total + u32::from(d)));
        println!("{name}: at most {most}, mean {:.3}", f64::from(total) / found.as_raw().len() as f64);
        if most > allowed {
            println!("DIFF {name}");
        }
    }
}
