//! Sums over the slices of a batch: within a slice in the order of its samples, then over slices in one binary tree, the same for any
//! number of ranks ([`crate::ranks`] says which rank has which slices).

mod cpu;
pub mod cuda;

pub use cpu::add_slices;

/// Which slices there are, and who has them. Rank r of n has the slices from `r · slices / n` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// Of a whole batch.
    pub all: usize,
    /// Of the batch at work.
    pub present: usize,
    pub ranks: usize,
}

impl Slices {
    /// First slice of a rank.
    pub fn border(&self, rank: usize) -> usize {
        rank * self.all / self.ranks
    }

    /// Slices of a rank that the batch at work has.
    pub fn of(&self, rank: usize) -> std::ops::Range<usize> {
        self.border(rank).min(self.present)..self.border(rank + 1).min(self.present)
    }

    /// Nodes of the tree that a rank has when its own slices are added up, as few as there can be: the first slice of each.
    pub fn nodes(&self, rank: usize) -> Vec<usize> {
        let std::ops::Range { start: mut node, end } = self.of(rank);
        let mut nodes = Vec::new();
        while node < end {
            nodes.push(node);
            let mut width = 1;
            while node + width < self.present && node.is_multiple_of(2 * width) && self.has_all(rank, node, 2 * width) {
                width *= 2;
            }
            node += width;
        }
        nodes
    }

    /// The rank that has a slice.
    fn owner(&self, slice: usize) -> usize {
        ((slice + 1) * self.ranks - 1) / self.all
    }

    /// Whether a rank has all slices below a node of `width` slices.
    fn has_all(&self, rank: usize, node: usize, width: usize) -> bool {
        node >= self.border(rank) && (node + width).min(self.present) <= self.border(rank + 1)
    }
}

/// Which additions of the tree are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Those among the slices of this rank.
    Own(usize),
    /// Those of nodes that lie with several ranks.
    Across,
}
