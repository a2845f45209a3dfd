//! What the ranks of a step exchange from device to device, recorded with its kernels. All of them make the same calls in the same
//! order, whichever samples they have.

use super::pass::Pass;
use super::slices::Cut;
use crate::device::Slice;
use crate::device::nccl::{Element, Integer};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::ops::optimizer::cuda::StepResult;
use crate::ops::slices::cuda::add_f32;
use crate::ops::slices::{Added, Slices};
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
    fn nccl(&self) -> Result<&Nccl> {
        self.network.devices_of_ranks()?.ok_or_else(|| Error::shape("sums over ranks", "several ranks", 1))
    }

    /// Collectives behind the kernels so far and before those to come; `bytes` is what this rank sends.
    fn exchange(&self, bytes: usize, of: impl FnOnce(&crate::device::nccl::Communicator) -> Result<()>) -> Result<()> {
        let nccl = self.nccl()?;
        let spent = self.spent.get();
        self.spent.set(Cost { exchanges: spent.exchanges + 1, bytes: spent.bytes + bytes as u64, ..spent });
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

    /// Gradients of weights: every rank adds up its share of the parameters over the nodes of all, then all get all. That sends the bytes
    /// of a ring, where ranks have one node each.
    pub(super) fn add_weights_of_ranks(&self, slices: &Slices, cut: Cut) -> Result<()> {
        let Pass { network, gpu, buffers, .. } = *self;
        let (own, len, share) = (network.share.ranks().rank(), network.values.len(), cut.share_of(network.values.len()));
        let part = |rank: usize| (rank * share).min(len)..((rank + 1) * share).min(len);
        let ours = part(own).len();
        let (grads, shares, summed) = (buffers.slices.grads, buffers.slices.shares, buffers.slices.summed);
        let nodes: Vec<Vec<usize>> = (0..slices.ranks).map(|rank| slices.nodes(rank)).collect();
        let first = slices.of(own).start;
        let sent = (nodes[own].len() * (len - ours) + (slices.ranks - 1) * share) * size_of::<f32>();
        self.exchange(sent, |communicator| {
            for round in 0..nodes.iter().map(Vec::len).max().unwrap_or(0) {
                let send = |to: usize| {
                    nodes[own].get(round).map_or(Slice::NONE, |node| {
                        let start = (node - first) * len;
                        grads.part(start + part(to).start..start + part(to).end)
                    })
                };
                let receive = |from: usize| nodes[from].get(round).map_or(Slice::NONE, |node| shares.part(node * ours..(node + 1) * ours));
                let all = |of: &dyn Fn(usize) -> Slice<f32>| (0..slices.ranks).map(of).collect::<Vec<_>>();
                communicator.all_to_all(&all(&send), &all(&receive))?;
            }
            Ok(())
        })?;
        add_f32(gpu, shares, Slice::NONE, ours, slices, Added::Across, 0)?;
        self.exchange(0, |communicator| communicator.all_gather(shares.part(0..share), summed))?;
        let whole = Slices { all: 1, present: 1, ranks: 1 };
        add_f32(gpu, summed, buffers.grads, len, &whole, Added::Own(0), 0)
    }
}
