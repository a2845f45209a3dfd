//! What a checkpoint says of the data that its network was trained on, and whether data can be like that.

use serde::{Deserialize, Serialize};

use super::Dataset;

/// Pixels a side, and channels: what a network may be made for.
const MOST_SIDE: usize = 1 << 16;

/// Values of an image, which are counted with 31 bits.
const MOST_VALUES: usize = 1 << 31;

/// Frames of a sample, one a step.
const MOST_FRAMES: usize = 255;

/// Whether black and white, 0 and 1, are numbers of 32 bits behind a normalisation.
pub(crate) fn is_usable(mean: f32, std: f32) -> bool {
    std > 0.0 && std.is_finite() && [0.0, 1.0].iter().all(|value| ((value - mean) / std).is_finite())
}

/// What a network has to be told of the data it was trained on, to be used without them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataCard {
    /// Name of the set.
    pub name: String,
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Images of a sample: 1, or T.
    pub frames: usize,
    /// Name of each class, in the order of the logits.
    pub classes: Vec<String>,
    /// The byte that stands for 1.0.
    pub max_value: u8,
    /// Mean of each channel, in units of `max_value`.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in units of `max_value`.
    pub std: Vec<f32>,
}

impl DataCard {
    /// Refuses what no data set is like: a checkpoint that says so is damaged.
    ///
    /// # Errors
    /// What it says, in words.
    pub fn check(&self) -> std::result::Result<(), String> {
        let DataCard { shape, frames, classes, max_value, mean, std, .. } = self;
        let [height, width, channels] = *shape;
        let values = shape.iter().fold(1usize, |values, &size| values.saturating_mul(size));
        let bad = |says: String| Err(says);
        if shape.iter().any(|size| !(1..=MOST_SIDE).contains(size)) || values >= MOST_VALUES {
            return bad(format!("samples of {height}x{width} with {channels} channels"));
        }
        if !(1..=MOST_FRAMES).contains(frames) {
            return bad(format!("{frames} frames per sample"));
        }
        if classes.is_empty() {
            return bad("no classes".into());
        }
        if *max_value == 0 {
            return bad("max_value 0".into());
        }
        if mean.len() != channels || std.len() != channels {
            return bad(format!("{} means and {} deviations of {channels} channels", mean.len(), std.len()));
        }
        match mean.iter().zip(std).position(|(&mean, &std)| !is_usable(mean, std)) {
            None => Ok(()),
            Some(channel) => bad(format!("mean {:e} and deviation {:e} of channel {channel}", mean[channel], std[channel])),
        }
    }

    /// How the classes of a data set differ from these; nothing if they do not.
    pub fn classes_differ(&self, dataset: &Dataset) -> Option<String> {
        if self.classes == dataset.classes {
            return None;
        }
        let at =
            self.classes.iter().zip(&dataset.classes).position(|(a, b)| a != b).unwrap_or(self.classes.len().min(dataset.classes.len()));
        let name = |classes: &[String]| classes.get(at).map_or("none".to_string(), |name| format!("'{name}'"));
        let mut sorted = [self.classes.clone(), dataset.classes.clone()];
        sorted.iter_mut().for_each(|names| names.sort());
        let how = if sorted[0] == sorted[1] { "the same classes in another order" } else { "other classes" };
        let (theirs, ours) = (name(&self.classes), name(&dataset.classes));
        Some(format!("it was trained on {} with {how}: class {at} is {theirs} there and {ours} in {}", self.name, dataset.name))
    }
}
