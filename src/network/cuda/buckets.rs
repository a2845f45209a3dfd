//! Gradients of weights of several slices, bucket by bucket: each is added up over slices and ranks while backward goes on.
//!
//! The two exchanges of a bucket, and the kernels that add between them, are on the communicator's stream, each behind the sums of a
//! later layer that has a convolution. Compute waits for those sums and not for the exchange, which has the products of that layer to
//! hide behind; the sums of the next layer wait for the exchange, since a stream has one order, and that is why a layer gets one exchange
//! and not all that are due. What is left comes when backward is over, and then compute waits for all, once.
//!
//! No rank can wait for one that waits for it: all collectives of a step are on one stream of one communicator, every rank issues them in
//! one order that network and settings alone decide (a rank without samples, too), and no kernel of compute waits for another rank by
//! itself. No kernel reads what another writes at the same time: a bucket has room of its own (`[own slices]`, shares, sums), which
//! nobody else touches from where it is closed to the end of backward, and adds to the gradients of its own parameters, to which the
//! layers that are still to come have nothing to add.

use std::collections::VecDeque;

use super::pass::Pass;
use super::slices::Cut;
use crate::device::{Gpu, Layout, Slice};
use crate::error::Result;
use crate::network::{Network, Parameter, buckets};
use crate::ops::slices::cuda::add_f32;
use crate::ops::slices::{Added, Slices};

/// A bucket with its room.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    of: buckets::Bucket,
    /// Gradients of weights, `[own slices][parameters of the bucket]`.
    grads: Slice<f32>,
    /// This rank's share of them, `[slices][share]`, and the sums of all shares, `[ranks][share]`; with several ranks only.
    shares: Slice<f32>,
    summed: Slice<f32>,
}

impl Bucket {
    /// The buckets of a network in the order of backward; alone, where nothing is sent, there is one. `grads` is `[own slices]` times all
    /// parameters.
    pub fn lay_out(network: &Network, cut: &Cut, least: usize, grads: Slice<f32>, layout: &mut Layout) -> Vec<Bucket> {
        let buckets = network.buckets(if cut.ranks > 1 { least } else { usize::MAX });
        let mut with_room = |of: buckets::Bucket| {
            let (len, start) = (of.parameters.len(), cut.own() * of.parameters.start);
            let grads = grads.part(start..start + cut.own() * len);
            let mut room = |parts: usize| if cut.ranks > 1 { layout.take(parts * cut.share_of(len)) } else { Slice::NONE };
            Bucket { of, grads, shares: room(cut.slices), summed: room(cut.ranks) }
        };
        buckets.into_iter().map(&mut with_room).collect()
    }

    /// Gradient of a parameter in slice `at` of this rank; none if the parameter is in another bucket.
    pub fn gradient(&self, parameter: &Parameter, at: usize) -> Option<Slice<f32>> {
        let of = &self.of.parameters;
        let start = at * of.len() + parameter.start.checked_sub(of.start)?;
        (parameter.start < of.end).then(|| self.grads.part(start..start + parameter.len))
    }
}

/// The buckets of a step while backward is under way.
pub(super) struct Buckets<'a> {
    /// Those that lack gradients.
    open: &'a [Bucket],
    /// Exchanges of those that have all.
    due: VecDeque<(Exchange, &'a Bucket)>,
}

/// The two exchanges of a bucket: every rank gets its share of the parameters from all, then all get all sums. That sends the bytes of a
/// ring, where ranks have one node of the tree each.
#[derive(Clone, Copy)]
enum Exchange {
    Shares,
    Sums,
}

impl<'a> Buckets<'a> {
    pub fn new(all: &'a [Bucket]) -> Self {
        Buckets { open: all, due: VecDeque::new() }
    }
}

impl Pass<'_> {
    /// Says that the gradients of the weights of layer `index` and of all later ones are on the compute stream.
    pub fn close_buckets(&self, buckets: &mut Buckets, index: usize) -> Result<()> {
        let before = buckets.open;
        while let [bucket, rest @ ..] = buckets.open
            && bucket.of.layer >= index
        {
            buckets.due.extend([Exchange::Shares, Exchange::Sums].map(|exchange| (exchange, bucket)));
            buckets.open = rest;
        }
        if buckets.open.len() < before.len() && self.slices().ranks > 1 {
            self.nccl()?.communicator().after_compute()?;
        }
        Ok(())
    }

    /// Issues an exchange that is due, behind the sums of layer `index`, if that has products to hide it behind.
    pub fn exchange_bucket(&self, buckets: &mut Buckets, index: usize) -> Result<()> {
        if self.network.layers[index].has_products() && self.slices().ranks > 1 {
            buckets.due.pop_front().map_or(Ok(()), |due| self.exchange_of(due))?;
        }
        Ok(())
    }

    /// Adds up what is left, when all layers are done; from here on compute has the gradients.
    pub fn finish_buckets(&self, mut buckets: Buckets) -> Result<()> {
        self.close_buckets(&mut buckets, 0)?;
        if self.slices().ranks > 1 {
            buckets.due.into_iter().try_for_each(|due| self.exchange_of(due))?;
            return self.nccl()?.communicator().before_compute();
        }
        let (gpu, grads) = (self.gpu, self.buffers.grads);
        self.buffers.slices.buckets.iter().try_for_each(|bucket| self.add_own(bucket, gpu, grads))
    }

    /// Adds up the slices of this rank, as far as the tree has them together; what then stands first is added to `into`, unless that is
    /// none.
    fn add_own(&self, bucket: &Bucket, gpu: &Gpu, into: Slice<f32>) -> Result<()> {
        let (slices, rank) = (self.slices(), self.network.share.ranks().rank());
        add_f32(gpu, bucket.grads, into, bucket.of.parameters.len(), &slices, Added::Own(rank), slices.of(rank).start)
    }

    fn exchange_of(&self, (exchange, bucket): (Exchange, &Bucket)) -> Result<()> {
        match exchange {
            Exchange::Shares => self.exchange_shares(bucket),
            Exchange::Sums => self.exchange_sums(bucket),
        }
    }

    /// Brings this rank's share of a bucket from the nodes of all, and adds it up.
    fn exchange_shares(&self, bucket: &Bucket) -> Result<()> {
        let Bucket { of, grads, shares, .. } = bucket;
        let (slices, own, len) = (self.slices(), self.network.share.ranks().rank(), of.parameters.len());
        let share = self.cut().share_of(len);
        let part = |rank: usize| (rank * share).min(len)..((rank + 1) * share).min(len);
        let (ours, first) = (part(own).len(), slices.of(own).start);
        let nodes: Vec<Vec<usize>> = (0..slices.ranks).map(|rank| slices.nodes(rank)).collect();
        self.count(1, nodes[own].len() * (len - ours) * size_of::<f32>());
        let communicator = self.nccl()?.communicator();
        self.add_own(bucket, communicator.between(), Slice::NONE)?;
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
        add_f32(communicator.between(), *shares, Slice::NONE, ours, &slices, Added::Across, 0)
    }

    /// Brings the sums of all shares of a bucket, and adds them to the gradients.
    fn exchange_sums(&self, bucket: &Bucket) -> Result<()> {
        let Bucket { of, shares, summed, .. } = bucket;
        let (ranks, len) = (self.slices().ranks, of.parameters.len());
        let share = self.cut().share_of(len);
        self.count(1, (ranks - 1) * share * size_of::<f32>());
        let communicator = self.nccl()?.communicator();
        communicator.all_gather(shares.part(0..share), *summed)?;
        let (into, whole) = (self.buffers.grads.part(of.parameters.clone()), Slices { all: 1, present: 1, ranks: 1 });
        add_f32(communicator.between(), *summed, into, len, &whole, Added::Own(0), 0)
    }
}
