//! What no run can have: every setting on its own, and those that contradict each other.

use super::config::{GAMMA, PEAK_SHARE, are_usual};
use super::kinds::{NeuronKind, OptimizerKind, ScheduleKind, ThresholdInit};
use super::{Config, models};
use crate::device::threads::MAX_THREADS;
use crate::error::{Error, Result};
use crate::ops::neuron::Neuron;

/// Passes over the training split.
const MAX_EPOCHS: usize = 1_000_000;
/// Iterations of the warm-up.
const MAX_WARMUP: usize = 1_000_000_000;
/// Samples computed at once.
const MAX_BATCH: usize = 1 << 20;
/// Pixels.
pub(super) const MAX_SIDE: usize = 4096;

/// Thresholds that the equations have room for: they are squared, divided by, and multiplied by 255 steps.
const THRESHOLDS: std::ops::RangeInclusive<f64> = 1e-9..=1e9;

/// A number as it may be given, in a few digits where it is very large or small.
pub fn number(value: f64) -> String {
    let is_short = value == 0.0 || !value.is_finite() || (1e-5..1e16).contains(&value.abs());
    if is_short { value.to_string() } else { format!("{value:e}") }
}

/// Whether the engine, which computes with 32 bits, can hold a positive number.
fn is_held(value: f64) -> bool {
    let float = value as f32;
    float > 0.0 && float.is_finite()
}

fn out_of_range(value: f64) -> String {
    format!("{} is not a positive number of 32 bits, which go from 1e-45 to 3.4e38", number(value))
}

/// What follows from numbers that were given, in the digits that the engine has of it: those of the ends of a range look like them, and no
/// others do.
fn shown(value: f64) -> String {
    if is_held(value) { format!("{:e}", value as f32) } else { format!("{value:.1e}") }
}

/// Whether what follows from numbers that were given is one of [`THRESHOLDS`]; rounded once, so that their ends are among them.
fn is_threshold(value: f64) -> bool {
    let [least, most] = [THRESHOLDS.start(), THRESHOLDS.end()].map(|end| *end as f32);
    (least..=most).contains(&(value as f32))
}

impl Config {
    /// Refuses constants of neurons from which the engine, which computes with 32 bits, makes no numbers, or none to go on with.
    fn check_neuron(&self) -> Result<()> {
        let neuron = self.neuron();
        let require = |holds: bool, name: &str, problem: String| if holds { Ok(()) } else { Err(Error::config(name, problem)) };
        let thresholds = [("vth", Some(self.vth)), ("vth-pooled", self.vth_pooled), ("vth-logits", self.vth_logits)];
        let thresholds = thresholds.into_iter().filter_map(|(name, value)| Some((name, value?)));
        if matches!(neuron, Neuron::Lif { .. }) {
            let (tau, delta_t) = (self.tau, self.delta_t);
            let in_range = |flag: &str, given: f64, what: &str, value: f64| {
                let problem = format!("{}: {what} is {} and has to be in 1e-9..=1e9", number(given), shown(value));
                require(is_threshold(value), flag, problem)
            };
            in_range("tau", tau, "1 / tau", 1.0 / tau)?;
            let problem = format!("{} is too short beside a tau of {}: nothing would change in a step", number(delta_t), number(tau));
            require(neuron.charge() > 0.0, "delta-t", problem)?;
            for (name, value) in thresholds.clone() {
                in_range("delta-t", delta_t, &format!("{name} / delta-t"), value / delta_t)?;
                in_range("delta-t", delta_t, &format!("{name} * tau / delta-t"), value / delta_t * tau)?;
            }
        }
        if neuron == Neuron::Relu {
            return Ok(());
        }
        // A threshold may be learned down to its bound, so what fires a neuron may be below the range, but not 0.
        for (name, value) in thresholds.chain([("vth-bound", self.vth_bound)]) {
            let (alpha, level) = (number(self.alpha), self.alpha * value);
            let problem = format!("{alpha}: alpha * {name} is 0 in 32 bits, and a neuron at rest would fire in each step");
            require(neuron.alpha() * value as f32 > 0.0, "alpha", problem)?;
            let problem = format!("{alpha}: alpha * {name} is {} and has to be at most 1e9: no potential gets there", shown(level));
            require(level as f32 <= *THRESHOLDS.end() as f32, "alpha", problem)?;
        }
        Ok(())
    }

    /// Refuses settings that no run can have.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting, its value and what it may be.
    pub fn check(&self) -> Result<()> {
        let require = |holds: bool, name: &str, problem: String| if holds { Ok(()) } else { Err(Error::config(name, problem)) };
        let in_range = |name: &str, value: f64| require(is_held(value), name, out_of_range(value));
        let positive = |name: &str, value: f64| {
            require(value > 0.0 && value.is_finite(), name, format!("{} is not a positive number", number(value)))?;
            in_range(name, value)
        };
        let threshold = |name: &str, value: f64| {
            positive(name, value)?;
            let problem = format!("{} is not in 1e-9..=1e9: products of such thresholds are no numbers", number(value));
            require(THRESHOLDS.contains(&value), name, problem)
        };
        let at_least_0 = |name: &str, value: f64| {
            require(value >= 0.0 && value.is_finite(), name, format!("{} is not a number ≥ 0", number(value)))?;
            require(value == 0.0 || is_held(value), name, out_of_range(value))
        };
        let share = |name: &str, value: f64| {
            require((0.0..1.0).contains(&value), name, format!("{} is not in 0 ≤ {name} < 1", number(value)))?;
            require((value as f32) < 1.0, name, format!("{value} is 1 in 32 bits, which the engine computes with, and has to be below 1"))
        };
        let at_most = |name: &str, value: usize, most: usize| require(value <= most, name, format!("{value} is above {most}"));
        let count =
            |name: &str, value: usize, most: usize| require((1..=most).contains(&value), name, format!("{value} is not in 1..={most}"));
        models::check(&self.architecture())?;
        require((1..=255).contains(&self.time_steps), "time-steps", format!("{} is not in 1..=255", self.time_steps))?;
        let one = self.neuron != NeuronKind::Relu || self.time_steps == 1;
        require(
            one,
            "time-steps",
            format!("{}: with --neuron relu the network is an ANN and has no steps; leave -T out", self.time_steps),
        )?;
        let has_thresholds = self.neuron != NeuronKind::Relu || self.threshold_init == ThresholdInit::Fixed;
        require(has_thresholds, "threshold-init", "auto: with --neuron relu there are no thresholds to choose; leave it out".into())?;
        threshold("vth", self.vth)?;
        threshold("vth-pooled", self.vth_pooled.unwrap_or(self.vth))?;
        threshold("vth-logits", self.vth_logits.unwrap_or(self.vth))?;
        positive("alpha", self.alpha)?;
        positive("tau", self.tau)?;
        positive("delta-t", self.delta_t)?;
        threshold("vth-bound", self.vth_bound)?;
        self.check_neuron()?;
        at_least_0("threshold-grad-scale", self.threshold_grad_scale)?;
        require(matches!(self.weight_bits, 8 | 16), "weight-bits", format!("{} is neither 16 nor 8", self.weight_bits))?;
        share("momentum", self.momentum)?;
        let plain = self.nesterov && (self.momentum == 0.0 || self.optimizer != OptimizerKind::Sgd);
        require(!plain, "nesterov", "needs --optimizer sgd and a momentum above 0".into())?;
        share("betas", self.betas[0])?;
        share("betas", self.betas[1])?;
        positive("eps", self.eps)?;
        positive("lr", self.lr)?;
        let (milestones, is_multi_step) = (&self.milestones, self.schedule == ScheduleKind::MultiStep);
        let inside = |value: f64| 0.0 < value && value < 1.0;
        let rising = !milestones.is_empty() && milestones.iter().all(|&m| inside(m)) && milestones.is_sorted_by(|a, b| a < b);
        require(rising, "milestones", format!("{milestones:?} are not rising shares of the run, such as 0.5,0.75"))?;
        require(is_multi_step || are_usual(milestones), "milestones", "only --schedule multi-step has them".into())?;
        require(0.0 < self.gamma && self.gamma <= 1.0, "gamma", format!("{} is not in 0 < gamma ≤ 1", number(self.gamma)))?;
        require(is_multi_step || self.gamma == GAMMA, "gamma", "only --schedule multi-step has it".into())?;
        require(inside(self.peak_share), "peak-share", format!("{} is not in 0 < peak-share < 1", number(self.peak_share)))?;
        let has_peak = self.schedule == ScheduleKind::OneCycle || self.peak_share == PEAK_SHARE;
        require(has_peak, "peak-share", "only --schedule one-cycle has it".into())?;
        let held = self.val_share.is_none_or(inside);
        require(held, "val-share", format!("{} is not in 0 < val-share < 1", number(self.val_share.unwrap_or_default())))?;
        at_least_0("weight-decay", self.weight_decay)?;
        let frozen = self.freeze_thresholds;
        let has_thresholds = !frozen || self.neuron != NeuronKind::Relu;
        require(has_thresholds, "freeze-thresholds", "with --neuron relu there are none; leave it out".into())?;
        let has_gradients = !frozen || self.threshold_grad_scale == Config::default().threshold_grad_scale;
        require(has_gradients, "threshold-grad-scale", "with --freeze-thresholds they have no gradients; leave one of them out".into())?;
        positive("clip-norm", self.clip_norm.unwrap_or(1.0))?;
        let ema = self.ema.unwrap_or(0.5);
        require(inside(ema) && (ema as f32) < 1.0, "ema", format!("{} is not in 0 < ema < 1, such as 0.999", number(ema)))?;
        at_most("warmup", self.warmup, MAX_WARMUP)?;
        count("epochs", self.epochs, MAX_EPOCHS)?;
        count("batch", self.batch, MAX_BATCH)?;
        count("slices", self.slices, MAX_BATCH)?;
        at_most("crop-pad", self.crop_pad, MAX_SIDE)?;
        self.check_augmentation()?;
        at_most("threads", self.threads, MAX_THREADS)?;
        share("dropout", self.dropout)?;
        self.check_files()?;
        // TOML has no unsigned 64-bit integers, and the seed has to survive in a checkpoint.
        require(self.seed <= i64::MAX as u64, "seed", format!("{} is above {}", self.seed, i64::MAX))
    }
}
