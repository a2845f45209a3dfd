//! How training samples and their targets are changed at random.

use super::Config;
use super::check::{MAX_SIDE, number};
use crate::data::{Augment, EventChange, has_recordings};
use crate::error::{Error, Result};

/// With a larger α every share is close to 1/2.
const MAX_ALPHA: f64 = 100.0;
/// With a smaller one nothing is mixed, and the logarithms of its draws are too small for a number.
const MIN_ALPHA: f64 = 1e-3;

impl Config {
    /// Random changes of training samples.
    pub fn augment(&self) -> Augment {
        let events = EventChange { roll: self.event_roll, rotate: self.event_rotate, drop: self.event_drop };
        let Config { crop_pad, flip, auto_augment, cutout, mixup, .. } = *self;
        Augment { crop_pad, flip, auto_augment, cutout, mixup, events }
    }

    /// Refuses settings that no run can have; what depends on the samples is refused by [`Augment::check`].
    pub(super) fn check_augmentation(&self) -> Result<()> {
        let require = |holds: bool, name: &str, problem: String| if holds { Ok(()) } else { Err(Error::config(name, problem)) };
        let smoothing = self.label_smoothing;
        require((0.0..1.0).contains(&smoothing), "label-smoothing", format!("{} is not in 0 ≤ label-smoothing < 1", number(smoothing)))?;
        let (policy, is_off) = (self.auto_augment.name(), self.auto_augment.is_off());
        let (set, of_recordings) = (&self.dataset, has_recordings(&self.dataset));
        let problem = format!("{policy}: {set} has recordings of events, and it is for pictures; turn it off");
        require(is_off || !of_recordings, "auto-augment", problem)?;
        require(self.event_roll <= MAX_SIDE, "event-roll", format!("{} is above {MAX_SIDE}", self.event_roll))?;
        let degrees = self.event_rotate;
        require((0.0..=180.0).contains(&degrees), "event-rotate", format!("{} is not in 0 ≤ event-rotate ≤ 180", number(degrees)))?;
        let share = self.event_drop;
        require((0.0..1.0).contains(&share), "event-drop", format!("{} is not in 0 ≤ event-drop < 1", number(share)))?;
        let other = !of_recordings || set == "dvs-cifar10";
        for (name, is_off) in [("event-roll", self.event_roll == 0), ("event-rotate", degrees == 0.0), ("event-drop", share == 0.0)] {
            require(
                is_off || !other,
                name,
                format!("{set} has no such changes, only events and the sets like it have; leave --{name} out"),
            )?;
        }
        require(self.cutout <= MAX_SIDE, "cutout", format!("{} is above {MAX_SIDE}", self.cutout))?;
        let alpha = self.mixup;
        let inside = alpha == 0.0 || (MIN_ALPHA..=MAX_ALPHA).contains(&alpha);
        require(inside, "mixup", format!("{} is neither 0 nor in {MIN_ALPHA} ≤ mixup ≤ {MAX_ALPHA}", number(alpha)))
    }
}
