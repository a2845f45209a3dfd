//! Files with arrays in them, and which of the arrays are images and labels of which split.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use zip::ZipArchive;

use super::{Array, Kind, MOST_BYTES, npy};
use crate::data::class_folders;
use crate::data::guard::guarded;
use crate::data::own::TESTS;
use crate::error::{Error, Result};
use crate::regular_file;

/// Where arrays are.
pub enum Store {
    /// An `.npz`, which is a zip archive of `.npy` files.
    Npz(PathBuf),
    /// A folder of `.npy` files.
    Folder(PathBuf),
    /// A `.safetensors` file.
    Tensors(PathBuf, Vec<u8>),
}

/// Keys of the images and labels of each split.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// What is trained on.
    pub train: [String; 2],
    /// What is tested on, if it is apart.
    pub test: Option<[String; 2]>,
    /// Further splits that are not read, by the names of their images.
    pub left_out: Vec<String>,
}

/// Keys of arrays that an archive may have.
const MOST_KEYS: usize = 1 << 16;

impl Store {
    /// What is at `place`, by its ending.
    ///
    /// # Errors
    /// [`Error::File`] for what is none of the three, [`Error::Missing`] where there is nothing.
    pub fn open(place: &Path) -> Result<Store> {
        let extension = place.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            _ if place.is_dir() => Ok(Store::Folder(place.to_path_buf())),
            "npz" => Ok(Store::Npz(place.to_path_buf())),
            "npy" => {
                regular_file::open(place)?;
                let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
                Ok(Store::Folder(folder.unwrap_or(Path::new(".")).to_path_buf()))
            }
            "safetensors" => Ok(Store::Tensors(place.to_path_buf(), regular_file::read(place, MOST_BYTES)?)),
            _ => {
                let problem = "is no .npz, .npy or .safetensors, and no folder of .npy files";
                Err(Error::wrong_kind(place, problem, "name one of these by --data-dir; see docs/data.md"))
            }
        }
    }

    /// Names of the arrays.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut keys = match self {
            Store::Npz(path) => guarded(path, || {
                let archive = archive(path)?;
                if archive.len() > MOST_KEYS {
                    return Err(Error::file(path, format!("has more than {MOST_KEYS} files in it; name another file")));
                }
                Ok(archive.file_names().flatten().filter_map(|name| Some(name.strip_suffix(".npy")?.to_string())).collect::<Vec<_>>())
            })?,
            Store::Folder(folder) => {
                let names = class_folders::files(folder, &["npy"])?;
                let stem = |name: &std::ffi::OsString| Path::new(name).file_stem()?.to_str().map(String::from);
                names.iter().filter_map(stem).collect()
            }
            Store::Tensors(path, bytes) => tensors(path, bytes)?.names().into_iter().map(String::from).collect(),
        };
        keys.sort_unstable();
        Ok(keys)
    }

    /// How errors name an array; with an empty key, what all of them are in.
    pub fn path(&self, key: &str) -> PathBuf {
        let (Store::Npz(path) | Store::Folder(path) | Store::Tensors(path, _)) = self;
        match self {
            _ if key.is_empty() => path.clone(),
            Store::Tensors(..) => path.join(key.replace(char::is_control, "?")),
            _ => path.join(format!("{}.npy", key.replace(char::is_control, "?"))),
        }
    }

    /// An array by its name.
    ///
    /// # Errors
    /// What [`npy::read`] finds wrong; [`Error::File`] for another type.
    pub fn read(&self, key: &str) -> Result<Array> {
        let shown = self.path(key);
        match self {
            Store::Npz(path) => guarded(&shown, || {
                let length = regular_file::open(path)?.metadata().map_err(Error::io(path))?.len();
                let mut archive = archive(path)?;
                let entry = archive.by_name(&format!("{key}.npy")).map_err(|e| damaged(&shown, &e))?;
                // Deflate unpacks a byte to 1032 at most; an entry that is not packed has its length here.
                let unpacked = entry.compressed_size().saturating_mul(1032);
                npy::read(&shown, BufReader::new(entry), length, unpacked)
            }),
            Store::Folder(_) => {
                let file = regular_file::open(&shown)?;
                let length = file.metadata().map_err(Error::io(&shown))?.len();
                npy::read(&shown, file, length, length)
            }
            Store::Tensors(path, bytes) => {
                let found = tensors(path, bytes)?;
                let tensor = found.tensor(key).map_err(|e| Error::file(&shown, format!("cannot be read ({e}); get it again")))?;
                Ok(Array { kind: kind_of(&shown, tensor.dtype())?, sizes: tensor.shape().to_vec(), bytes: tensor.data().to_vec() })
            }
        }
    }

    /// Type and sizes of an array, without its values.
    ///
    /// # Errors
    /// What [`npy::head`] finds wrong; [`Error::File`] for another type.
    pub fn head(&self, key: &str) -> Result<(Kind, Vec<usize>)> {
        let shown = self.path(key);
        match self {
            Store::Npz(path) => guarded(&shown, || {
                let mut archive = archive(path)?;
                let entry = archive.by_name(&format!("{key}.npy")).map_err(|e| damaged(&shown, &e))?;
                npy::head(&shown, BufReader::new(entry)).map(|(kind, sizes, _)| (kind, sizes))
            }),
            Store::Folder(_) => npy::head(&shown, BufReader::new(regular_file::open(&shown)?)).map(|(kind, sizes, _)| (kind, sizes)),
            Store::Tensors(path, bytes) => {
                let found = tensors(path, bytes)?;
                let tensor = found.tensor(key).map_err(|e| Error::file(&shown, format!("cannot be read ({e}); get it again")))?;
                Ok((kind_of(&shown, tensor.dtype())?, tensor.shape().to_vec()))
            }
        }
    }

    /// Finds images and labels by their names; errors name `place`, as it was opened.
    ///
    /// # Errors
    /// [`Error::File`] with the names that there are, or with two that mean the same.
    pub fn find(&self, place: &Path) -> Result<Found> {
        let keys = self.keys()?;
        let found = find(&keys).map_err(|[one, other]| {
            let [one, other] = [one, other].map(|key| key.chars().take(24).collect::<String>().replace(char::is_control, "?"));
            let problem =
                format!("has \"{one}\" and \"{other}\", and one of them is wanted: give the other one another name, or leave it out");
            Error::file(place, problem)
        })?;
        found.ok_or_else(|| {
            let mut shown = keys.iter().take(8).map(|key| key.chars().take(24).collect::<String>()).collect::<Vec<_>>().join(", ");
            shown = shown.replace(char::is_control, "?");
            let expected =
                "expected are x_train and y_train (or train_images and train_labels), x_test and y_test, or x and y; see docs/data.md";
            let of_one = if matches!(self, Store::Folder(_)) && !place.is_dir() { " in its folder" } else { "" };
            Error::file(place, format!("has no images and labels by name{of_one} (it has: {shown}); {expected}"))
        })
    }
}

/// Images and labels of each split, by the names that people give them; two arrays that would be the same of a split are the error.
pub(super) fn find(keys: &[String]) -> std::result::Result<Option<Found>, [String; 2]> {
    const IMAGES: [&str; 8] = ["x", "images", "image", "data", "frames", "inputs", "imgs", "arr_0"];
    const LABELS: [&str; 6] = ["y", "labels", "label", "targets", "target", "arr_1"];
    const ELSE: [&str; 1] = ["classes"]; // beside labels they are names
    let plain = |key: &str| key.to_ascii_lowercase().replace(['-', '.', '/', ' '], "_");
    let named = |words: &[&str], split: &str| {
        let form = |word: &&str| match split {
            "" => vec![word.to_string()],
            _ => vec![format!("{word}_{split}"), format!("{split}_{word}"), format!("{word}{split}"), format!("{split}{word}")],
        };
        let forms: Vec<String> = words.iter().flat_map(form).collect();
        keys.iter().filter(|key| forms.contains(&plain(key))).cloned().collect::<Vec<String>>()
    };
    // Names of several splits: of which there are images and labels.
    let labels = |split: &str| Some(named(&LABELS, split)).filter(|keys| !keys.is_empty()).unwrap_or_else(|| named(&ELSE, split));
    let pair = |split: &str| Some([named(&IMAGES, split), labels(split)]).filter(|of| of.iter().all(|keys| !keys.is_empty()));
    let single = |of: [Vec<String>; 2]| match of.iter().find(|keys| keys.len() > 1) {
        Some(keys) => Err([keys[0].clone(), keys[1].clone()]),
        None => Ok(of.map(|keys| keys.into_iter().next().unwrap_or_default())),
    };
    let Some(train) = pair("train").or_else(|| pair("")) else { return Ok(None) };
    let train = single(train)?;
    let mut tests = TESTS.iter().filter_map(|split| pair(split));
    let test = tests.next().map(single).transpose()?;
    let mut left_out: Vec<String> = tests.flat_map(|[images, _]| images).collect();
    left_out.extend(pair("").into_iter().flat_map(|[images, _]| images).filter(|images| *images != train[0]));
    Ok(Some(Found { train, test, left_out }))
}

fn kind_of(path: &Path, dtype: Dtype) -> Result<Kind> {
    Ok(match dtype {
        Dtype::U8 => Kind::U8,
        Dtype::I8 => Kind::Int(true, 1),
        Dtype::I16 => Kind::Int(true, 2),
        Dtype::I32 => Kind::Int(true, 4),
        Dtype::I64 => Kind::Int(true, 8),
        Dtype::U16 => Kind::Int(false, 2),
        Dtype::U32 => Kind::Int(false, 4),
        Dtype::U64 => Kind::Int(false, 8),
        Dtype::F32 => Kind::F32,
        Dtype::F64 => Kind::F64,
        other => {
            return Err(Error::file(path, format!("has values of the type {other:?}; images are u8, f32 or f64, labels integers")));
        }
    })
}

fn archive(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    ZipArchive::new(BufReader::new(regular_file::open(path)?)).map_err(|e| damaged(path, &e))
}

fn damaged(path: &Path, error: &zip::result::ZipError) -> Error {
    let words: String = error.to_string().chars().take(120).collect::<String>().replace(char::is_control, " ");
    Error::file(path, format!("is no archive that can be read ({words}); get it again"))
}

fn tensors<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|e| {
        let words: String = e.to_string().chars().take(120).collect::<String>().replace(char::is_control, " ");
        Error::file(path, format!("is no .safetensors that can be read ({words}); get it again"))
    })
}
