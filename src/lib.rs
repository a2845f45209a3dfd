//! Trains and measures spiking neural networks by Differentiation on Spike Representation (DSR).
//!
//! Spikes are bits, all T time steps run inside one pass over a layer, and the backward pass has no time axis.
//!
//! | to | take |
//! |---|---|
//! | describe a run, or take a network by name | [`Config`], [`settings::recipes`], [`settings::models`] |
//! | build a network layer by layer | [`Builder`], which makes a [`Network`] |
//! | bring data | [`Dataset::new`], [`data::load`] |
//! | choose where to compute | [`Device`], [`Network::place`] |
//! | train | [`training::start`] and [`training::train`], or [`Network::train_step`] in a loop of your own |
//! | measure | [`evaluation::evaluate`], [`evaluation::energy`] |
//! | save and load | [`checkpoint::save`], [`checkpoint::load`] |
//!
//! # A network of your own
//! Two spiking layers, made-up images, some training steps, a test, and a file that PyTorch reads, too:
//! ```
//! use std::sync::Arc;
//!
//! use dsr::checkpoint::{self, Progress};
//! use dsr::data::{Images, Split};
//! use dsr::network::{Conv, Init, Input, Mode, NO_POOL, Source, WeightGradient};
//! use dsr::ops::neuron::Neuron;
//! use dsr::ops::optimizer::Rule;
//! use dsr::{Augment, Builder, Config, Dataset, Loader, Optimizer, Ties, evaluation};
//!
//! # fn main() -> dsr::Result<()> {
//! // 8×8 images whose left half is bright, and such whose right half is.
//! let image = |class: usize| (0..64).map(move |pixel| if (pixel % 8 < 4) == (class == 0) { 200u8 } else { 40 });
//! let split = |n: usize| Split {
//!     images: Images { shape: [8, 8, 1], pixels: (0..n).flat_map(|i| image(i % 2)).collect() },
//!     labels: (0..n as u32).map(|i| i % 2).collect(),
//! };
//! let data = Arc::new(Dataset::new("halves", vec!["left".into(), "right".into()], split(64), split(10), 255)?);
//!
//! // The image → 16 channels of spikes → a spiking neuron per class, whose firing rate is the logit.
//! let (threshold, time_steps, threshold_bound, seed) = (1.0, 8, 0.01, 0);
//! let mut layers = Builder::new(data.shape, threshold);
//! let conv = Conv { cout: 16, kernel: 3, stride: 1, pad: 1, weight: Init::Normal(0.3), bias: None };
//! let conv = layers.conv("conv1", Source::Input, NO_POOL, conv);
//! let hidden = layers.layer("relu1", vec![conv], Some("bn1"), 0.0)?;
//! let linear = layers.linear("fc", hidden, [4, 4, 0], 2, 1, [Init::Uniform(0.1), Init::Constant(0.5)]);
//! layers.layer("relu2", vec![linear], None, 0.0)?;
//! let mut network = layers.finish(Neuron::If { alpha: 0.5 }, time_steps, threshold_bound, seed)?;
//!
//! // Thresholds that let every layer fire, chosen from the currents of some samples.
//! let samples = Loader::test(data.clone(), 10).next().expect("ten images");
//! network.choose_thresholds(&Input { data: &samples.data, batch: 10, frames: 1 }, seed)?;
//!
//! // The gradient is that of the clamp mapping between firing rates.
//! let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 0.0, network.len());
//! for epoch in 0..5 {
//!     for batch in Loader::train(data.clone(), 16, Augment::default(), seed, epoch, 0) {
//!         let input = Input { data: &batch.data, batch: batch.labels.len(), frames: batch.frames };
//!         let mode = Mode::Train { gradient: WeightGradient::Rate, seed: epoch as u64 };
//!         network.train_step(&mut optimizer, 0.05, &input, &batch.labels, mode)?;
//!     }
//! }
//!
//! let go_on = &mut |_: &dsr::Network, _: &_, _: &_| true;
//! let test = evaluation::evaluate(&mut network, &data, 10, Ties::First, false, go_on)?.expect("nobody stopped it");
//! assert_eq!(test.accuracy(), 1.0);
//!
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = folder.path().join("halves.safetensors");
//! checkpoint::save(&path, &network, &optimizer, &Progress::default(), &Config::default().to_toml()?)?;
//! # Ok(())
//! # }
//! ```
//!
//! Source of the method: Meng et al., "Training High-Performance Low-Latency Spiking Neural Networks by Differentiation on
//! Spike Representation", CVPR 2022.

pub mod data;
pub mod device;
pub mod error;
pub mod evaluation;
pub mod network;
pub mod ops;
pub mod settings;
pub mod spikes;
pub mod training;

mod atomic_file;
mod regular_file;

// The commands of the program and what only they use; public for the binary, the tests and the benchmarks, which are crates of their own.
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod check;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod profile;

pub use data::{Augment, Dataset, Loader};
pub use device::Device;
pub use error::{Error, Result};
pub use evaluation::Ties;
pub use network::{Builder, Network};
pub use ops::optimizer::Optimizer;
pub use settings::Config;
pub use training::checkpoint;
