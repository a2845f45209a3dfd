//! Tiny data sets on disk: recordings of an event camera, and photos.

#![allow(dead_code)] // each test uses a part of it

use std::fs;
use std::path::{Path, PathBuf};

use dsr::data::events::CLASSES;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// An event: column and row in the orientation `dsr`, 1 for brighter, microseconds.
pub type Row = (u8, u8, u8, u32);

/// A recording, AEDAT 2.0.
pub fn aedat2(events: &[Row]) -> Vec<u8> {
    let mut bytes = b"#!AER-DAT2.0\r\n# made for a test, \xff is no text\r\n".to_vec();
    for &(x, y, polarity, time) in events {
        let address = u32::from(y) << 8 | u32::from(127 - x) << 1 | u32::from(1 - polarity);
        bytes.extend([address.to_be_bytes(), time.to_be_bytes()].concat());
    }
    bytes
}

/// Events that look random, 10 µs apart.
pub fn events(n: usize, seed: u32) -> Vec<Row> {
    let hash = |i: usize| (i as u32).wrapping_add(seed.wrapping_mul(7919)).wrapping_mul(2_654_435_761) ^ seed;
    let row = |i: usize| {
        let h = hash(i);
        ((h >> 8 & 127) as u8, (h >> 16 & 127) as u8, (h >> 30 & 1) as u8, 1000 + 10 * i as u32)
    };
    (0..n).map(row).collect()
}

/// DVS-CIFAR10 with recordings of these numbers in each class.
pub fn recordings(root: &Path, numbers: &[u32]) {
    for (label, class) in CLASSES.iter().enumerate() {
        fs::create_dir_all(root.join(class)).unwrap();
        for &number in numbers {
            let bytes = aedat2(&events(400 + label, number + 1000 * label as u32));
            fs::write(recording(root, class, number), bytes).unwrap();
        }
    }
}

/// Where a recording is.
pub fn recording(root: &Path, class: &str, number: u32) -> PathBuf {
    root.join(class).join(format!("cifar10_{class}_{number}.aedat"))
}

/// A photo as a baseline JPEG.
pub fn jpeg(photo: &image::RgbImage, sampling: SamplingFactor) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 85);
    encoder.set_sampling_factor(sampling);
    encoder.encode(photo.as_raw(), photo.width() as u16, photo.height() as u16, ColorType::Rgb).unwrap();
    bytes
}

/// ImageNet with three classes of 4 + 2 photos of 40×30 to 64×48, JPEG and PNG; each class is a colour with noise.
pub fn photos(root: &Path) {
    for (label, class) in ["n01", "n02", "n03"].iter().enumerate() {
        for (part, n) in [("train", 4u32), ("val", 2)] {
            let folder = root.join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for index in 0..n {
                let pixel = |x: u32, y: u32| {
                    let noise = ((x * 31 + y * 17 + index * 7).wrapping_mul(2_654_435_761) >> 26) as u8;
                    let mut pixel = [noise; 3];
                    pixel[label] += 150;
                    image::Rgb(pixel)
                };
                let photo = image::RgbImage::from_fn(40 + 8 * index, 30 + 6 * index, pixel);
                if index == 1 {
                    photo.save(folder.join(format!("{class}_{index}.png"))).unwrap();
                } else {
                    fs::write(folder.join(format!("{class}_{index}.JPEG")), jpeg(&photo, SamplingFactor::R_4_4_4)).unwrap();
                }
            }
        }
    }
}
