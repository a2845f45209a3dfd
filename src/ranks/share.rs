//! Which samples of a batch are whose, and sums over them that have the same bits for any number of ranks.

use std::ops::Range;

use rayon::prelude::*;

use super::tree::{Node, Tree, Value, View, bytes_of, push_nodes, total_of, views};
use super::{Cost, Ranks};
use crate::error::{Error, Result};

/// The part of each batch that this rank works on.
///
/// A batch has `slices` slices of `⌈batch / slices⌉` samples, by place in the batch; in one that is short, the last slices are shorter or
/// empty. A rank has neighbouring slices. Within a slice sums have the order that one process alone gives to a whole batch.
#[derive(Clone, Debug, Default)]
pub struct Share {
    ranks: Ranks,
    /// Slices of a batch; 0 is 1.
    slices: usize,
    /// Samples of a slice.
    slice: usize,
    /// Samples of the batch at work, on all ranks; unknown and not asked for where one process is alone.
    total: usize,
    /// Place in the batch of the first sample where one process is alone: 0, but for a slice on its own.
    offset: usize,
    /// Whether batch norm has the statistics of a slice, not of the batch.
    norms_by_slice: bool,
}

impl Share {
    /// This rank's share of batches of `batch` samples in so many slices.
    ///
    /// # Errors
    /// [`Error::Config`] if there are fewer slices than ranks.
    pub fn new(ranks: Ranks, batch: usize, slices: usize) -> Result<Self> {
        if ranks.size() > slices {
            let size = ranks.size();
            let problem = format!("{slices}: {size} processes need at least {size} slices; set --slices {size}, or start fewer");
            return Err(Error::config("slices", problem));
        }
        Ok(Share { ranks, slices, slice: batch.div_ceil(slices.max(1)), total: batch, offset: 0, norms_by_slice: false })
    }

    /// The same with batch norms that have the statistics of a slice, or not.
    pub fn with_norms_by_slice(self, norms_by_slice: bool) -> Self {
        Share { norms_by_slice, ..self }
    }

    /// Whether batch norm has the statistics of a slice where a batch has several.
    pub fn has_norms_by_slice(&self) -> bool {
        self.norms_by_slice && !self.is_whole()
    }

    /// A slice on its own, as a batch that no other process has a part of: `samples` in this rank's numbering.
    pub fn slice(&self, samples: &Range<usize>) -> Share {
        Share { slices: 1, slice: samples.len(), total: samples.len(), offset: self.first() + samples.start, ..Share::default() }
    }

    /// Those that share the batch.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// What the exchanges of this rank have cost so far.
    pub fn cost(&self) -> Cost {
        self.ranks.cost()
    }

    /// Whether a batch is one slice, and all of it this process's.
    pub fn is_whole(&self) -> bool {
        self.slices <= 1
    }

    /// Number of slices of a whole batch.
    pub fn count(&self) -> usize {
        self.slices.max(1)
    }

    /// Samples of a slice; of the last one there may be fewer.
    pub fn slice_len(&self) -> usize {
        self.slice
    }

    /// Places of a batch that are this rank's; a short batch has only some of them.
    pub fn places(&self) -> Range<usize> {
        let border = |rank: usize| rank * self.slices / self.ranks.size() * self.slice;
        if self.ranks.is_alone() { 0..usize::MAX } else { border(self.ranks.rank())..border(self.ranks.rank() + 1) }
    }

    /// Says how many samples the batch has that comes next, on all ranks.
    pub fn begin_batch(&mut self, total: usize) {
        self.total = total;
    }

    /// Samples of the batch on all ranks, of which this one has `own`.
    pub fn total(&self, own: usize) -> usize {
        if self.ranks.is_alone() { own } else { self.total }
    }

    /// Place in the batch of this rank's first sample.
    pub fn first(&self) -> usize {
        if self.ranks.is_alone() { self.offset } else { self.places().start.min(self.total) }
    }

    /// The slices of this rank's `own` samples: number in the batch, and samples in its own numbering. Empty slices are left out.
    pub fn slices(&self, own: usize) -> Vec<(usize, Range<usize>)> {
        if self.is_whole() {
            return vec![(0, 0..own)];
        }
        let first = self.first().div_ceil(self.slice); // a rank without samples may begin at the end of a short slice
        (0..own.div_ceil(self.slice)).map(|k| (first + k, k * self.slice..((k + 1) * self.slice).min(own))).collect()
    }

    /// Sums over all samples of the batch: `of` gives those over some of the `own` samples of this rank, value by value.
    ///
    /// # Errors
    /// As [`Ranks::exchange`].
    pub fn sum<T: Value>(&self, what: impl Fn() -> String, own: usize, mut of: impl FnMut(Range<usize>) -> Vec<T>) -> Result<Vec<T>> {
        if self.is_whole() {
            return Ok(of(0..own));
        }
        let mut tree = Tree::default();
        self.slices(own).into_iter().for_each(|(slice, samples)| tree.push_slice(slice, of(samples)));
        if self.ranks.is_alone() {
            return Ok(tree.total());
        }
        let nodes = tree.into_nodes();
        let mut bytes = self.ranks.buffer(bytes_of::<T>(nodes.len(), nodes.first().map_or(0, |node| node.sum.len())));
        push_nodes(&mut bytes, &nodes, 0..nodes.first().map_or(0, |node| node.sum.len()));
        let parts = self.ranks.gather(&what(), bytes)?;
        let mut all = Vec::new();
        for part in &parts {
            all.extend(views::<T>(part)?);
        }
        let len = all.first().map_or(0, |node| node.values.len());
        same_lengths(&what, &all, len)?;
        let mut sums = vec![T::zeroed(); len / size_of::<T>()];
        total_of(&all, &mut sums, |into, sums| into.copy_from_slice(sums));
        Ok(sums)
    }

    /// The nodes that this rank's slices make, without values.
    pub fn nodes(&self, own: usize) -> Vec<Node<f32>> {
        let mut tree = Tree::default();
        self.slices(own).into_iter().for_each(|(slice, _)| tree.push_slice(slice, Vec::new()));
        tree.into_nodes()
    }

    /// Adds the sum of all slices to `into`, from the nodes of each rank with as many values: every rank adds up its share of the values,
    /// then all get all. That sends the bytes of a ring, where ranks have one node each.
    ///
    /// # Errors
    /// As [`Ranks::exchange`].
    pub fn sum_nodes(&self, what: &str, nodes: &[Node<f32>], into: &mut [f32]) -> Result<()> {
        let (own, size, len) = (self.ranks.rank(), self.ranks.size(), into.len());
        let share = |rank: usize| rank * len / size..(rank + 1) * len / size;
        let mut own_nodes = Vec::new();
        for Node { first, level, sum } in nodes {
            own_nodes.push(View { first: *first, level: *level, values: bytemuck::cast_slice(&sum[share(own)]) });
        }
        let add = |into: &mut [f32], sums: &[f32]| into.iter_mut().zip(sums).for_each(|(into, v)| *into += v);
        if self.ranks.is_alone() {
            total_of(&own_nodes, into, add);
            return Ok(());
        }
        let part = |rank: usize| {
            let mut bytes = self.ranks.buffer(if rank == own { 0 } else { bytes_of::<f32>(nodes.len(), share(rank).len()) });
            if rank != own {
                push_nodes(&mut bytes, nodes, share(rank));
            }
            bytes
        };
        let parts = self.ranks.exchange(&format!("{what}: parts"), (0..size).map(part).collect())?;
        let mut all = Vec::new();
        for (rank, part) in parts.iter().enumerate() {
            all.extend(if rank == own { own_nodes.clone() } else { views::<f32>(part)? });
        }
        same_lengths(|| what.to_string(), &all, 4 * share(own).len())?;
        let mut sums = self.ranks.buffer(4 * share(own).len());
        sums.resize(4 * share(own).len(), 0);
        let write = |into: &mut [[u8; 4]], sums: &[f32]| into.iter_mut().zip(sums).for_each(|(into, v)| *into = v.to_ne_bytes());
        total_of(&all, sums.as_chunks_mut().0, write);
        parts.into_iter().for_each(|part| self.ranks.recycle(part));
        let parts = self.ranks.gather(&format!("{what}: sums"), sums)?;
        for (rank, part) in parts.into_iter().enumerate() {
            let into = &mut into[share(rank)];
            if part.len() != 4 * into.len() {
                return Err(Error::shape(what, 4 * into.len(), part.len()));
            }
            add_bytes(into, &part);
            self.ranks.recycle(part);
        }
        Ok(())
    }

    /// Adds integers over all ranks.
    ///
    /// # Errors
    /// As [`Ranks::add`].
    pub fn add(&self, what: impl Fn() -> String, values: &mut [i128]) -> Result<()> {
        if self.ranks.is_alone() { Ok(()) } else { self.ranks.add(&what(), values) }
    }
}

/// Refuses nodes of which one has another number of bytes than the rest.
fn same_lengths(what: impl Fn() -> String, nodes: &[View], len: usize) -> Result<()> {
    let other = nodes.iter().find(|node| node.values.len() != len);
    other.map_or(Ok(()), |node| Err(Error::shape(what(), len, node.values.len())))
}

/// Adds values that another rank has written.
fn add_bytes(into: &mut [f32], bytes: &[u8]) {
    into.par_iter_mut().zip(bytes.as_chunks::<4>().0).with_min_len(1 << 14).for_each(|(into, v)| *into += f32::from_ne_bytes(*v));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ranks::Threads;

    fn on_ranks<T: Send>(size: usize, of: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
        let of = &of;
        std::thread::scope(|scope| {
            let ranks = Threads::group(size, Duration::from_secs(20));
            let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || of(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_sample_has_one_owner_and_sums_have_one_order() {
        for (batch, slices) in [(8, 8), (10, 4), (9, 6), (7, 3), (64, 8), (5, 5)] {
            for total in 1..=batch {
                let value = |sample: usize| ((sample * 7919) % 1000) as f64 * 1.000_1e-3 - 0.4;
                let of = move |ranks: Ranks| {
                    let mut share = Share::new(ranks, batch, slices).unwrap();
                    share.begin_batch(total);
                    let (first, end) = (share.first(), share.places().end.min(total));
                    let own = end - first;
                    let sums = share.sum(|| "sums".into(), own, |samples| vec![samples.map(|at| value(first + at)).sum::<f64>(); 3]);
                    let mut nodes = share.nodes(own);
                    for node in &mut nodes {
                        let samples = node.first * share.slice..((node.first + (1 << node.level)) * share.slice).min(total);
                        node.sum = vec![samples.len() as f32; 5];
                    }
                    let mut found = [1.0; 5];
                    share.sum_nodes("nodes", &nodes, &mut found).unwrap();
                    assert_eq!(found, [total as f32 + 1.0; 5]);
                    (first, own, sums.unwrap())
                };
                let alone = of(Ranks::Alone).2;
                for size in 1..=slices {
                    let found = on_ranks(size, of);
                    assert!(found.iter().all(|(.., sums)| *sums == alone), "{batch} {slices} {total} on {size}");
                    let ends = found.iter().map(|&(first, own, _)| first + own);
                    assert_eq!(found.iter().map(|&(_, own, _)| own).sum::<usize>(), total);
                    assert!(ends.zip(&found[1..]).all(|(end, next)| end == next.0));
                }
            }
        }
    }

    #[test]
    fn fewer_slices_than_ranks_are_refused() {
        let ranks = Threads::group(3, Duration::ZERO).remove(1);
        let text = Share::new(ranks, 12, 2).unwrap_err().to_string();
        assert_eq!(text, "slices: 2: 3 processes need at least 3 slices; set --slices 3, or start fewer");
    }

    #[test]
    fn a_rank_out_of_step_or_missing_is_named() {
        let found = on_ranks(2, |ranks| ranks.meet(if ranks.rank() == 0 { "sums of layer 3" } else { "loss" }).unwrap_err().to_string());
        assert_eq!(
            found[0],
            "rank 0: out of step: rank 0 is at 'sums of layer 3' (call 1), rank 1 at 'loss' (call 1); is it the same program?"
        );
        let mut ranks = Threads::group(2, Duration::from_millis(10));
        let _stands_still = ranks.pop();
        let text = ranks[0].meet("loss").unwrap_err().to_string();
        assert!(
            text.starts_with("rank 0: rank 1 has not answered for 0.01 s (--rank-timeout); this rank waits in 'loss' (call 1)"),
            "{text}"
        );
        assert!(text.contains("the last that came from rank 1 was nothing yet"), "{text}");
    }
}
