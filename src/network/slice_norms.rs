//! A step whose batch norms have the statistics of a slice, `--sync-batch-norm slice`: slices have nothing to do with each other until
//! their gradients are added. So each takes the forward and the backward pass on its own, as a batch of its samples, and ranks that
//! share the batch exchange nothing in between.
//!
//! The running statistics after a step are the mean, over the slices that have samples, of what each alone would leave; it is taken in
//! `f64` and in the order of the tree, as all sums over slices are. docs/distributed.md has the definition.

use std::ops::Range;

use super::{Forward, Input, Mode, Network};
use crate::clock::{self, Name, Op, Phase};
use crate::error::Result;
use crate::ops::cross_entropy::{Blend, Targets, summed_cross_entropy};
use crate::ranks::{Node, Share, Tree};

/// Gradients of this rank's slices, and what is summed in `f64`: loss, slices, rates of layers, running statistics.
struct Slices {
    nodes: Vec<Node<f32>>,
    sums: Vec<Vec<f64>>,
    logits: Vec<f32>,
}

impl Network {
    /// Leaves the gradients of the mean loss in [`Network::grads`] and returns that loss; rates are those of all ranks, logits those of this
    /// one.
    pub(super) fn gradients_by_slice(&mut self, input: &Input, labels: &[u32], blends: &[Blend], mode: Mode) -> Result<(f64, Forward)> {
        let share = self.share.clone();
        let (before, batches) = (self.running(), self.norms.iter().map(|norm| norm.batches).collect::<Vec<_>>());
        let found = self.slices(&share, input, labels, blends, mode);
        self.share = share;
        let Slices { nodes, sums, logits } = found?;
        let mut of_slices = sums.into_iter();
        let own = labels.len();
        let sums = self.share.sum(|| "loss, rates and running statistics".into(), own, |_| of_slices.next().unwrap_or_default())?;
        let (total, layers) = (self.share.total(own) as f64, self.layers.len());
        let [loss, slices] = [sums[0], sums[1]];
        let running: Vec<f32> = sums[2 + layers..].iter().map(|sum| (sum / slices) as f32).collect();
        debug_assert_eq!(running.len(), before.len());
        self.set_running(&running);
        self.norms.iter_mut().zip(batches).for_each(|(norm, batches)| norm.batches = batches + 1);
        let mut grads = std::mem::take(&mut self.grads);
        grads.fill(0.0);
        let summed = clock::op(Op::WeightGradient, || self.share.sum_nodes("gradients", &nodes, &mut grads));
        self.grads = grads;
        summed?;
        let rates = sums[2..2 + layers].iter().map(|rate| (rate / total) as f32).collect();
        Ok((loss / total, Forward { logits, spikes: Vec::new(), rates }))
    }

    /// Each slice of this rank on its own, from the running statistics that all of them begin with.
    fn slices(&mut self, share: &Share, input: &Input, labels: &[u32], blends: &[Blend], mode: Mode) -> Result<Slices> {
        let (classes, total, before) = (self.classes, share.total(labels.len()), self.running());
        let sample = input.data.len() / input.batch.max(1);
        let (mut gradients, mut sums, mut logits) = (Tree::default(), Vec::new(), Vec::with_capacity(labels.len() * classes));
        for (slice, samples) in share.slices(labels.len()) {
            let of = |range: &Range<usize>, values: usize| range.start * values..range.end * values;
            let part = Input { data: &input.data[of(&samples, sample)], batch: samples.len(), frames: input.frames };
            let blends = if blends.is_empty() { blends } else { &blends[samples.clone()] };
            self.share = share.slice(&samples);
            self.set_running(&before);
            let forward = self.forward(&part, mode, |_| false)?;
            let mut grad_logits = vec![0.0; forward.logits.len()];
            let phase = clock::span(Name::Phase(Phase::Loss));
            let targets = Targets { labels: &labels[samples.clone()], blends, smoothing: self.label_smoothing };
            let loss = clock::op(Op::CrossEntropy, || summed_cross_entropy(&forward.logits, &targets, classes, total, &mut grad_logits));
            clock::op(Op::ClearGradients, || self.grads.fill(0.0));
            drop(phase);
            self.backward(&part, &grad_logits, None)?;
            gradients.push_slice(slice, self.grads.clone());
            let rates = forward.rates.iter().map(|&rate| f64::from(rate) * samples.len() as f64);
            sums.push([loss, 1.0].into_iter().chain(rates).chain(self.running().into_iter().map(f64::from)).collect());
            logits.extend(forward.logits);
        }
        Ok(Slices { nodes: gradients.into_nodes(), sums, logits })
    }
}
