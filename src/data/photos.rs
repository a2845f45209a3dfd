//! Photos that are decoded when their batch is prepared, and cropped and resized as torchvision does it; how ImageNet lies in its folders.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::augment::{below, uniform};
use super::images::ImageFit;
use super::own::told::{self, Used};
use super::own::tree::Tree;
use super::resample::{Area, bilinear, bilinear_part};
use super::{Part, class_folders, picture, unlabelled};
use crate::error::{Error, Result};

/// What is taken for a photo.
pub(super) const EXTENSIONS: [&str; 11] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "ppm", "pgm", "pbm", "pnm"];

/// Pictures of kinds that are not read.
pub(super) const NOT_READ: [&str; 7] = ["tif", "tiff", "gif", "heic", "avif", "jp2", "jxl"];

/// Folders of the training and the test split.
const FOLDERS: [&str; 2] = ["train", "val"];

/// Width : height of a random crop, as everyone trains on ImageNet.
const ASPECT: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];

/// How a photo becomes the input of a network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhotoReading {
    /// Pixels a side of the input.
    pub size: usize,
    /// Pixels of the shorter side of a whole photo before its middle is cut out.
    pub resize: usize,
    /// Smallest and largest share of the area of a training photo that a random crop takes.
    pub crop_scale: [f64; 2],
    /// 3 for colour, 1 for grey.
    pub channels: usize,
    /// How a whole photo becomes a square.
    pub fit: ImageFit,
    /// Whether training takes random crops; else whole photos, of which it cuts as of images in memory.
    pub takes_part: bool,
}

impl Default for PhotoReading {
    fn default() -> Self {
        PhotoReading { size: 224, resize: 256, crop_scale: [0.08, 1.0], channels: 3, fit: ImageFit::Crop, takes_part: true }
    }
}

/// The files of the set.
#[derive(Clone, Debug, PartialEq)]
pub struct Photos {
    root: PathBuf,
    classes: Vec<String>,
    /// Class and path of each photo, training and test.
    files: [Vec<(u32, OsString)>; 2],
    /// Pictures of kinds that are not read, beside them.
    not_read: usize,
    /// What else to know of files that are there, a line each.
    notes: Vec<String>,
    /// How they are read.
    pub reading: PhotoReading,
}

/// A rectangle of a photo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First row and column.
    pub at: [usize; 2],
    /// Rows and columns.
    pub size: [usize; 2],
}

impl Photos {
    /// Looks which photos there are below `root`; decodes none.
    ///
    /// # Errors
    /// [`Error::File`] for a folder that is missing, has no classes, or not those of the other split; [`Error::Io`] if one could
    /// not be read.
    pub fn list(root: &Path, reading: PhotoReading) -> Result<Self> {
        let [train, test] = FOLDERS.map(|part| class_names(root, part));
        let (classes, test) = (train?, test?);
        if let Some(name) = test.iter().find(|name| !classes.contains(name)) {
            let problem = "is no class of train/, and both splits need the same class folders; see docs/data.md";
            return Err(Error::file(root.join("val").join(name), problem));
        }
        if let Some(name) = classes.iter().find(|name| !test.contains(name)) {
            let problem = "is missing, though train/ has that class, and both splits need the same class folders; see docs/data.md";
            return Err(Error::file(root.join("val").join(name), problem));
        }
        let list = |part: &str| {
            let of_class = |(label, name): (usize, &String)| {
                let folder = root.join(part).join(name);
                let found = class_folders::files_below(&folder, &EXTENSIONS, &NOT_READ)?;
                if found.files.is_empty() {
                    let others = if found.others > 0 { format!(" but {}", not_read(found.others)) } else { String::new() };
                    let (kinds, reasons) = (EXTENSIONS.join(", ."), told::reasons(&found.runs, &found.loops));
                    let problem = format!("has no photos (.{kinds}){others}{reasons}; every class needs some in train/ and val/");
                    return Err(Error::file(folder, problem));
                }
                let inner = Path::new(part).join(name);
                let path = |file: OsString| (label as u32, inner.join(file).into_os_string());
                Ok((found.files.into_iter().map(path).collect::<Vec<_>>(), found.others, found.runs, found.loops))
            };
            let found: Vec<Result<_>> = classes.par_iter().enumerate().map(of_class).collect();
            found.into_iter().collect::<Result<Vec<_>>>() // of several errors, the first in order
        };
        let (mut files, mut not_read, mut runs, mut loops) = ([Vec::new(), Vec::new()], 0, Vec::new(), Vec::new());
        for (part, files) in FOLDERS.iter().zip(&mut files) {
            for (of_class, others, of_training, links) in list(part)? {
                files.extend(of_class);
                not_read += others;
                runs.extend(of_training);
                loops.extend(links);
            }
        }
        let notes = [told::note(told::RUN, &runs), told::note(told::LOOP, &loops)].into_iter().flatten().collect();
        Ok(Photos { root: root.to_path_buf(), classes, files, not_read, notes, reading })
    }

    /// The photos of a set of the user's own.
    pub(super) fn of(tree: Tree, reading: PhotoReading) -> Self {
        let Tree { root, classes, files, not_read, notes, .. } = tree;
        let mut photos = Photos { root, classes, files, not_read, notes, reading };
        let used = [Part::Train, Part::Test].into_iter().flat_map(|part| (0..photos.len(part)).map(move |index| (part, index)));
        let used = used.map(|(part, index)| Used { part, path: photos.path(part, index), when: i64::MIN..i64::MAX });
        photos.notes.extend(told::twice(&used.collect::<Vec<_>>(), "pictures"));
        photos
    }

    /// What to know about pictures that are not read, or read twice, a line each.
    pub fn notes(&self) -> Vec<String> {
        let pictures = (self.not_read > 0).then(|| format!("left out {}; convert them to PNG to use them", not_read(self.not_read)));
        pictures.into_iter().chain(self.notes.iter().cloned()).collect()
    }

    /// Names of the class folders.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of photos of one split.
    pub fn len(&self, part: Part) -> usize {
        self.files[part as usize].len()
    }

    /// Class of each photo.
    pub fn labels(&self, part: Part) -> Vec<u32> {
        self.files[part as usize].iter().map(|file| file.0).collect()
    }

    /// Where a photo is.
    pub fn path(&self, part: Part, index: usize) -> PathBuf {
        self.root.join(&self.files[part as usize][index].1)
    }

    /// The set without the training photos that are `held` out, and one that is tested on these.
    pub(super) fn hold_out(&self, held: &[bool]) -> (Photos, Photos) {
        let [train, test] = &self.files;
        let part = |wanted: bool| train.iter().zip(held).filter(|(_, is_held)| **is_held == wanted).map(|(file, _)| file.clone()).collect();
        let rest = Photos { files: [part(false), test.clone()], ..self.clone() };
        (rest, Photos { files: [Vec::new(), part(true)], ..self.clone() })
    }

    /// Leaves out some photos.
    ///
    /// # Errors
    /// [`Error::File`] if a class has none left.
    pub(super) fn remove(&mut self, paths: &HashSet<PathBuf>) -> Result<()> {
        for part in [Part::Train, Part::Test] {
            let root = self.root.clone();
            let gone: Vec<(u32, OsString)> = self.files[part as usize].extract_if(.., |file| paths.contains(&root.join(&file.1))).collect();
            let mut counts = vec![0; self.classes.len()];
            self.files[part as usize].iter().for_each(|file| counts[file.0 as usize] += 1);
            // Of a set of the user's own a class may have had no photo to test on in the first place.
            if let Some((label, path)) = gone.into_iter().find(|(label, _)| counts[*label as usize] == 0) {
                let folder = self.root.join(path).parent().unwrap_or(&self.root).to_path_buf();
                let problem = format!("has no photo that can be read of class {}; get them again", self.classes[label as usize]);
                return Err(Error::file(folder, problem));
            }
        }
        Ok(())
    }

    /// A training photo, a random part of it at `size`, `[size][size][C]`.
    ///
    /// # Errors
    /// What [`picture::read`] finds wrong.
    pub(super) fn training(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Vec<u8>> {
        let image = picture::read(&self.path(Part::Train, index))?;
        let (width, height) = image.dimensions();
        let Crop { at, size } = random_crop([height as usize, width as usize], self.reading.crop_scale, rng);
        let area = Area { pixels: image.as_raw(), stride: width as usize, at, size };
        Ok(self.reading.in_channels(bilinear(&area, [self.reading.size; 2])))
    }

    /// A whole photo, `[size][size][C]`, as it is tested on.
    ///
    /// # Errors
    /// What [`picture::read`] finds wrong.
    pub(super) fn whole(&self, part: Part, index: usize) -> Result<Vec<u8>> {
        unlabelled::read(&self.path(part, index), &self.reading)
    }
}

impl PhotoReading {
    /// Height, width and channels of a sample.
    pub fn shape(&self) -> [usize; 3] {
        [self.size, self.size, self.channels]
    }

    /// Pixels `[…][3]` in the channels that are asked for; grey is that of Pillow.
    pub(super) fn in_channels(&self, pixels: Vec<u8>) -> Vec<u8> {
        if self.channels == 3 {
            return pixels;
        }
        let grey = |&[r, g, b]: &[u8; 3]| ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8;
        pixels.as_chunks().0.iter().map(grey).collect()
    }
}

pub(super) fn not_read(pictures: usize) -> String {
    format!("{pictures} pictures of kinds that are not read (.{})", NOT_READ.join(", ."))
}

/// Names of the classes of one split.
fn class_names(root: &Path, part: &str) -> Result<Vec<String>> {
    const LAYOUT: &str = "expected are train/CLASS/*.JPEG and val/CLASS/*.JPEG below --data-dir (docs/data.md)";
    let folder = root.join(part);
    if !folder.is_dir() {
        return Err(Error::no_folder(folder, LAYOUT));
    }
    let names = class_folders::folders(&folder)?;
    if names.is_empty() {
        let loose = class_folders::files(&folder, &EXTENSIONS)?.len();
        let problem = match loose {
            0 => format!("has no folders in it; {LAYOUT}"),
            _ => format!("has {loose} photos but no class folders: move each photo into the folder of its class; {LAYOUT}"),
        };
        return Err(Error::file(folder, problem));
    }
    Ok(names)
}

/// The part of a photo (rows, columns) that is trained on: of a random share of its area and a random shape between 3:4 and 4:3, as
/// torchvision's `RandomResizedCrop` draws them, but from other random numbers. Ten draws that do not fit give the middle.
pub fn random_crop(photo: [usize; 2], scale: [f64; 2], rng: &mut ChaCha8Rng) -> Crop {
    let [rows, columns] = photo;
    let area = rows as f64 * columns as f64;
    for _ in 0..10 {
        let target = area * uniform(rng, scale);
        let aspect = uniform(rng, ASPECT.map(f64::ln)).exp();
        let width = (target * aspect).sqrt().round_ties_even() as usize;
        let height = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=columns).contains(&width) && (1..=rows).contains(&height) {
            let top = below(rng, (rows - height) as u64 + 1) as usize;
            let left = below(rng, (columns - width) as u64 + 1) as usize;
            return Crop { at: [top, left], size: [height, width] };
        }
    }
    let shape = columns as f64 / rows as f64;
    let size = if shape < ASPECT[0] {
        [(columns as f64 / ASPECT[0]).round_ties_even() as usize, columns]
    } else if shape > ASPECT[1] {
        [rows, (rows as f64 * ASPECT[1]).round_ties_even() as usize]
    } else {
        photo
    };
    Crop { at: [(rows - size[0]) / 2, (columns - size[1]) / 2], size }
}

/// A photo (`[rows][columns][3]`) with its shorter side at `resize`, of that the middle `size`×`size`, as torchvision's `Resize`
/// and `CenterCrop`. `size` is at most `resize`.
pub fn middle(pixels: &[u8], photo: [usize; 2], resize: usize, size: usize) -> Vec<u8> {
    let shorter = photo[0].min(photo[1]).max(1);
    let to = photo.map(|side| resize * side / shorter);
    // Half a pixel goes to the even side.
    let at = to.map(|side| ((side - size) as f64 / 2.0).round_ties_even() as usize);
    bilinear_part(&Area { pixels, stride: photo[1], at: [0, 0], size: photo }, to, at, [size; 2])
}
