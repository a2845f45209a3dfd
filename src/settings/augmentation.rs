//! How training samples and their targets are changed at random.

use super::Config;
use super::check::MAX_SIDE;
use crate::data::Augment;
use crate::error::{Error, Result};

/// With a larger α every share is close to 1/2.
const MAX_ALPHA: f64 = 100.0;
/// With a smaller one nothing is mixed, and the logarithms of its draws are too small for a number.
const MIN_ALPHA: f64 = 1e-3;

impl Config {
    /// Random changes of training samples.
    pub fn augment(&self) -> Augment {
        Augment { crop_pad: self.crop_pad, flip: self.flip, auto_augment: self.auto_augment, cutout: self.cutout, mixup: self.mixup }
    }

    /// Refuses settings that no run can have; what depends on the samples is refused by [`Augment::check`].
    pub(super) fn check_augmentation(&self) -> Result<()> {
        let require = |holds: bool, name: &str, problem: String| if holds { Ok(()) } else { Err(Error::config(name, problem)) };
        let smoothing = self.label_smoothing;
        require((0.0..1.0).contains(&smoothing), "label-smoothing", format!("{smoothing} is not in 0 ≤ label-smoothing < 1"))?;
        let (policy, is_off) = (self.auto_augment.name(), self.auto_augment.is_off());
        let problem = format!("{policy}: dvs-cifar10 has recordings of events, and it is for pictures; turn it off");
        require(is_off || self.dataset != "dvs-cifar10", "auto-augment", problem)?;
        require(self.cutout <= MAX_SIDE, "cutout", format!("{} is above {MAX_SIDE}", self.cutout))?;
        let alpha = self.mixup;
        let inside = alpha == 0.0 || (MIN_ALPHA..=MAX_ALPHA).contains(&alpha);
        require(inside, "mixup", format!("{alpha} is neither 0 nor in {MIN_ALPHA} ≤ mixup ≤ {MAX_ALPHA}"))
    }
}
