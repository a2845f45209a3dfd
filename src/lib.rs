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
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use dsr::checkpoint::{self, About, Progress};
//! use dsr::data::{Images, Split};
//! use dsr::network::{Conv, Init, Input, Mode, NO_POOL, Source, WeightGradient};
//! use dsr::ops::neuron::Neuron;
//! use dsr::ops::optimizer::Rule;
//! use dsr::{Augment, Builder, Dataset, Device, Loader, Optimizer, Ties, evaluation};
//!
//! # fn main() -> dsr::Result<()> {
//! // 8×8 images whose left or right half is bright; no two have the same brightness.
//! let image = |i: usize| (0..64).map(move |pixel| if (pixel % 8 < 4) == (i % 2 == 0) { 150 + i as u8 } else { 90 - i as u8 });
//! let split = |range: std::ops::Range<usize>| Split {
//!     images: Images { shape: [8, 8, 1], pixels: range.clone().flat_map(image).collect() },
//!     labels: range.map(|i| i as u32 % 2).collect(),
//! };
//! let data = Arc::new(Dataset::new("halves", vec!["left".into(), "right".into()], split(0..64), split(64..80), 255)?);
//!
//! // The image → convolution, batch norm, 16 channels of spikes → average pool, linear layer, a spiking neuron per class. The names
//! // are those of the file; the logit of a class is the representation of its neuron: firing rate times threshold.
//! let (threshold, no_dropout) = (1.0, 0.0);
//! let mut layers = Builder::new(data.shape, threshold);
//! let conv = Conv { cout: 16, kernel: 3, stride: 1, pad: 1, weight: Init::Normal(0.3), bias: None };
//! let conv = layers.conv("conv1", Source::Input, NO_POOL, conv);
//! let hidden = layers.layer("spikes1", vec![conv], Some("bn1"), no_dropout)?;
//! let (pool, copies) = ([4, 4, 0], 1); // window, stride and padding; how often the layer sees its input
//! let [weight, bias] = [Init::Uniform(0.1), Init::Constant(0.5)];
//! let linear = layers.linear("fc", hidden, pool, data.classes.len(), copies, [weight, bias]);
//! layers.layer("spikes2", vec![linear], None, no_dropout)?;
//! // Neurons fire at α times their threshold.
//! let (time_steps, threshold_bound, seed) = (8, 0.01, 0);
//! let mut network = layers.finish(Neuron::If { alpha: 0.5 }, time_steps, threshold_bound, seed)?;
//!
//! // Thresholds with which every layer fires, from some training samples.
//! let samples = Loader::train(data.clone(), 32, Augment::default(), seed, 0, 0).next().expect("training samples");
//! network.choose_thresholds(&Input { data: &samples.data, batch: samples.labels.len(), frames: samples.frames }, seed)?;
//! network.place(&Device::Cpu)?; // or a CUDA device
//!
//! let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 0.0, network.len());
//! for epoch in 0..5 {
//!     let mut batches = Loader::train(data.clone(), 16, Augment::default(), seed, epoch, 0);
//!     for batch in batches.by_ref() {
//!         let input = Input { data: &batch.data, batch: batch.labels.len(), frames: batch.frames };
//!         // The gradient is that of the clamp mapping between firing rates; the seed is that of dropout.
//!         let mode = Mode::Train { gradient: WeightGradient::Rate, seed: optimizer.steps };
//!         let step = network.train_step(&mut optimizer, 0.05, &input, &batch.labels, mode)?;
//!         assert_eq!(step.not_finite, None);
//!     }
//!     batches.outcome()?; // a sample that could not be read ends the loop early
//! }
//! network.synchronize(&mut optimizer)?; // what a device has newer
//!
//! let test = evaluation::evaluate(&mut network, &data, 16, Ties::First, false, &mut |_, _, _| true)?.expect("nobody stopped it");
//! assert_eq!(test.accuracy(), 1.0);
//!
//! let path = Path::new("halves.safetensors");
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = &folder.path().join(path);
//! let about = About { data: Some(&data.card()), ..About::default() };
//! checkpoint::save(path, &network, &optimizer, &Progress::default(), about)?;
//! checkpoint::load(path, &mut network, Some(&mut optimizer))?;
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
pub mod ranks;
pub mod settings;
pub mod spikes;
pub mod training;

mod atomic_file;
mod file_lock;
mod regular_file;
mod spelling;
mod streams;

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
