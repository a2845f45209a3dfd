//! How samples are made from files.

use super::Config;
use super::check::{MAX_SIDE, number};
use super::config::COLOUR;
use crate::data::{
    ArrayReading, DataCard, Dataset, EventReading, ImageFit, Layout, MAX_SENSOR, OwnReading, PhotoReading, Preparation, Reading,
    RecordingReading, Size, Stream, has_recordings, is_built_in, is_own, is_usable, published_shape,
};
use crate::error::{Error, Result};

/// An hour.
const MAX_FRAME_MS: f64 = 3_600_000.0;

/// Settings that a data set called so cannot have.
pub(super) fn foreign(dataset: &str) -> Vec<&'static str> {
    let of_recordings = has_recordings(dataset) && dataset != "dvs-cifar10";
    let owners: [(bool, &[&str]); 6] = [
        (dataset == "images", &["channels", "image_fit"]),
        (dataset == "arrays", &["layout"]),
        (dataset == "events", &["sensor"]),
        (of_recordings, &["frame_size", "frame_ms", "flip_x", "flip_y", "transpose", "event_roll", "event_rotate", "event_drop"]),
        (!has_recordings(dataset), &["auto_augment"]),
        (!is_built_in(dataset), &["data_dir"]),
    ];
    owners.iter().filter(|(has, _)| !has).flat_map(|(_, keys)| keys.iter().copied()).collect()
}

impl Config {
    /// How samples are made from the files of a data set that is read from disk.
    pub fn reading(&self) -> Reading {
        let events = EventReading {
            time_steps: self.time_steps,
            frames: self.event_frames,
            orientation: self.event_orientation,
            size: self.event_size,
            split: self.event_split,
        };
        let resize = if self.image_resize == 0 { self.image_size } else { self.image_resize };
        let photos = PhotoReading {
            size: self.image_size,
            resize,
            crop_scale: self.crop_scale,
            channels: self.channels,
            fit: self.image_fit,
            takes_part: self.takes_part(),
        };
        let arrays = ArrayReading { layout: self.layout, time_steps: self.time_steps };
        let own = OwnReading { share: self.val_share, seed: self.seed, mean: self.mean.clone(), std: self.std.clone() };
        let recordings = RecordingReading {
            time_steps: self.time_steps,
            frames: self.event_frames,
            length: self.frame_ms.map(|ms| (ms * 1000.0).round() as i64),
            sensor: self.sensor.map(|size| size.0),
            size: self.frame_size.map(|size| size.0),
            flip_x: self.flip_x,
            flip_y: self.flip_y,
            transpose: self.transpose,
        };
        Reading { events, photos, arrays, recordings, own }
    }

    /// How a picture of the user's becomes a sample of a network that was trained with these settings, on data of this `card`: as
    /// pictures of imagenet and images do; for other sets its shorter side is resized and the middle cut out.
    ///
    /// # Errors
    /// [`Error::Config`] naming `checkpoint` for a network that takes no pictures, or none that are squares.
    pub fn picture_reading(&self, card: &DataCard) -> Result<PhotoReading> {
        let ([height, width, channels], frames, name) = (card.shape, card.frames, &card.name);
        let size = format!("{height}x{width}x{channels}");
        let refuse = |takes: String| Err(Error::config("checkpoint", format!("its network takes {takes}, and pictures are none ({name})")));
        if has_recordings(&self.dataset) {
            return refuse(format!("recordings of an event camera, {frames} frames of {size}"));
        }
        if frames > 1 {
            return refuse(format!("samples of {frames} frames of {size}"));
        }
        if card.max_value == 1 {
            return refuse(format!("arrays of numbers with a point, {size}"));
        }
        if height != width || !matches!(channels, 1 | 3) {
            return refuse(format!("samples of {size}, no squares of 1 or 3 channels"));
        }
        let photos = self.reading().photos;
        let is_of_photos = matches!(self.dataset.as_str(), "imagenet" | "images") && photos.shape() == card.shape;
        Ok(if is_of_photos { photos } else { PhotoReading { size: height, resize: height, channels, ..PhotoReading::default() } })
    }

    /// Height, width and channels of the samples, where name and settings tell them without any file.
    pub fn known_shape(&self) -> Option<[usize; 3]> {
        match self.dataset.as_str() {
            "imagenet" | "images" => Some(self.reading().photos.shape()),
            "dvs-cifar10" => Some([self.event_size, self.event_size, 2]),
            other => published_shape(other),
        }
    }

    /// What is done with the files of a data set before a run.
    pub fn preparation(&self) -> Preparation {
        Preparation { cache_dir: self.cache_dir.clone(), skip_unreadable: self.skip_unreadable, converts: false }
    }

    /// Whether training takes a random part of each photo; else a whole picture, padded and cut as those of a set in memory.
    fn takes_part(&self) -> bool {
        self.dataset == "imagenet" || self.crop_scale != [1.0, 1.0]
    }

    /// The same with the normalisation of a set of the user's own, which a checkpoint keeps: who uses it elsewhere need not have the
    /// training split.
    pub fn normalised_as(self, dataset: &Dataset) -> Config {
        if dataset.own.is_none() || matches!(dataset.stream, Some(Stream::Recordings(_))) {
            return self;
        }
        // Through its shortest text, so that 0.4914 is not written as 0.49140000343322754; back in 32 bits it is the same.
        let widened = |values: &[f32]| values.iter().map(|value| value.to_string().parse().unwrap_or(f64::from(*value))).collect();
        Config { mean: widened(&dataset.mean), std: widened(&dataset.std), ..self }
    }

    /// Refuses settings of files that no run can have.
    pub(super) fn check_files(&self) -> Result<()> {
        let require = |holds: bool, name: &str, problem: String| if holds { Ok(()) } else { Err(Error::config(name, problem)) };
        require((1..=128).contains(&self.event_size), "event-size", format!("{} is not in 1..=128", self.event_size))?;
        require((1..=MAX_SIDE).contains(&self.image_size), "image-size", format!("{} is not in 1..={MAX_SIDE}", self.image_size))?;
        let resized = self.image_resize == 0 || (self.image_size..=MAX_SIDE).contains(&self.image_resize);
        require(resized, "image-resize", format!("{} is not in {}..={MAX_SIDE}: from image-size on", self.image_resize, self.image_size))?;
        let [smallest, largest] = self.crop_scale;
        let scales = 0.0 < smallest && smallest <= largest && largest <= 1.0;
        require(scales, "crop-scale", format!("{},{} is not 0 < smallest ≤ largest ≤ 1", number(smallest), number(largest)))?;
        let (is_images, is_arrays) = (self.dataset == "images", self.dataset == "arrays");
        let padded = self.crop_pad > 0 && (self.dataset == "imagenet" || is_images && self.takes_part());
        require(!padded, "crop-pad", format!("{}: photos are cropped by --crop-scale, set it to 0", self.crop_pad))?;
        require(matches!(self.channels, 1 | 3), "channels", format!("{} is neither 1 (grey) nor 3 (colour)", self.channels))?;
        let elsewhere = |name: &str, usual: bool, of: bool, whose: &str| {
            require(usual || of, name, format!("{} has no such setting, only {whose} has; leave --{name} out", self.dataset))
        };
        elsewhere("channels", self.channels == COLOUR, is_images, "images")?;
        elsewhere("image-fit", self.image_fit == ImageFit::Crop, is_images, "images")?;
        elsewhere("layout", self.layout == Layout::Auto, is_arrays, "arrays")?;
        elsewhere("mean", self.mean.is_empty(), is_own(&self.dataset), "a set of your own")?;
        elsewhere("std", self.std.is_empty(), is_own(&self.dataset), "a set of your own")?;
        let counts = self.dataset == "events" && !(self.mean.is_empty() && self.std.is_empty());
        require(!counts, "mean", "frames of events are counts and not normalised; leave --mean and --std out".into())?;
        let of_recordings = has_recordings(&self.dataset) && self.dataset != "dvs-cifar10";
        let whose = "events and the sets like it";
        elsewhere("sensor", self.sensor.is_none(), self.dataset == "events", "events")?;
        elsewhere("frame-size", self.frame_size.is_none(), of_recordings, whose)?;
        elsewhere("frame-ms", self.frame_ms.is_none(), of_recordings, whose)?;
        elsewhere("flip-x", !self.flip_x, of_recordings, whose)?;
        elsewhere("flip-y", !self.flip_y, of_recordings, whose)?;
        elsewhere("transpose", !self.transpose, of_recordings, whose)?;
        let ms = self.frame_ms.unwrap_or(1.0);
        require((0.001..=MAX_FRAME_MS).contains(&ms), "frame-ms", format!("{} is not in 0.001..={MAX_FRAME_MS}", number(ms)))?;
        for (name, size) in [("sensor", self.sensor), ("frame-size", self.frame_size)] {
            let Some(Size([height, width])) = size else { continue };
            let inside = [height, width].iter().all(|side| (1..=MAX_SENSOR).contains(side));
            require(inside, name, format!("{height}x{width} is not in 1x1..={MAX_SENSOR}x{MAX_SENSOR}"))?;
        }
        let (mean, std) = (&self.mean, &self.std);
        require(mean.len() == std.len(), "std", format!("{} numbers, --mean has {}; give one a channel to each", std.len(), mean.len()))?;
        let is_number = |value: &f64| (*value as f32).is_finite();
        require(mean.iter().all(is_number), "mean", format!("{mean:?} are not all numbers"))?;
        let are_positive = std.iter().all(|value| is_number(value) && *value as f32 > 0.0);
        require(are_positive, "std", format!("{std:?} are not all positive numbers"))?;
        let are_usable = mean.iter().zip(std).all(|(&mean, &std)| is_usable(mean as f32, std as f32));
        require(are_usable, "std", format!("{std:?} are too small beside a mean of {mean:?}: samples would be no numbers of 32 bits"))
    }
}
