//! IF and LIF neurons: currents in, spikes out, and the clamp mapping that carries their gradient.
//!
//! In the path of a batch: batch norm → **neuron** → next connection; backward the other way round.
//!
//! Invariant: the potential never leaves this op, and what it keeps for backward has no time axis.

mod cpu;
pub use cpu::{clamp_mapping_backward, neuron_forward};

use crate::error::{Error, Result};

/// A neuron model with its constants. Source: DSR, section 3.1; reference `IFNeuron`, `LIFNeuron`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Neuron {
    /// Integrate and fire: no leak.
    If { alpha: f32 },
    /// Leaky integrate and fire. `tau` and `delta_t` share a unit of time.
    Lif { alpha: f32, tau: f32, delta_t: f32 },
}

impl Neuron {
    /// `exp(-delta_t / tau)`, the part of the potential that survives a step; 1 for IF.
    pub fn leak(self) -> f32 {
        match self {
            Neuron::If { .. } => 1.0,
            Neuron::Lif { tau, delta_t, .. } => (-f64::from(delta_t) / f64::from(tau)).exp() as f32,
        }
    }

    /// Share of the current that enters the potential: `1 - leak`; 1 for IF.
    pub fn charge(self) -> f32 {
        match self {
            Neuron::If { .. } => 1.0,
            Neuron::Lif { .. } => 1.0 - self.leak(),
        }
    }

    /// Ratio of the threshold at which the neuron fires.
    pub fn alpha(self) -> f32 {
        match self {
            Neuron::If { alpha } | Neuron::Lif { alpha, .. } => alpha,
        }
    }

    /// Share of each step in the representation; the shares sum to 1 (IF: all equal, LIF: late steps weigh more).
    pub fn step_weights(self, time_steps: usize) -> Vec<f32> {
        let decay = match self {
            Neuron::If { .. } => 0.0,
            Neuron::Lif { tau, delta_t, .. } => f64::from(delta_t) / f64::from(tau),
        };
        let raw: Vec<f64> = (1..=time_steps).map(|t| (-decay * (time_steps - t) as f64).exp()).collect();
        let total: f64 = raw.iter().sum();
        raw.iter().map(|w| (w / total) as f32).collect()
    }

    /// What a spike is worth downstream: `threshold` (IF) or `threshold / delta_t` (LIF).
    pub fn spike_value(self, threshold: f32) -> f32 {
        match self {
            Neuron::If { .. } => threshold,
            Neuron::Lif { delta_t, .. } => threshold / delta_t,
        }
    }

    /// Upper end of the clamp mapping, in units of the mean current.
    pub fn upper(self, threshold: f32) -> f32 {
        match self {
            Neuron::If { .. } => threshold,
            Neuron::Lif { tau, delta_t, .. } => threshold / delta_t * tau,
        }
    }

    /// Slope of the clamp mapping inside its range: 1 (IF), `1 / tau` (LIF).
    pub fn slope(self) -> f32 {
        match self {
            Neuron::If { .. } => 1.0,
            Neuron::Lif { tau, .. } => 1.0 / tau,
        }
    }

    /// Factor of the threshold gradient, as in the reference: 1 (IF), `delta_t` (LIF).
    pub fn threshold_grad_factor(self) -> f32 {
        match self {
            Neuron::If { .. } => 1.0,
            Neuron::Lif { delta_t, .. } => delta_t,
        }
    }

    /// Whether a (weighted) mean current lies where the mapping has its slope: IF keeps both ends, LIF neither.
    pub fn inside(self, mean_current: f32, upper: f32) -> bool {
        match self {
            Neuron::If { .. } => (0.0..=upper).contains(&mean_current),
            Neuron::Lif { .. } => mean_current > 0.0 && mean_current < upper,
        }
    }

    /// `IF` or `LIF`, as in papers.
    pub fn name(self) -> &'static str {
        match self {
            Neuron::If { .. } => "if",
            Neuron::Lif { .. } => "lif",
        }
    }

    /// Refuses constants that the equations do not take.
    ///
    /// # Errors
    /// [`Error::Config`] naming the constant.
    pub fn check(self) -> Result<()> {
        let positive = |name: &str, value: f32| {
            if value > 0.0 && value.is_finite() { Ok(()) } else { Err(Error::config(name, format!("{value} is not a positive number"))) }
        };
        positive("alpha", self.alpha())?;
        if let Neuron::Lif { tau, delta_t, .. } = self {
            positive("tau", tau)?;
            positive("delta_t", delta_t)?;
        }
        Ok(())
    }
}

/// Range of the mean current a neuron was in: decides its gradient.
pub const INSIDE: u8 = 1;
/// The mean current was above the clamp: the threshold gets the gradient.
pub const ABOVE: u8 = 2;

/// What a layer keeps of its neurons for backward; no time axis.
pub struct NeuronKept {
    /// `[B][P][C]`: [`INSIDE`], [`ABOVE`] or 0.
    pub range: Vec<u8>,
    /// Spikes of each neuron over time, `[B][P][C]`; at most T.
    pub counts: Vec<u8>,
    /// Plain time mean of the normalised current, `[B][P][C]`; empty without batch norm.
    pub mean_normed: Vec<f32>,
    /// Weighted time mean of the normalised current (LIF); empty where it equals the plain one.
    pub weighted_normed: Vec<f32>,
}

/// One layer's constants for [`neuron_forward`].
pub struct NeuronArgs<'a> {
    /// Neuron model.
    pub neuron: Neuron,
    /// Firing threshold, > 0.
    pub threshold: f32,
    /// Number of time steps T, 1..=255.
    pub time_steps: usize,
    /// Channels C.
    pub channels: usize,
    /// Scale per channel from x to current; empty without batch norm (then the current is x).
    pub scale: &'a [f32],
    /// Shift per channel.
    pub shift: &'a [f32],
    /// Batch mean per channel.
    pub mean: &'a [f32],
    /// 1 / standard deviation per channel.
    pub inv_std: &'a [f32],
}
