//! Arrays of the user's own: images or frames as `[N]…`, with a label each, in `.npz`, `.npy`, `.safetensors`, or CIFAR's batches for
//! Python.
//!
//! Images of bytes become a set in memory like CIFAR; numbers with a point, and frames, are [`Values`].

mod axes;
pub mod npy;
pub mod pickle;
pub(super) mod store;
mod values;

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::hold_out::drawn;
use super::own::{self, Own};
use super::{Dataset, Images, Reading, Split, Stream, cifar};
use crate::error::{Error, Result};
use axes::{Axes, Meaning};
use store::{Found, Store};

pub use values::{Spread, Values};

/// Bytes that an array may have, also unpacked.
pub const MOST_BYTES: u64 = 1 << 32;

/// Order of the axes of an array of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// As sizes tell.
    #[default]
    Auto,
    /// Samples, frames if there are any, rows, columns, channels.
    Nhwc,
    /// Samples, frames if there are any, channels, rows, columns.
    Nchw,
    /// Samples, frames, rows, columns, without channels.
    Nthw,
}

impl Layout {
    /// Whether it is the one that files do not name.
    pub fn is_default(&self) -> bool {
        *self == Layout::default()
    }
}

/// How arrays are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrayReading {
    /// Order of the axes.
    pub layout: Layout,
    /// Steps of the network, as many as a sample has frames.
    pub time_steps: usize,
}

/// Type of the values of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    U8,
    /// Integers with a sign or without, of so many bytes.
    Int(bool, usize),
    /// 32 bits with a point.
    F32,
    /// 64 bits with a point.
    F64,
}

impl Kind {
    /// By NumPy's name, without the order of bytes.
    fn of(name: &str) -> Option<Kind> {
        Some(match name {
            "u1" | "b1" => Kind::U8, // what is true is 1
            "i1" => Kind::Int(true, 1),
            "i2" => Kind::Int(true, 2),
            "i4" => Kind::Int(true, 4),
            "i8" => Kind::Int(true, 8),
            "u2" => Kind::Int(false, 2),
            "u4" => Kind::Int(false, 4),
            "u8" => Kind::Int(false, 8),
            "f4" => Kind::F32,
            "f8" => Kind::F64,
            _ => return None,
        })
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Kind::U8 => 1,
            Kind::Int(_, bytes) => bytes,
            Kind::F32 => 4,
            Kind::F64 => 8,
        }
    }
}

/// An array as it lies in a file: row-major, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Type of its values.
    pub kind: Kind,
    /// Its axes.
    pub sizes: Vec<usize>,
    /// Its values.
    pub bytes: Vec<u8>,
}

/// Reads the arrays at `place`, a file or a folder.
pub(super) fn open(name: &str, place: &Path, reading: &Reading) -> Result<Dataset> {
    if let Some((names, [train, test])) = cifar::read_python(place)? {
        let own = Own { place: Own::name(place), share: None, is_normalised: true, note: None, squares: None, tested: Vec::new() };
        return Ok(Dataset { own: Some(own), ..Dataset::new(name, names, train, test, u8::MAX)? });
    }
    let store = Store::open(place)?;
    let Found { train, test, left_out } = store.find(place)?;
    // All that headers tell is looked at before any value is unpacked, and labels before images.
    let read = Meaning::of_split(&store, &train, reading.arrays.layout)?;
    let tested = test.as_ref().map(|keys| Meaning::of_split(&store, keys, reading.arrays.layout)).transpose()?;
    if let (Some(tested), Some([images, _])) = (&tested, &test)
        && tested.shown() != read.shown()
    {
        let problem = format!("has samples of {}, the training samples are {}", tested.shown(), read.shown());
        return Err(Error::file(store.path(images), problem));
    }
    let share = if test.is_some() { None } else { Some(reading.own.share.ok_or_else(|| no_test_split(place))?) };
    let shown =
        || left_out.iter().map(|key| key.chars().take(24).collect()).collect::<Vec<String>>().join(", ").replace(char::is_control, "?");
    let note = (!left_out.is_empty()).then(|| format!("not read: {}", shown()));
    let own = Own { place: Own::name(place), share, is_normalised: true, note, squares: None, tested: Vec::new() };
    let Meaning { frames, shape, .. } = read;
    if frames > 1 && frames != reading.arrays.time_steps {
        let problem =
            format!("{}: samples of {} have {frames} frames, one per step; give -T {frames}", reading.arrays.time_steps, own.place);
        return Err(Error::config("time-steps", problem));
    }
    let given = if read.is_bytes() { None } else { own::given(&reading.own, shape[2], &own.place)? };
    let labels = labels_of(&store, &train[1])?;
    let tested_labels = test.as_ref().map_or(Ok(Vec::new()), |keys| labels_of(&store, &keys[1]))?;
    let classes_of = |parts: [&[u32]; 2]| classes(&store, &train[1], parts);
    let classes = classes_of([&labels, &tested_labels])?;
    let part = |keys: &[String; 2], meaning: Meaning, labels: Vec<u32>| {
        Ok::<Part, Error>(Part { axes: Axes::of(&store.path(&keys[0]), store.read(&keys[0])?, meaning)?, labels })
    };
    let [train_part, test_part] = match (&test, tested, share) {
        (Some(keys), Some(tested), _) => [part(&train, read, labels)?, part(keys, tested, tested_labels)?],
        (.., share) => {
            let held = drawn(&labels, classes, share.unwrap_or_default(), reading.own.seed)?;
            part(&train, read, labels)?.parted(&held)
        }
    };
    let classes = classes_of([&train_part.labels, &test_part.labels])?;
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    if read.is_bytes() {
        let split = |part: Part| Split { images: Images { shape, pixels: part.axes.into_bytes() }, labels: part.labels };
        let (train, test) = (split(train_part), split(test_part));
        return Ok(Dataset { own: Some(own), ..Dataset::new(name, names, train, test, u8::MAX)? });
    }
    let max_value = train_part.axes.max_value();
    let [train, test] = [train_part, test_part].map(|part| (part.axes.into_values(), part.labels));
    let (values, [mean, std]) = Values::new(&store.path(""), shape, frames, [train, test], given)?;
    Ok(Dataset { own: Some(own), mean, std, max_value, ..Dataset::streamed(name, names, Stream::Values(values)) })
}

fn no_test_split(place: &Path) -> Error {
    Error::config("val-share", format!("{} has no test split: give --val-share 0.2 to test on a fifth of each class", place.display()))
}

impl Meaning {
    /// What the headers of a split's images and labels say.
    fn of_split(store: &Store, [images, labels]: &[String; 2], layout: Layout) -> Result<Meaning> {
        let (path, (kind, sizes)) = (store.path(images), store.head(images)?);
        let meaning = Meaning::of(&path, kind, &sizes, layout)?;
        let (kind, sizes) = store.head(labels)?;
        check_labels(&store.path(labels), kind, &sizes)?;
        if meaning.samples != sizes[0] {
            return Err(Error::file(path, format!("has {} samples, and {labels} has {} labels", meaning.samples, sizes[0])));
        }
        Ok(meaning)
    }
}

/// One split.
struct Part {
    axes: Axes,
    labels: Vec<u32>,
}

impl Part {
    /// What is not held, and what is.
    fn parted(self, held: &[bool]) -> [Part; 2] {
        let labels = |wanted: bool| {
            let of = self.labels.iter().zip(held).filter(|(_, is_held)| **is_held == wanted);
            of.map(|(label, _)| *label).collect::<Vec<u32>>()
        };
        let labels = [labels(false), labels(true)];
        let ([rest, taken], [of_rest, of_taken]) = (self.axes.parted(held), labels);
        [Part { axes: rest, labels: of_rest }, Part { axes: taken, labels: of_taken }]
    }
}

/// Refuses labels that are not one integer per sample; says whether they have a sign.
fn check_labels(path: &Path, kind: Kind, sizes: &[usize]) -> Result<bool> {
    if sizes.iter().skip(1).any(|&size| size != 1) || sizes.is_empty() {
        return Err(Error::file(
            path,
            format!("has labels of {sizes:?}; expected is one integer per sample (of one-hot rows, save argmax)"),
        ));
    }
    match kind {
        Kind::U8 => Ok(false),
        Kind::Int(signed, _) => Ok(signed),
        Kind::F32 | Kind::F64 => Err(Error::file(path, "has labels with a point; save integers (labels.astype('int64'))")),
    }
}

/// The labels of an array: integers from 0 on, one per sample.
fn labels_of(store: &Store, key: &str) -> Result<Vec<u32>> {
    let (path, array) = (store.path(key), store.read(key)?);
    let Array { kind, sizes, bytes } = array;
    let signed = check_labels(&path, kind, &sizes)?;
    let label = |(index, value): (usize, &[u8])| {
        let number = wide(signed, value);
        u32::try_from(number).map_err(|_| Error::file(&path, format!("sample {index} has label {number}; labels are 0, 1, 2, …")))
    };
    bytes.chunks_exact(kind.bytes()).enumerate().map(label).collect()
}

/// An integer of up to 8 bytes, whatever its sign.
pub(super) fn wide(signed: bool, value: &[u8]) -> i128 {
    let mut wide = [if signed && value.last().is_some_and(|&high| high >= 0x80) { 0xff } else { 0 }; 16];
    wide[..value.len()].copy_from_slice(value);
    i128::from_le_bytes(wide)
}

/// How many classes labels name. Each has a sample to train on: labels that begin with 1 or leave one out are taken for a mistake, and a
/// single huge one takes no memory.
fn classes(store: &Store, key: &str, [train, test]: [&[u32]; 2]) -> Result<usize> {
    let most = train.iter().chain(test).copied().max().unwrap_or(0) as usize;
    let problem = if most >= train.len() {
        Some(format!("has label {most} among {} training samples; number the classes 0, 1, 2, …", train.len()))
    } else {
        let mut is_there = vec![false; most + 1];
        train.iter().for_each(|&label| is_there[label as usize] = true);
        let missing = is_there.iter().position(|is_there| !is_there);
        missing.map(|class| format!("has no training sample of class {class}, though there is a label {most}; number them 0, 1, 2, …"))
    };
    problem.map_or(Ok(most + 1), |problem| Err(Error::file(store.path(key), problem)))
}
