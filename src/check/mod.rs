//! Compares a device with the CPU: every op, whole networks and training steps. `dsr check` runs this.
//!
//! Random values come from the seed and from the shape, so a check has the same inputs whatever else runs. Spikes and all that leads to
//! them must have the bits of the CPU; gradients, which add floats in another order, must be within a stated tolerance.

mod anns;
pub mod collectives;
mod convolutions;
mod far;
mod inputs;
mod instruction_sets;
mod last_block;
mod layer_gradients;
mod machine;
mod networks;
mod neurons;
mod norms;
mod outcome;
mod output;
mod products;
mod rates;
pub mod shared_step;
mod slices;
mod spikes;
mod training;
mod weights;

use clap::ValueEnum;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

pub use outcome::{Compared, Fault, Outcome};
use output::Output;

use crate::device::Device;
use crate::error::Result;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Every op on small and awkward shapes.
    Small,
    /// The same, and layers and networks of realistic width.
    Full,
}

/// One line of `dsr check`.
pub struct Check {
    /// What is checked.
    pub op: &'static str,
    /// Its sizes.
    pub shape: String,
    pub compared: Compared,
    run: Box<Run>,
}

type Run = dyn Fn(&mut ChaCha8Rng, &mut Outcome) -> Result<()>;

impl Check {
    fn bits(op: &'static str, shape: impl Into<String>, run: impl Fn(&mut ChaCha8Rng, &mut Outcome) -> Result<()> + 'static) -> Self {
        Check { op, shape: shape.into(), compared: Compared::Bits, run: Box::new(run) }
    }

    fn within(
        tolerance: &'static str,
        op: &'static str,
        shape: impl Into<String>,
        run: impl Fn(&mut ChaCha8Rng, &mut Outcome) -> Result<()> + 'static,
    ) -> Self {
        Check { op, shape: shape.into(), compared: Compared::Within(tolerance), run: Box::new(run) }
    }

    /// Runs it on values drawn from `seed`.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device refuses to work. A wrong value is no error but [`Outcome::fault`].
    pub fn run(&self, seed: u64) -> Result<Outcome> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(fingerprint(self.shape.as_bytes()));
        let mut outcome = Outcome::default();
        (self.run)(&mut rng, &mut outcome)?;
        Ok(outcome)
    }
}

/// FNV-1a.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Everything that is checked of a device, simple things first. On the CPU: each instruction set against plain Rust.
pub fn checks(device: &Device, size: Size) -> Vec<Check> {
    match device {
        Device::Cpu => instruction_sets::checks(size),
        Device::Cuda(gpu) => [
            machine::checks(gpu),
            weights::checks(gpu),
            far::checks(gpu, size),
            spikes::checks(gpu, size),
            neurons::checks(gpu, size),
            norms::checks(gpu, size),
            last_block::checks(gpu, size),
            rates::checks(gpu),
            convolutions::checks(gpu, size),
            layer_gradients::checks(gpu, size),
            products::checks(gpu, size),
            training::checks(gpu, size),
            networks::checks(gpu, size),
            slices::checks(gpu),
            anns::checks(gpu, size),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}
