//! Settings that are one of a few names.

use serde::{Deserialize, Serialize};

/// Neuron model by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NeuronKind {
    /// Integrate and fire.
    If,
    /// Leaky integrate and fire.
    Lif,
    /// No spikes: the same network as an ANN, the start of hybrid training.
    Relu,
}

impl NeuronKind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            NeuronKind::If => "if",
            NeuronKind::Lif => "lif",
            NeuronKind::Relu => "relu",
        }
    }
}

/// What the logits are, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ReadoutKind {
    /// The (weighted) firing rate of output neurons, as in the paper.
    #[default]
    Spikes,
    /// The mean current of the linear layer: no neurons at the output and behind the last pool.
    Current,
}

impl ReadoutKind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ReadoutKind::Spikes => "spikes",
            ReadoutKind::Current => "current",
        }
    }

    /// Whether it is the one that files do not name.
    pub fn is_default(&self) -> bool {
        *self == ReadoutKind::default()
    }
}

/// Update rule by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam.
    Adam,
    /// Adam with weight decay apart from the gradient.
    #[value(name = "adamw")]
    AdamW,
}

/// What weight decay applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DecayOn {
    /// Every parameter, as in the reference.
    #[default]
    All,
    /// Weights of convolutions and linear layers; not thresholds, batch norms and biases.
    Weights,
}

impl DecayOn {
    /// Whether it is the one that files do not name.
    pub fn is_default(&self) -> bool {
        *self == DecayOn::default()
    }
}

/// Where initial thresholds come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdInit {
    /// From the settings `vth`, `vth_pooled` and `vth_logits`.
    Fixed,
    /// From the currents of the first training samples, layer by layer.
    Auto,
}

/// How the learning rate changes over a run by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// A cosine from the highest rate down to zero.
    #[default]
    Cosine,
    /// The highest rate, times `gamma` at each of `milestones`.
    MultiStep,
    /// Up to the highest rate and down again, after every step.
    OneCycle,
}

impl ScheduleKind {
    /// Whether it is the one that files do not name.
    pub fn is_default(&self) -> bool {
        *self == ScheduleKind::default()
    }
}

/// When the learning rate goes down by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LrDecay {
    /// Between epochs: the last epoch still has a rate above 0, and the only one of a short run the full rate.
    Epoch,
    /// After every step, to almost 0 in the last one.
    Step,
}

/// Of which samples batch norm takes mean and variance in training, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SyncBatchNorm {
    /// Of the whole batch, whoever has its samples.
    #[default]
    All,
    /// Of a slice: processes exchange nothing for it.
    Slice,
}

impl SyncBatchNorm {
    /// Whether it is the one that files do not name.
    pub fn is_default(&self) -> bool {
        *self == SyncBatchNorm::default()
    }
}

/// Mode of the weight gradient by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GradientKind {
    /// Of the mapping between representations: needs spike counts only.
    Rate,
    /// The full sum over time steps.
    Unrolled,
}
