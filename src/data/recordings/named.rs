//! Published sets of recordings: their layout, their classes and their split.

use std::ffi::OsString;
use std::path::Path;

use super::ALWAYS;
use super::set::{Listed, Sample};
use crate::data::camera::Sensor;
use crate::data::class_folders;
use crate::error::{Error, Result};
use crate::regular_file;

/// What is known of a set.
pub(super) struct Named {
    name: &'static str,
    /// How it is divided.
    pub split: Option<&'static str>,
    sensor: Sensor,
    layout: Layout,
}

enum Layout {
    /// `Train/CLASS` and `Test/CLASS`.
    NMnist,
    /// `CLASS`, of which the last recordings are tested on.
    NCaltech101,
    /// Recordings of several gestures, with a list of when each begins and ends; a list of the recordings of each split.
    Gesture,
}

const SETS: [Named; 3] = [
    Named { name: "dvs-gesture", split: Some("as published, by persons"), sensor: [128, 128], layout: Layout::Gesture },
    Named { name: "n-mnist", split: Some("as published, that of MNIST"), sensor: [34, 34], layout: Layout::NMnist },
    Named {
        name: "n-caltech101",
        split: Some("none is published; the last tenth of each class is tested on"),
        sensor: [180, 240],
        layout: Layout::NCaltech101,
    },
];

/// The classes of DVS128 Gesture, in the order of their numbers from 1 on.
pub const GESTURES: [&str; 11] = [
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter clockwise",
    "left arm clockwise",
    "left arm counter clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
];

/// The set called `name`, if it is one of these.
pub(super) fn find(name: &str) -> Option<&'static Named> {
    SETS.iter().find(|set| set.name == name)
}

/// The samples of a set, and its camera.
///
/// # Errors
/// [`Error::File`] for another layout, or [`Error::Io`] for what cannot be read.
pub(super) fn list(set: &Named, place: &Path) -> Result<(Listed, Option<Sensor>)> {
    if !place.is_dir() {
        return Err(Error::no_folder(place, "see docs/data.md for its layout"));
    }
    let listed = match set.layout {
        Layout::NMnist => n_mnist(place)?,
        Layout::NCaltech101 => n_caltech101(place)?,
        Layout::Gesture => gesture(place)?,
    };
    Ok((listed, Some(set.sensor)))
}

/// The recordings in a folder of a class, from the root of the set.
fn of_class(root: &Path, inner: &Path, label: u32) -> Result<Vec<Sample>> {
    let folder = root.join(inner);
    if !folder.is_dir() {
        return Err(Error::no_folder(folder, "see docs/data.md for the layout of the set"));
    }
    let files = class_folders::files(&folder, &["bin"])?;
    if files.is_empty() {
        return Err(Error::file(folder, "has no recordings (.bin); get the set again"));
    }
    Ok(files.into_iter().map(|file| Sample { label, file: inner.join(file).into_os_string(), when: ALWAYS }).collect())
}

fn n_mnist(root: &Path) -> Result<Listed> {
    let mut samples = [Vec::new(), Vec::new()];
    for (part, samples) in ["Train", "Test"].iter().zip(&mut samples) {
        for label in 0..10u32 {
            samples.extend(of_class(root, &Path::new(part).join(label.to_string()), label)?);
        }
    }
    let classes = (0..10).map(|class| class.to_string()).collect();
    Ok(Listed { root: root.to_path_buf(), classes, samples, ..Listed::default() })
}

fn n_caltech101(place: &Path) -> Result<Listed> {
    // As it is unpacked, all lies in a folder of that name.
    let inner = place.join("Caltech101");
    let root = if inner.is_dir() { inner } else { place.to_path_buf() };
    let classes = class_folders::folders(&root)?;
    if classes.len() < 2 {
        return Err(Error::file(root, "has no class folders; see docs/data.md for the layout of the set"));
    }
    let mut samples = [Vec::new(), Vec::new()];
    for (class, label) in classes.iter().zip(0..) {
        let mut all = of_class(&root, Path::new(class), label)?;
        if all.len() < 2 {
            return Err(Error::file(
                root.join(class),
                "has a single recording, and one is trained on and one tested on; get the set again",
            ));
        }
        let tested = (all.len() / 10).max(1);
        samples[1].extend(all.split_off(all.len() - tested));
        samples[0].extend(all);
    }
    Ok(Listed { root, classes, samples, ..Listed::default() })
}

/// Bytes of a list of DVS128 Gesture.
const MOST_BYTES: u64 = 1 << 20;

fn gesture(place: &Path) -> Result<Listed> {
    // As it is unpacked, all lies in a folder of that name.
    let inner = place.join("DvsGesture");
    let root = if inner.is_dir() { inner } else { place.to_path_buf() };
    let mut samples = [Vec::new(), Vec::new()];
    for (list, samples) in ["trials_to_train.txt", "trials_to_test.txt"].iter().zip(&mut samples) {
        let list = root.join(list);
        let text = regular_file::read_text(&list, MOST_BYTES)?;
        for file in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let stem = file.strip_suffix(".aedat").filter(|stem| !stem.is_empty() && !stem.contains(['/', '\\']));
            let Some(stem) = stem else {
                let shown: String = file.chars().take(40).collect::<String>().replace(char::is_control, "?");
                return Err(Error::file(&list, format!("names \"{shown}\", which is no NAME.aedat; get it again")));
            };
            let labels = root.join(format!("{stem}_labels.csv"));
            for (label, when) in gestures(&labels, &regular_file::read(&labels, MOST_BYTES)?)? {
                samples.push(Sample { label, file: OsString::from(file), when });
            }
        }
        if samples.is_empty() {
            return Err(Error::file(&list, "names no recordings; get it again"));
        }
    }
    let classes = GESTURES.iter().map(ToString::to_string).collect();
    Ok(Listed { root, classes, samples, ..Listed::default() })
}

/// Class, and begin and end in microseconds, of the gestures of a recording: a file with the columns `class`, `startTime_usec`,
/// `endTime_usec`. Classes count from 1 there.
///
/// # Errors
/// [`Error::File`] with the line that is none.
pub fn gestures(path: &Path, text: &[u8]) -> Result<Vec<(u32, std::ops::Range<i64>)>> {
    let text = std::str::from_utf8(text).map_err(|_| Error::file(path, "is no text; get it again"))?;
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate();
    let wanted = ["class", "startTime_usec", "endTime_usec"];
    let head: Vec<&str> = lines.next().map_or_else(Vec::new, |(_, line)| line.split(',').map(str::trim).collect());
    if head != wanted {
        return Err(Error::file(path, format!("does not begin with {}; get it again", wanted.join(","))));
    }
    let gesture = |(line, text): (usize, &str)| {
        let wrong = || Error::file(path, format!("line {} is no class of 1 to {}, start and end; get it again", line + 1, GESTURES.len()));
        let numbers: Vec<i64> =
            text.split(',').map(|cell| cell.trim().parse()).collect::<std::result::Result<_, _>>().map_err(|_| wrong())?;
        match numbers[..] {
            [class, start, end] if (1..=GESTURES.len() as i64).contains(&class) && 0 <= start && start < end => {
                Ok((class as u32 - 1, start..end))
            }
            _ => Err(wrong()),
        }
    };
    lines.filter(|(_, line)| !line.is_empty()).map(gesture).collect()
}
