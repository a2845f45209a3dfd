//! Sums over slices in the order of one binary tree over their numbers, whoever adds which part of it.

use std::ops::AddAssign;

use bytemuck::{AnyBitPattern, NoUninit};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// What is summed: f32 (weight gradients) or f64 (everything else).
pub trait Value: AnyBitPattern + NoUninit + AddAssign + Send + Sync {}
impl Value for f32 {}
impl Value for f64 {}

/// A sum over neighbouring slices that is a node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<T> {
    /// First slice, a multiple of `1 << level`.
    pub first: usize,
    /// The node sums `1 << level` slices.
    pub level: u32,
    /// The sums, value by value.
    pub sum: Vec<T>,
}

/// Nodes of neighbouring slices, as few as there can be. Slices 2k and 2k + 1 are added first, then pairs of pairs, and so on.
#[derive(Clone, Debug)]
pub struct Tree<T> {
    nodes: Vec<Node<T>>,
}

/// Values of a block of [`total_of`]: those of some nodes stay in a near cache.
const BLOCK: usize = 1 << 12;
/// Values from which on adding is worth several threads.
const PART: usize = 1 << 16;

/// Without a node.
impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree { nodes: Vec::new() }
    }
}

impl<T: Value> Tree<T> {
    /// The sum of one slice, behind all nodes that are there.
    pub fn push_slice(&mut self, slice: usize, sum: Vec<T>) {
        self.push(Node { first: slice, level: 0, sum });
    }

    /// A node behind all that are there. Two halves of a larger node become that node.
    pub fn push(&mut self, mut node: Node<T>) {
        while let Some(mut left) = self.nodes.pop() {
            let is_half =
                left.level == node.level && left.first.is_multiple_of(2 << left.level) && left.first + (1 << left.level) == node.first;
            if !is_half {
                self.nodes.push(left);
                break;
            }
            add(&mut left.sum, &node.sum);
            node = Node { level: left.level + 1, ..left };
        }
        self.nodes.push(node);
    }

    /// What there is, in the order of slices.
    pub fn into_nodes(self) -> Vec<Node<T>> {
        self.nodes
    }

    /// The sum of all slices from 0 on. Where the last nodes have no right neighbour, the smallest are added first; so it depends on the
    /// slices that there are, and on nothing else. Empty without a node.
    pub fn total(self) -> Vec<T> {
        let mut nodes = self.nodes;
        let Some(Node { sum: mut total, .. }) = nodes.pop() else { return Vec::new() };
        while let Some(Node { sum: mut left, .. }) = nodes.pop() {
            add(&mut left, &total);
            total = left;
        }
        total
    }
}

fn add<T: Value>(into: &mut [T], from: &[T]) {
    into.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(into, from)| {
        into.iter_mut().zip(from).for_each(|(into, &from)| *into += from);
    });
}

/// A node whose values lie elsewhere, as bytes in the machine's order, at any address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View<'a> {
    pub first: usize,
    pub level: u32,
    pub values: &'a [u8],
}

/// Gives the sum of nodes, which is that of [`Tree::total`], to `of`, some values at a time, with the part of `into` that is theirs. No
/// copy of a whole node is made.
pub fn total_of<T: Value, O: Send>(nodes: &[View], into: &mut [O], of: impl Fn(&mut [O], &[T]) + Sync) {
    let size = size_of::<T>();
    into.par_chunks_mut(BLOCK).enumerate().for_each(|(block, into)| {
        let mut tree = Tree::default();
        for node in nodes {
            let values = &node.values[block * BLOCK * size..][..into.len() * size];
            tree.push(Node { first: node.first, level: node.level, sum: bytemuck::allocation::pod_collect_to_vec::<u8, T>(values) });
        }
        of(into, &tree.total());
    });
}

/// Appends a part of each node as bytes: first slice, level and number of values, a u64 each, then the values; in the machine's order.
pub fn push_nodes<T: Value>(bytes: &mut Vec<u8>, nodes: &[Node<T>], part: std::ops::Range<usize>) {
    bytes.reserve(bytes_of::<T>(nodes.len(), part.len()));
    for node in nodes {
        let sum = &node.sum[part.clone()];
        [node.first as u64, u64::from(node.level), sum.len() as u64].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend_from_slice(bytemuck::cast_slice(sum));
    }
}

/// Bytes of so many nodes of `len` values each.
pub fn bytes_of<T: Value>(nodes: usize, len: usize) -> usize {
    nodes * (24 + len * size_of::<T>())
}

/// The nodes that [`push_nodes`] has written.
///
/// # Errors
/// [`Error::ShapeMismatch`] if the bytes end within a node.
pub fn views<T: Value>(mut bytes: &[u8]) -> Result<Vec<View<'_>>> {
    let cut_off = |len: usize| Error::shape("nodes of another rank", "whole nodes", len);
    let mut nodes = Vec::new();
    while !bytes.is_empty() {
        let (words, rest) = bytes.split_at_checked(24).ok_or_else(|| cut_off(bytes.len()))?;
        let [first, level, len] = [0, 8, 16].map(|at| bytemuck::pod_read_unaligned::<u64>(&words[at..at + 8]));
        let size = (len as usize).saturating_mul(size_of::<T>());
        let (values, rest) = rest.split_at_checked(size).ok_or_else(|| cut_off(rest.len()))?;
        nodes.push(View { first: first as usize, level: level as u32, values });
        bytes = rest;
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values whose sums round, so that another order shows.
    fn leaf<T: Value>(slice: usize, of: impl Fn(f64) -> T) -> Vec<T> {
        (0..5).map(|i| of(((slice * 7919 + i * 104_729) % 1000) as f64 * 1.000_1e-3 - 0.4)).collect()
    }

    fn any_cut<T: Value + PartialEq + std::fmt::Debug>(of: impl Fn(f64) -> T + Copy) {
        for slices in 1..=17usize {
            let mut whole = Tree::default();
            (0..slices).for_each(|slice| whole.push_slice(slice, leaf(slice, of)));
            let expected = whole.total();
            // Every set of borders between slices is one way to deal them out.
            for borders in 0..1u32 << (slices - 1).min(10) {
                let mut all = Vec::new();
                let mut own = Tree::default();
                for slice in 0..slices {
                    own.push_slice(slice, leaf(slice, of));
                    if slice + 1 == slices || borders >> slice & 1 == 1 {
                        push_nodes(&mut all, &std::mem::take(&mut own).into_nodes(), 0..5);
                    }
                }
                let mut found = leaf(0, |_| of(0.0));
                total_of(&views::<T>(&all).unwrap(), &mut found, |into, sums| into.copy_from_slice(sums));
                assert_eq!(found, expected, "{slices} slices, borders {borders:b}");
            }
        }
    }

    #[test]
    fn any_cut_of_the_slices_gives_the_same_bits() {
        any_cut(|value| value as f32);
        any_cut(|value| value);
    }

    #[test]
    fn pairs_are_added_before_pairs_of_pairs() {
        let mut tree = Tree::default();
        // In the order of slices, 1e8 would swallow the ones.
        [1e8f32, -1e8, 1.0, 1.0, 3.0].iter().enumerate().for_each(|(slice, &value)| tree.push_slice(slice, vec![value]));
        assert_eq!(tree.total(), [5.0]);
        let mut tree = Tree::default();
        [1.0f32, 1e8, -1e8, 1.0].iter().enumerate().for_each(|(slice, &value)| tree.push_slice(slice, vec![value]));
        assert_eq!(tree.total(), [0.0]);
        assert!(Tree::<f32>::default().total().is_empty());
    }

    #[test]
    fn bytes_that_end_within_a_node_are_refused() {
        let nodes = [Node { first: 2, level: 1, sum: vec![1.5f32, -2.5] }];
        let mut bytes = Vec::new();
        push_nodes(&mut bytes, &nodes, 0..2);
        let [view] = views::<f32>(&bytes).unwrap()[..] else { panic!("one node") };
        assert_eq!(view, View { first: 2, level: 1, values: bytemuck::cast_slice(&nodes[0].sum) });
        for len in 1..bytes.len() {
            assert!(views::<f32>(&bytes[..len]).is_err(), "{len}");
        }
    }

    /// More values than a block has, and blocks that are not whole.
    #[test]
    fn blocks_are_added_as_whole_nodes_are() {
        for len in [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            let leaf = |slice: usize| (0..len).map(|i| ((slice * 7919 + i * 104_729) % 1000) as f32 * 1.1e-3 - 0.4).collect::<Vec<f32>>();
            let (mut whole, mut bytes) = (Tree::default(), Vec::new());
            for slice in 0..5 {
                whole.push_slice(slice, leaf(slice));
                push_nodes(&mut bytes, &[Node { first: slice, level: 0, sum: leaf(slice) }], 0..len);
            }
            let mut found = vec![0.0; len];
            total_of(&views::<f32>(&bytes).unwrap(), &mut found, |into, sums| into.copy_from_slice(sums));
            assert_eq!(found, whole.total(), "{len}");
        }
    }
}
