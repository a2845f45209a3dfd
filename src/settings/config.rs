//! Every hyper-parameter of a run, with its unit and the paper's value. A run is a function of this, the data and the code.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::kinds::{DecayOn, GradientKind, LrDecay, NeuronKind, OptimizerKind, ReadoutKind, ScheduleKind, SyncBatchNorm, ThresholdInit};
use super::models::{self, Architecture};
use crate::data::{AutoAugment, EventSplit, FrameRule, ImageFit, Layout, Orientation, Size};
use crate::error::Result;
use crate::network::{Network, WeightGradient};
use crate::ops::neuron::Neuron;
use crate::ops::optimizer::{Average, Optimizer, Rule, Schedule, Shape};

/// Settings of a run. The defaults are the paper's for CIFAR-10 with IF neurons and T = 20.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the data set; `dsr info` lists them.
    pub dataset: String,
    /// Folder (or archive) of a data set that is not shipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Name of the network, or `preact-resnet` for `widths` and `blocks`. Paper: preact-resnet18 (CIFAR, ImageNet), vgg11 (events).
    pub model: String,
    /// Channels of each stage of a `preact-resnet`; empty for a named network.
    pub widths: Vec<usize>,
    /// Blocks of each stage of a `preact-resnet`; empty for a named network.
    pub blocks: Vec<usize>,
    /// Neuron model.
    pub neuron: NeuronKind,
    /// Number of time steps T, 1..=255; 1 for an ANN (`relu`). Paper: 20 (CIFAR, DVS-CIFAR10), 50 (ImageNet).
    pub time_steps: usize,
    /// Initial threshold of every layer, in units of the current. Paper: 6 (IF), 0.3 (LIF), 0.6 (LIF, T = 5).
    pub vth: f64,
    /// Initial threshold of neurons behind an average pool (no batch norm): their current is a mean over many neurons, so it is
    /// small. The reference has `vth` here as everywhere; without this, so does dsr.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vth_pooled: Option<f64>,
    /// What the logits are: the (weighted) firing rate of output neurons, as in the paper, or the mean current of the linear layer,
    /// without neurons at the output and behind the last pool.
    #[serde(skip_serializing_if = "ReadoutKind::is_default")]
    pub readout: ReadoutKind,
    /// Initial threshold of the last layer, whose representation is the logits: its range bounds how sure the network can be.
    /// The reference has `vth` here as everywhere; without this, so does dsr.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vth_logits: Option<f64>,
    /// Whether initial thresholds are these, or chosen from the first training samples. Paper: fixed (CIFAR, DVS-CIFAR10).
    pub threshold_init: ThresholdInit,
    /// Share of the threshold at which a neuron fires. Paper: 0.5 (IF; LIF, T = 5), 0.3 (LIF).
    pub alpha: f64,
    /// Membrane time constant of LIF, in the unit of `delta_t`. Paper: 1.
    pub tau: f64,
    /// Length of a time step of LIF, in the unit of `tau`. Paper: 0.05, 0.1 (T = 5).
    pub delta_t: f64,
    /// Lower bound of every threshold. Paper: 0.01 (IF), 0.0005 (LIF), 0.001 (LIF, T = 5).
    pub vth_bound: f64,
    /// Further factor of threshold gradients. Reference: 1, and 0.001 for ImageNet IF.
    pub threshold_grad_scale: f64,
    /// Width of the fixed-point weights of the forward pass: 16 or 8 bits. Paper: 32-bit floats; 8 bits lost nothing.
    pub weight_bits: u8,
    /// Which gradient the weights get. The reference's autograd is `unrolled`, the paper's theory `rate`.
    pub weight_gradient: GradientKind,
    /// Update rule. Paper: sgd (CIFAR, DVS-CIFAR10), adam (ImageNet).
    pub optimizer: OptimizerKind,
    /// Momentum of sgd. Paper: 0.9.
    pub momentum: f64,
    /// Nesterov's form of momentum. Reference: false.
    pub nesterov: bool,
    /// Decay of Adam's two means. Paper: 0.9, 0.999.
    pub betas: [f64; 2],
    /// Added to the root in Adam. PyTorch: 1e-8.
    pub eps: f64,
    /// Highest learning rate. Paper: 0.1 (CIFAR), 0.05 (T = 5, DVS-CIFAR10), 0.001 (ImageNet).
    pub lr: f64,
    /// How the learning rate changes over the run. Reference: cosine.
    #[serde(skip_serializing_if = "ScheduleKind::is_default")]
    pub schedule: ScheduleKind,
    /// Shares of a multi-step run after which its learning rate is multiplied by `gamma`, in rising order.
    #[serde(skip_serializing_if = "are_usual")]
    pub milestones: Vec<f64>,
    /// What a multi-step schedule multiplies the learning rate by, above 0 and up to 1.
    #[serde(skip_serializing_if = "is_usual_gamma")]
    pub gamma: f64,
    /// Share of a one-cycle run after which its learning rate is highest.
    #[serde(skip_serializing_if = "is_usual_peak")]
    pub peak_share: f64,
    /// Whether a cosine or multi-step schedule goes down between epochs or after every step. Reference: epoch.
    pub lr_decay: LrDecay,
    /// Factor of weight decay. Paper: 5e-4, 0 (ImageNet).
    pub weight_decay: f64,
    /// What decays. Paper: all, thresholds and batch norm included.
    #[serde(skip_serializing_if = "DecayOn::is_default")]
    pub decay_on: DecayOn,
    /// Bound of the norm of all gradients of a step, which are made smaller together where it is above that; none without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Share of itself that a moving average of the parameters keeps at each step, such as 0.999; no average without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Whether thresholds stay what they are at the start. Paper: false.
    #[serde(skip_serializing_if = "is_false")]
    pub freeze_thresholds: bool,
    /// Iterations of linear warm-up, up to 1,000,000,000; 0 for none. Paper: 400, 5000 (ImageNet).
    pub warmup: usize,
    /// Passes over the training split, 1..=1,000,000. Paper: 200 (CIFAR), 300 (DVS-CIFAR10), 90 (ImageNet).
    pub epochs: usize,
    /// Samples a training step, 1..=1,048,576. Paper: 128, 144 (ImageNet).
    pub batch: usize,
    /// Slices of a batch, 1..=batch: sums over samples are taken within a slice, then over slices in one order, so as many processes at
    /// most can share a batch, and their number changes no bit.
    #[serde(skip_serializing_if = "is_one")]
    pub slices: usize,
    /// Whether batch norm takes its statistics of the whole batch or of each slice, in training.
    #[serde(skip_serializing_if = "SyncBatchNorm::is_default")]
    pub sync_batch_norm: SyncBatchNorm,
    /// Share of spikes dropped while training. Reference: 0, 0.1 (VGG).
    pub dropout: f64,
    /// Zero padding of the random crop, up to 4096 pixels; 0 for no crop. Paper: 4 (CIFAR, DVS-CIFAR10).
    pub crop_pad: usize,
    /// Random horizontal flip. Paper: true (CIFAR, ImageNet), false (events).
    pub flip: bool,
    /// Share of a training target that all classes have in equal parts, 0 ≤ share < 1. Paper: 0.
    #[serde(skip_serializing_if = "is_off")]
    pub label_smoothing: f64,
    /// Operations of AutoAugment on training pictures. Paper: off.
    #[serde(skip_serializing_if = "AutoAugment::is_off")]
    pub auto_augment: AutoAugment,
    /// Pixels a side of a square of each training image that is zero, up to 4096; 0 for none. Paper: 0.
    #[serde(skip_serializing_if = "is_none")]
    pub cutout: usize,
    /// α of mixup, which mixes the samples of a training batch in shares of Beta(α, α), up to 100; 0 for none. Paper: 0.
    #[serde(skip_serializing_if = "is_off")]
    pub mixup: f64,
    /// Share of each class of the training split that is held out of it as a validation split, on which `best` is then chosen; without
    /// this there is none, and the test split decides, as in the reference. Of a set without a test split it is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_share: Option<f64>,
    /// Which recordings of DVS-CIFAR10 are tested on. Paper: dsr.
    pub event_split: EventSplit,
    /// Whether frames of events hold equally many events or take equally long. Paper: number.
    pub event_frames: FrameRule,
    /// Which of the orientations in use frames of events have. Paper: dsr.
    pub event_orientation: Orientation,
    /// Pixels a side of frames of events, 1..=128. Paper: 48.
    pub event_size: usize,
    /// Pixels a side of a photo of ImageNet. Paper: 224.
    pub image_size: usize,
    /// Shorter side of a test photo of ImageNet before its middle is cut out, pixels. Paper: 256.
    pub image_resize: usize,
    /// Smallest and largest share of a training photo of ImageNet that a random crop takes. Paper: 0.08, 1.
    pub crop_scale: [f64; 2],
    /// Channels of the pictures of `images`: 3 for colour, 1 for grey.
    #[serde(skip_serializing_if = "is_colour")]
    pub channels: usize,
    /// How a picture of `images` becomes a square.
    #[serde(skip_serializing_if = "ImageFit::is_default")]
    pub image_fit: ImageFit,
    /// Order of the axes of `arrays`.
    #[serde(skip_serializing_if = "Layout::is_default")]
    pub layout: Layout,
    /// Mean of each channel of a set of the user's own, in units of the largest value; measured on its training split where it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f64>,
    /// Height and width of the camera of `events`, where files do not state it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor: Option<Size>,
    /// Height and width of frames of `events` and of the sets like it; those of the camera, or a part of them, without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_size: Option<Size>,
    /// Milliseconds of a frame of `events` and of the sets like it; without this `event_frames` decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_ms: Option<f64>,
    /// Columns of `events` and of the sets like it from right to left.
    #[serde(skip_serializing_if = "is_false")]
    pub flip_x: bool,
    /// Rows of them from bottom to top.
    #[serde(skip_serializing_if = "is_false")]
    pub flip_y: bool,
    /// Columns of them become rows, before any flip.
    #[serde(skip_serializing_if = "is_false")]
    pub transpose: bool,
    /// Pixels by which training frames of events are rolled at most, up or down, left or right.
    #[serde(skip_serializing_if = "is_none")]
    pub event_roll: usize,
    /// Degrees by which training frames of events are rotated at most, either way.
    #[serde(skip_serializing_if = "is_off")]
    pub event_rotate: f64,
    /// Probability with which each event of a training recording is left out.
    #[serde(skip_serializing_if = "is_off")]
    pub event_drop: f64,
    /// So many files that cannot be read are left out; with 0, the first one ends the run.
    pub skip_unreadable: usize,
    /// Folder for frames of events and lists of unreadable files; `.dsr-cache` in the data set without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// Seed of parameters, order, augmentation and dropout.
    pub seed: u64,
    /// Threads, up to 1024; 0 for one a core. It changes no result, so it is not written to a run's configuration.
    #[serde(skip_serializing)]
    pub threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            dataset: "cifar10".into(),
            data_dir: None,
            model: "preact-resnet18".into(),
            widths: Vec::new(),
            blocks: Vec::new(),
            neuron: NeuronKind::If,
            time_steps: 20,
            vth: 6.0,
            vth_pooled: None,
            readout: ReadoutKind::Spikes,
            vth_logits: None,
            threshold_init: ThresholdInit::Fixed,
            alpha: 0.5,
            tau: 1.0,
            delta_t: 0.05,
            vth_bound: 0.01,
            threshold_grad_scale: 1.0,
            weight_bits: 16,
            weight_gradient: GradientKind::Rate,
            optimizer: OptimizerKind::Sgd,
            momentum: 0.9,
            nesterov: false,
            betas: [0.9, 0.999],
            eps: 1e-8,
            lr: 0.1,
            schedule: ScheduleKind::Cosine,
            milestones: MILESTONES.to_vec(),
            gamma: GAMMA,
            peak_share: PEAK_SHARE,
            lr_decay: LrDecay::Epoch,
            weight_decay: 5e-4,
            decay_on: DecayOn::All,
            clip_norm: None,
            ema: None,
            freeze_thresholds: false,
            warmup: 400,
            epochs: 200,
            batch: 128,
            slices: 1,
            sync_batch_norm: SyncBatchNorm::All,
            dropout: 0.0,
            crop_pad: 4,
            flip: true,
            label_smoothing: 0.0,
            auto_augment: AutoAugment::Off,
            cutout: 0,
            mixup: 0.0,
            val_share: None,
            event_split: EventSplit::Dsr,
            event_frames: FrameRule::Number,
            event_orientation: Orientation::Dsr,
            event_size: 48,
            image_size: 224,
            image_resize: 256,
            crop_scale: [0.08, 1.0],
            channels: COLOUR,
            image_fit: ImageFit::Crop,
            layout: Layout::Auto,
            mean: Vec::new(),
            std: Vec::new(),
            sensor: None,
            frame_size: None,
            frame_ms: None,
            flip_x: false,
            flip_y: false,
            transpose: false,
            event_roll: 0,
            event_rotate: 0.0,
            event_drop: 0.0,
            skip_unreadable: 0,
            cache_dir: None,
            seed: 0,
            threads: 0,
        }
    }
}

/// Halves and quarters, as networks for CIFAR are often trained.
pub(super) const MILESTONES: [f64; 2] = [0.5, 0.75];
/// PyTorch's.
pub(super) const GAMMA: f64 = 0.1;
/// PyTorch's.
pub(super) const PEAK_SHARE: f64 = 0.3;

// A setting that is younger than some checkpoint is written where it is not the usual one, so that the bytes of other runs stay.
pub(super) fn are_usual(milestones: &[f64]) -> bool {
    milestones == MILESTONES
}

fn is_usual_gamma(gamma: &f64) -> bool {
    *gamma == GAMMA
}

fn is_usual_peak(peak_share: &f64) -> bool {
    *peak_share == PEAK_SHARE
}

fn is_none(pixels: &usize) -> bool {
    *pixels == 0
}

fn is_off(share: &f64) -> bool {
    *share == 0.0
}

fn is_one(value: &usize) -> bool {
    *value == 1
}

/// Channels of a picture unless it is said to be grey.
pub(super) const COLOUR: usize = 3;

fn is_colour(channels: &usize) -> bool {
    *channels == COLOUR
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Config {
    /// The neuron with its constants.
    pub fn neuron(&self) -> Neuron {
        let alpha = self.alpha as f32;
        match self.neuron {
            NeuronKind::If => Neuron::If { alpha },
            NeuronKind::Lif => Neuron::Lif { alpha, tau: self.tau as f32, delta_t: self.delta_t as f32 },
            NeuronKind::Relu => Neuron::Relu,
        }
    }

    /// The layers that are asked for.
    pub fn architecture(&self) -> Architecture<'_> {
        let Config { model, widths, blocks, dropout, vth, .. } = self;
        Architecture { model, widths, blocks, dropout: *dropout, vth: *vth, reads_current: self.readout == ReadoutKind::Current }
    }

    /// The network for images of height, width, channels, with parameters drawn from the seed.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if the images do not suit the model.
    pub fn network(&self, shape: [usize; 3], classes: usize) -> Result<Network> {
        let builder = models::build(&self.architecture(), shape, classes)?;
        let mut network = builder.finish(self.neuron(), self.time_steps, self.vth_bound as f32, self.seed)?;
        network.weight_bits = self.weight_bits;
        network.threshold_grad_scale = if self.freeze_thresholds { 0.0 } else { self.threshold_grad_scale as f32 };
        network.label_smoothing = self.label_smoothing;
        let last = network.layers.len() - 1;
        for index in 0..=last {
            let layer = &network.layers[index];
            let Some(threshold) = layer.threshold else { continue };
            let special = if index == last { self.vth_logits } else { self.vth_pooled.filter(|_| layer.norm.is_none()) };
            if let Some(vth) = special {
                network.set_parameter(threshold, &[vth as f32]);
            }
        }
        network.prepare();
        Ok(network)
    }

    /// The optimiser of a network, not stepped yet.
    pub fn optimizer(&self, network: &Network) -> Optimizer {
        let ([beta1, beta2], eps) = (self.betas.map(|beta| beta as f32), self.eps as f32);
        let rule = match self.optimizer {
            OptimizerKind::Sgd => Rule::Sgd { momentum: self.momentum as f32, nesterov: self.nesterov },
            OptimizerKind::Adam => Rule::Adam { beta1, beta2, eps },
            OptimizerKind::AdamW => Rule::AdamW { beta1, beta2, eps },
        };
        let mut optimizer = Optimizer::new(rule, self.weight_decay as f32, network.len());
        optimizer.spared = self.spared(network).into();
        optimizer.clip_norm = self.clip_norm.map(|most| most as f32);
        optimizer.average = self.ema.map(|decay| Average { decay: decay as f32, ..Average::default() });
        optimizer
    }

    /// Bits of the parameters that do not decay, 32 a word; empty if all do.
    fn spared(&self, network: &Network) -> Vec<u32> {
        let mut bits = Vec::new();
        for (index, parameter) in network.parameters.iter().enumerate() {
            let is_vector = self.decay_on == DecayOn::Weights && parameter.shape.len() < 2;
            if is_vector || (self.freeze_thresholds && network.is_threshold(index)) {
                bits.resize(network.len().div_ceil(32), 0);
                (parameter.start..parameter.start + parameter.len).for_each(|at| bits[at / 32] |= 1 << (at % 32));
            }
        }
        bits
    }

    /// The learning-rate schedule of a run with so many steps an epoch.
    pub fn schedule(&self, steps: usize) -> Schedule<'_> {
        let shape = match self.schedule {
            ScheduleKind::Cosine => Shape::Cosine,
            ScheduleKind::MultiStep => Shape::MultiStep { milestones: &self.milestones, gamma: self.gamma },
            ScheduleKind::OneCycle => Shape::OneCycle { peak_share: self.peak_share },
        };
        Schedule { shape, lr: self.lr, epochs: self.epochs, steps, warmup: self.warmup }
    }

    /// The weight-gradient mode of the engine.
    pub fn gradient(&self) -> WeightGradient {
        match self.weight_gradient {
            GradientKind::Rate => WeightGradient::Rate,
            GradientKind::Unrolled => WeightGradient::Unrolled,
        }
    }

    /// Model in a few letters, for folder names: `preact-resnet-16-32-64`.
    pub fn model_name(&self) -> String {
        let widths: String = self.widths.iter().map(|w| format!("-{w}")).collect();
        format!("{}{widths}", self.model)
    }

    /// The same without what belongs to a machine and not to the run: a file that travels must not say where another user's program
    /// writes, or how many threads it starts.
    pub fn without_machine(&self) -> Config {
        Config { cache_dir: None, threads: 0, ..self.clone() }
    }
}
