//! IF and LIF neurons: currents in, spikes out, and the clamp mapping that carries their gradient.
//!
//! In the path of a batch: batch norm → **neuron** → next connection; backward the other way round.
//!
//! Invariant: the potential never leaves this op, and what it keeps for backward has no time axis.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod cpu;
pub mod cuda;
mod cuda_reduction;
mod device;
pub use cpu::{ClampMapping, LANES, clamp_mapping_backward, drop_spikes, neuron_at};
pub use device::{DeviceNeurons, NeuronInputs, NeuronOutputs, positions_at_once};

use crate::error::{Error, Result};

/// A neuron model with its constants. Source: DSR, section 3.1; reference `IFNeuron`, `LIFNeuron`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Neuron {
    /// Integrate and fire: no leak.
    If { alpha: f32 },
    /// Leaky integrate and fire. `tau` and `delta_t` share a unit of time.
    Lif { alpha: f32, tau: f32, delta_t: f32 },
    /// No spikes: the current, cut off below 0, is the output of the one step there is. The network is then an ordinary ANN, the
    /// start of hybrid training. It is the limit of the others in all that backward asks for: a clamp mapping without an upper end.
    Relu,
}

impl Neuron {
    /// Whether layers exchange real values instead of spikes.
    pub fn is_real(self) -> bool {
        self == Neuron::Relu
    }

    /// `exp(-delta_t / tau)`, the part of the potential that survives a step; 1 for IF, 0 for ReLU.
    pub fn leak(self) -> f32 {
        match self {
            Neuron::If { .. } => 1.0,
            Neuron::Lif { tau, delta_t, .. } => (-f64::from(delta_t) / f64::from(tau)).exp() as f32,
            Neuron::Relu => 0.0,
        }
    }

    /// Share of the current that enters the potential: `1 - leak`; 1 for IF and ReLU.
    pub fn charge(self) -> f32 {
        match self {
            Neuron::If { .. } | Neuron::Relu => 1.0,
            Neuron::Lif { .. } => 1.0 - self.leak(),
        }
    }

    /// Ratio of the threshold at which the neuron fires; 0 for ReLU, which passes on what is positive.
    pub fn alpha(self) -> f32 {
        match self {
            Neuron::If { alpha } | Neuron::Lif { alpha, .. } => alpha,
            Neuron::Relu => 0.0,
        }
    }

    /// Share of each step in the representation; the shares sum to 1 (IF: all equal, LIF: late steps weigh more).
    pub fn step_weights(self, time_steps: usize) -> Vec<f32> {
        let decay = match self {
            Neuron::If { .. } | Neuron::Relu => 0.0,
            Neuron::Lif { tau, delta_t, .. } => f64::from(delta_t) / f64::from(tau),
        };
        let raw: Vec<f64> = (1..=time_steps).map(|t| (-decay * (time_steps - t) as f64).exp()).collect();
        let total: f64 = raw.iter().sum();
        raw.iter().map(|w| (w / total) as f32).collect()
    }

    /// What a spike is worth downstream: `threshold` (IF) or `threshold / delta_t` (LIF); values of ReLU are worth themselves.
    pub fn spike_value(self, threshold: f32) -> f32 {
        match self {
            Neuron::If { .. } => threshold,
            Neuron::Lif { delta_t, .. } => threshold / delta_t,
            Neuron::Relu => 1.0,
        }
    }

    /// Upper end of the clamp mapping, in units of the mean current; none for ReLU.
    pub fn upper(self, threshold: f32) -> f32 {
        match self {
            Neuron::If { .. } => threshold,
            Neuron::Lif { tau, delta_t, .. } => threshold / delta_t * tau,
            Neuron::Relu => f32::INFINITY,
        }
    }

    /// Slope of the clamp mapping inside its range: 1 (IF, ReLU), `1 / tau` (LIF).
    pub fn slope(self) -> f32 {
        match self {
            Neuron::If { .. } | Neuron::Relu => 1.0,
            Neuron::Lif { tau, .. } => 1.0 / tau,
        }
    }

    /// Factor of the threshold gradient, as in the reference: 1 (IF), `delta_t` (LIF); ReLU has no threshold.
    pub fn threshold_grad_factor(self) -> f32 {
        match self {
            Neuron::If { .. } => 1.0,
            Neuron::Lif { delta_t, .. } => delta_t,
            Neuron::Relu => 0.0,
        }
    }

    /// The clamp mapping of a layer with this threshold: IF keeps both ends of the range, LIF and ReLU neither.
    pub fn clamp_mapping(self, threshold: f32) -> ClampMapping {
        ClampMapping { lower: 0.0, upper: self.upper(threshold), slope: self.slope(), closed: matches!(self, Neuron::If { .. }) }
    }

    /// `if`, `lif` or `relu`, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Neuron::If { .. } => "if",
            Neuron::Lif { .. } => "lif",
            Neuron::Relu => "relu",
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
        if self != Neuron::Relu {
            positive("alpha", self.alpha())?;
        }
        if let Neuron::Lif { tau, delta_t, .. } = self {
            positive("tau", tau)?;
            positive("delta_t", delta_t)?;
            if self.charge() <= 0.0 {
                return Err(Error::config(
                    "delta_t",
                    format!("{delta_t:e} is too short beside a tau of {tau:e}: nothing would change in a step"),
                ));
            }
        }
        Ok(())
    }
}

/// Currents of one position, `[T or 1][stride]`; one step stands for all.
#[derive(Clone, Copy, Debug)]
pub enum Currents<'a> {
    /// Exact sums of a connection from spikes.
    Integer(&'a [i32]),
    /// Sums of a connection from real values.
    Real(&'a [f32]),
}

impl Currents<'_> {
    /// Values in all steps.
    pub fn len(&self) -> usize {
        match self {
            Currents::Integer(acc) => acc.len(),
            Currents::Real(x) => x.len(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One layer's constants for [`neuron_at`].
pub struct NeuronArgs {
    /// Neuron model.
    pub neuron: Neuron,
    /// Firing threshold, > 0.
    pub threshold: f32,
    /// Number of time steps T, 1..=255.
    pub time_steps: usize,
    /// Share of each step in the representation, `[T]`.
    pub step_weights: Vec<f32>,
    /// Channels C.
    pub channels: usize,
    /// Distance of two steps in the currents, at least C.
    pub stride: usize,
}

/// What [`neuron_at`] writes for one position; counts and means may be empty where nobody needs them.
pub struct NeuronOut<'a> {
    /// `[T][words]`.
    pub spikes: &'a mut [u32],
    /// Spikes of each neuron over time, `[C]`; at most T.
    pub counts: &'a mut [u8],
    /// Time mean of the normalised current, `[C]`.
    pub mean_normed: &'a mut [f32],
    /// Weighted time mean of the normalised current (LIF), `[C]`.
    pub weighted_normed: &'a mut [f32],
}
