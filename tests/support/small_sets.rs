//! Small sets of one's own in several kinds, and pairs of them that look alike from outside.

#![allow(dead_code)] // each test uses a part of it

use std::fs;
use std::path::Path;

use tempfile::{TempDir, tempdir};

use super::formats::{atis, dat, of_class};
use super::own_sets::{heap, splits};

/// Pictures without a split, and with one.
pub fn pictures() -> TempDir {
    let folder = tempdir().unwrap();
    heap(&folder.path().join("heap"), 8);
    splits(&folder.path().join("photos"), "val", [5, 2]);
    folder
}

/// Recordings that do not state their camera.
pub fn recordings(root: &Path) {
    for (class, name) in ["ball", "cup"].iter().enumerate() {
        fs::create_dir_all(root.join(name)).unwrap();
        for seed in 0..8 {
            fs::write(root.join(name).join(format!("{seed}.bin")), atis(&of_class(class, seed, 200, [34, 34]))).unwrap();
        }
    }
}

/// Gives each file below `folder` the same time of its last change.
pub fn at_one_time(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            at_one_time(&path);
        } else {
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        }
    }
}

/// The same names, lengths and times, of other contents: events mirrored, pictures of another colour.
pub fn twins(root: &Path) {
    for (set, first) in [("one", 0), ("two", 1)] {
        for (class, name) in ["ball", "cup"].iter().enumerate() {
            let at = root.join("events").join(set).join(name);
            fs::create_dir_all(&at).unwrap();
            let at_pictures = root.join("pictures").join(set).join(name);
            fs::create_dir_all(&at_pictures).unwrap();
            for seed in 0..8 {
                fs::write(at.join(format!("{seed}.dat")), dat([34, 34], &of_class(class + first, seed, 200, [34, 34]))).unwrap();
                let colour = image::Rgb([10 * seed as u8, 90 * (class as u8 + first as u8), 7]);
                image::RgbImage::from_pixel(12, 12, colour).save(at_pictures.join(format!("{seed}.ppm"))).unwrap();
            }
        }
    }
    at_one_time(root);
}
