//! Whether the memory suffices for what settings ask for, before any of it is taken.

use super::Config;
use super::kinds::OptimizerKind;
use super::models;
use crate::device::Device;
use crate::device::room::{Bytes, Room};
use crate::error::Result;
use crate::network::{Purpose, Workload};

/// What the network of a configuration is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Inferences.
    Evaluate,
    /// The statistics of an untrained network, on the CPU, and then inferences.
    Settle,
    /// Training.
    Train,
    /// Single ops at the shapes of its layers.
    Ops,
}

impl Config {
    /// Bytes of the host's memory that the network needs at least for `batch` images of height, width, channels with `frames` frames
    /// each, all on the CPU.
    ///
    /// # Errors
    /// As [`models::build`].
    pub fn demand(&self, usage: Use, shape: [usize; 3], classes: usize, [batch, frames]: [usize; 2]) -> Result<Bytes> {
        let purpose = match usage {
            Use::Evaluate => Purpose::Evaluate,
            Use::Settle => Purpose::Settle,
            Use::Ops => Purpose::Ops,
            Use::Train => {
                let of_rule = if self.optimizer == OptimizerKind::Sgd { 1 } else { 2 };
                Purpose::Train { state: of_rule + u64::from(self.ema.is_some()) }
            }
        };
        let Config { time_steps, weight_bits, .. } = *self;
        let workload = Workload { purpose, neuron: self.neuron(), time_steps, weight_bits, batch, frames };
        Ok(models::build(&self.architecture(), shape, classes)?.demand(&workload))
    }

    /// Refuses what the memory of the host does not suffice for; arguments as for [`Config::demand`]. A device has a memory of its
    /// own, which [`crate::Network::reserve`] looks at.
    ///
    /// # Errors
    /// [`crate::Error::Config`] with the bytes that are needed and those that there are; that of [`models::build`].
    pub fn check_memory(&self, usage: Use, shape: [usize; 3], classes: usize, [batch, frames]: [usize; 2], device: &Device) -> Result<()> {
        let needed = self.demand(usage, shape, classes, [batch, frames])?;
        let room = match (device, usage) {
            (Device::Cpu, _) | (_, Use::Settle) => Room::now(),
            (Device::Cuda(_), _) => Room::elsewhere(),
        };
        let work = match usage {
            Use::Evaluate | Use::Settle => "evaluating",
            Use::Train => "training",
            Use::Ops => "running the ops of",
        };
        let steps = if self.time_steps > 1 { format!(" and T = {}", self.time_steps) } else { String::new() };
        let what = format!("{work} {} with batch {batch}{steps}", self.model_name());
        room.check(needed, &what, "lower -b, -T or the size of the network")
    }
}
