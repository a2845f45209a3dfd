//! What the ranks of a step exchange from device to device, recorded with its kernels. All of them make the same calls in the same
//! order, whichever samples they have.

use super::pass::Pass;
use crate::device::Slice;
use crate::device::nccl::{Element, Integer};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::ops::optimizer::cuda::StepResult;
use crate::ops::slices::Slices;
use crate::ranks::{Cost, Nccl, Ranks};

impl Network {
    /// How the devices of several ranks exchange what they add up; none for a process alone.
    pub(super) fn devices_of_ranks(&self) -> Result<Option<&Nccl>> {
        match self.share.ranks() {
            Ranks::Alone => Ok(None),
            Ranks::Nccl(nccl) => Ok(Some(nccl)),
            _ => Err(Error::config("ranks", "processes that share a batch on CUDA devices need NCCL: start them with --devices")),
        }
    }
}

impl Pass<'_> {
    pub(super) fn nccl(&self) -> Result<&Nccl> {
        self.network.devices_of_ranks()?.ok_or_else(|| Error::shape("sums over ranks", "several ranks", 1))
    }

    /// So many exchanges more, in which this rank sends so many bytes.
    pub(super) fn count(&self, exchanges: u64, bytes: usize) {
        let spent = self.spent.get();
        self.spent.set(Cost { exchanges: spent.exchanges + exchanges, bytes: spent.bytes + bytes as u64, ..spent });
    }

    /// Collectives behind the kernels so far and before those to come; `bytes` is what this rank sends.
    fn exchange(&self, bytes: usize, of: impl FnOnce(&crate::device::nccl::Communicator) -> Result<()>) -> Result<()> {
        let nccl = self.nccl()?;
        self.count(1, bytes);
        let communicator = nccl.communicator();
        communicator.after_compute()?;
        of(communicator)?;
        communicator.before_compute()
    }

    /// Adds integers over all ranks, in place; alone there is nothing to add.
    pub fn add_integers<T: Integer>(&self, values: Slice<T>) -> Result<()> {
        let ranks = self.network.share.ranks().size();
        if ranks == 1 || values.is_empty() {
            return Ok(());
        }
        self.exchange(2 * values.bytes() * (ranks - 1) / ranks, |communicator| communicator.all_reduce(values))
    }

    /// The same of what a step counts.
    pub fn add_correct(&self, result: Slice<StepResult>) -> Result<()> {
        // The third of the four words: behind the loss.
        self.add_integers(result.cast::<u32>().part(2..3))
    }

    /// Brings the nodes of all ranks to this one: `[slices][len]`, each at the place of its first slice.
    pub fn gather_nodes<T: Element>(&self, values: Slice<T>, len: usize, slices: &Slices) -> Result<()> {
        let own = self.network.share.ranks().rank();
        let nodes: Vec<Vec<usize>> = (0..slices.ranks).map(|rank| slices.nodes(rank)).collect();
        let sent = nodes[own].len() * len * size_of::<T>() * (slices.ranks - 1);
        self.exchange(sent, |communicator| {
            for round in 0..nodes.iter().map(Vec::len).max().unwrap_or(0) {
                let of = |rank: usize| nodes[rank].get(round).map_or(Slice::NONE, |node| values.part(node * len..(node + 1) * len));
                let others = |of: &dyn Fn(usize) -> Slice<T>| {
                    (0..slices.ranks).map(|rank| if rank == own { Slice::NONE } else { of(rank) }).collect::<Vec<_>>()
                };
                communicator.all_to_all(&others(&|_| of(own)), &others(&of))?;
            }
            Ok(())
        })
    }
}
