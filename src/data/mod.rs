//! Data sets: images as bytes in memory, or files that are read when they are needed; batches as normalised f32.
//!
//! [`load`] opens a set by name, [`Loader`] turns it into the batches of an epoch. Everything random is a function of
//! (seed, epoch, index of the image), so an epoch can be taken up again in its middle.

pub mod aedat;
mod aedat2;
mod aedat4;
pub mod arrays;
mod augment;
pub mod auto_augment;
mod bounds;
mod camera;
mod card;
mod catalogue;
pub mod cifar;
mod class_folders;
mod cut;
mod cutout;
pub mod events;
mod fingerprint;
mod frame_cache;
mod guard;
mod hold_out;
pub mod idx;
pub mod images;
mod jpeg;
mod loader;
mod mixup;
mod moments;
pub mod operations;
pub mod own;
pub mod photos;
pub mod picture;
mod prepare;
pub mod published;
pub mod recordings;
pub mod resample;
mod stream;
mod summary;
pub mod unlabelled;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use arrays::{ArrayReading, Layout, Values};
pub use augment::{Augment, Draw, Pixels};
pub use auto_augment::AutoAugment;
pub use camera::{MAX_SENSOR, Size};
pub use card::DataCard;
pub(crate) use card::is_usable;
pub use catalogue::{has_recordings, is_built_in, is_own, names, published_shape, refuse_folder};
pub use cutout::Hole;
pub use events::{EventReading, EventSplit, Events, FrameRule, Orientation};
pub use hold_out::hold_out;
pub use images::ImageFit;
pub use loader::{Batch, Form, Loader, check_batch, epoch_order};
pub use mixup::Mix;
pub use moments::moments;
pub use own::{Own, OwnReading};
pub use photos::{PhotoReading, Photos};
pub use prepare::{CACHE_FOLDER, Preparation, look_for_listed, prepare};
pub use published::{PublishedFile, published_files};
pub use recordings::{EventChange, RecordingReading, Recordings};
pub use stream::{Listener, Part, Stream, Told};
pub use summary::{SplitSummary, Summary, contact_sheet, problems, summarize};

use crate::error::{Error, Result};
use moments::Levels;

/// More bytes than any file of a supported set holds: a header that promises more is damaged, and nothing is allocated for it.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Images of one size, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// `[N][H][W][C]`.
    pub pixels: Vec<u8>,
}

impl Images {
    /// Values of one image.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.size().max(1)
    }

    /// True without any image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One image, `[H][W][C]`.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.size();
        &self.pixels[index * size..][..size]
    }
}

/// Images with their classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The images; none where they come from [`Dataset::stream`].
    pub images: Images,
    /// Class of each image.
    pub labels: Vec<u32>,
}

impl Split {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True without any image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A training and a test split, and what turns their bytes into the input of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Name, as [`names`] lists it.
    pub name: String,
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Images of a sample: 1, or T for recordings of an event camera.
    pub frames: usize,
    /// Name of each class; a label is an index into it.
    pub classes: Vec<String>,
    /// What a network learns from.
    pub train: Split,
    /// What it is measured on.
    pub test: Split,
    /// The byte that stands for 1.0: 255, or 16 for `digits-8x8`.
    pub max_value: u8,
    /// Mean of each channel, in units of `max_value`; subtracted from the input.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in units of `max_value`; divides the input.
    pub std: Vec<f32>,
    /// Where samples come from that do not lie in memory; then both splits have labels and no images.
    pub stream: Option<Stream>,
    /// What is known of a set of the user's own; none for one of the catalogue.
    pub own: Option<Own>,
}

impl Dataset {
    /// A set whose mean and standard deviation are measured on its training split.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the splits differ in shape, are empty, or have as many images as not labels;
    /// [`Error::Config`] for a label without a class, or a `max_value` of 0.
    pub fn new(name: &str, classes: Vec<String>, train: Split, test: Split, max_value: u8) -> Result<Self> {
        let shape = train.images.shape;
        if test.images.shape != shape {
            return Err(Error::shape(format!("data set {name}: test images"), shape, test.images.shape));
        }
        if max_value == 0 {
            return Err(Error::config("max_value", "the largest value of a pixel cannot be 0"));
        }
        for (split, which) in [(&train, "training"), (&test, "test")] {
            let pixels = split.images.size() * split.len();
            if pixels == 0 || split.images.pixels.len() != pixels {
                let expected = format!("{} labels with {shape:?} bytes each, at least one", split.len());
                return Err(Error::shape(format!("data set {name}: {which} images"), expected, split.images.pixels.len()));
            }
            if let Some(record) = split.labels.iter().position(|&label| label as usize >= classes.len()) {
                let problem = format!("{which} image {record} has label {}; {name} has {} classes", split.labels[record], classes.len());
                return Err(Error::config("label", problem));
            }
        }
        let (mean, std) = Levels::of(&train.images.pixels, shape[2]).normalisation(max_value);
        Ok(Dataset { name: name.to_string(), shape, frames: 1, classes, train, test, max_value, mean, std, stream: None, own: None })
    }

    /// A set whose samples are read from disk when they are needed, as they are.
    fn streamed(name: &str, classes: Vec<String>, stream: Stream) -> Self {
        let (shape, frames) = match &stream {
            Stream::Events(events) => ([events.reading.size, events.reading.size, 2], events.reading.time_steps),
            Stream::Photos(photos) => (photos.reading.shape(), 1),
            Stream::Values(values) => (values.shape, values.frames),
            Stream::Recordings(recordings) => ([recordings.size[0], recordings.size[1], 2], recordings.reading.time_steps),
        };
        let split = |part: Part| Split { images: Images { shape, pixels: Vec::new() }, labels: stream.labels(part) };
        let (train, test) = (split(Part::Train), split(Part::Test));
        let (mean, std) = (vec![0.0; shape[2]], vec![1.0; shape[2]]);
        Dataset { name: name.to_string(), shape, frames, classes, train, test, max_value: 255, mean, std, stream: Some(stream), own: None }
    }

    /// One split.
    pub fn split(&self, part: Part) -> &Split {
        match part {
            Part::Train => &self.train,
            Part::Test => &self.test,
        }
    }

    /// The file that a test sample was read from, and the part of its time, microseconds; none where samples have no files of their own.
    pub fn tested(&self, index: usize) -> Option<(PathBuf, Option<Range<i64>>)> {
        match (&self.stream, &self.own) {
            (Some(Stream::Values(_)), _) => None,
            (Some(Stream::Recordings(recordings)), _) => Some((recordings.path(Part::Test, index), recordings.when(Part::Test, index))),
            (Some(stream), _) => Some((stream.path(Part::Test, index), None)),
            (None, Some(own)) => own.tested.get(index).map(|path| (path.clone(), None)),
            (None, None) => None,
        }
    }

    /// What a checkpoint says of it.
    pub fn card(&self) -> DataCard {
        DataCard {
            name: self.label(),
            shape: self.shape,
            frames: self.frames,
            classes: self.classes.clone(),
            max_value: self.max_value,
            mean: self.mean.clone(),
            std: self.std.clone(),
        }
    }

    /// Whether samples were held out of one heap to test on, so that there are none more to hold out.
    pub fn is_divided(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.share.is_some())
    }

    /// Its name, and what its folder or file is called, if it is the user's own.
    pub fn label(&self) -> String {
        match &self.own {
            Some(own) => format!("{} {}", self.name, own.place),
            None => self.name.clone(),
        }
    }

    /// The set as results name it: with the split, where there is more than one usual split; with where it is, if it is the user's own.
    pub fn title(&self) -> String {
        match (&self.stream, &self.own) {
            (_, Some(Own { share: Some(share), .. })) => format!("{} ({share} of each class to test on)", self.label()),
            (Some(Stream::Events(events)), None) => format!("{} (split {:?})", self.name, events.reading.split).to_lowercase(),
            _ => self.label(),
        }
    }

    /// Whether samples are pictures of one byte a value; those of recordings, and some arrays, are values.
    pub fn has_bytes(&self) -> bool {
        !matches!(self.stream, Some(Stream::Events(_) | Stream::Values(_) | Stream::Recordings(_)))
    }

    /// Whether a sample has a frame for each step, so that another T is another reading of the set, be it one frame.
    pub fn has_frames(&self) -> bool {
        match &self.stream {
            Some(Stream::Events(_) | Stream::Recordings(_)) => true,
            Some(Stream::Values(values)) => values.frames > 1,
            Some(Stream::Photos(_)) | None => false,
        }
    }

    /// Values of a sample, `[frames][H][W][C]`.
    pub fn sample_values(&self) -> usize {
        self.frames * self.shape.iter().product::<usize>()
    }
}

/// How samples are made from files. Published sets in memory have no choice.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Recordings of an event camera.
    pub events: EventReading,
    /// Photos.
    pub photos: PhotoReading,
    /// Arrays.
    pub arrays: ArrayReading,
    /// Recordings of any event camera.
    pub recordings: RecordingReading,
    /// Sets of the user's own, of whatever kind.
    pub own: OwnReading,
}

/// [`open`] with the paper's settings.
///
/// # Errors
/// As [`open`].
pub fn load(name: &str, data_dir: Option<&Path>) -> Result<Dataset> {
    open(name, data_dir, &Reading::default())
}

/// Opens a data set by its name. `data_dir` is the folder (or, for CIFAR, the archive) of a set that is not built in. Of a streamed
/// set only the names of the files are read; [`prepare`] does what saves time later.
///
/// # Errors
/// [`Error::Config`] for an unknown name, or a `data_dir` that is missing or not wanted; [`Error::File`] or [`Error::Io`] for a
/// file that is missing or is not what it should be.
pub fn open(name: &str, data_dir: Option<&Path>, reading: &Reading) -> Result<Dataset> {
    let opened = catalogue::open(name, data_dir, reading);
    opened.map_err(|error| match data_dir {
        Some(place) => own::table::named(place, error),
        None => error,
    })
}
