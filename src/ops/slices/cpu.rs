//! The tree over slices as `kernels/slices.cu` goes through it.

use std::ops::AddAssign;

use super::{Added, Slices};

/// Adds up `values`, `[slices][len]` from slice `base` on, in place: the sum of a node stands where its first slice stood.
pub fn add_slices<T: Copy + AddAssign>(values: &mut [T], len: usize, slices: &Slices, added: Added, base: usize) {
    let mut half = 1;
    while half < slices.present {
        for node in (0..slices.present - half).step_by(2 * half) {
            let owner = slices.owner(node);
            let is_own = slices.has_all(owner, node, 2 * half);
            let is_wanted = match added {
                Added::Own(rank) => is_own && owner == rank,
                Added::Across => !is_own,
            };
            if is_wanted {
                let (left, right) = values.split_at_mut((node + half - base) * len);
                left[(node - base) * len..][..len].iter_mut().zip(&right[..len]).for_each(|(sum, value)| *sum += *value);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::Tree;

    /// Values whose sums round, so that another order shows.
    fn value(slice: usize, i: usize) -> f32 {
        ((slice * 7919 + i * 104_729) % 1000) as f32 * 1.000_1e-3 - 0.4
    }

    #[test]
    fn any_number_of_ranks_adds_as_the_tree_does() {
        const LEN: usize = 3;
        for all in 1..=17 {
            for present in 1..=all {
                let mut tree = Tree::default();
                (0..present).for_each(|slice| tree.push_slice(slice, (0..LEN).map(|i| value(slice, i)).collect()));
                let expected = tree.total();
                for ranks in 1..=all {
                    let slices = Slices { all, present, ranks };
                    // What has not come to the first ranks is no number.
                    let mut gathered = vec![f32::NAN; all * LEN];
                    for rank in 0..ranks {
                        let own = slices.of(rank);
                        let mut values: Vec<f32> = own.clone().flat_map(|slice| (0..LEN).map(move |i| value(slice, i))).collect();
                        add_slices(&mut values, LEN, &slices, Added::Own(rank), own.start);
                        for node in slices.nodes(rank) {
                            gathered[node * LEN..][..LEN].copy_from_slice(&values[(node - own.start) * LEN..][..LEN]);
                        }
                    }
                    add_slices(&mut gathered, LEN, &slices, Added::Across, 0);
                    assert_eq!(gathered[..LEN], expected, "{present} of {all} slices on {ranks} ranks");
                }
            }
        }
    }

    #[test]
    fn a_rank_has_few_nodes() {
        let nodes = |all, present, ranks| (0..ranks).map(|rank| Slices { all, present, ranks }.nodes(rank)).collect::<Vec<_>>();
        assert_eq!(nodes(8, 8, 1), [[0]]);
        assert_eq!(nodes(8, 8, 4), [[0], [2], [4], [6]]);
        assert_eq!(nodes(8, 8, 3), [vec![0], vec![2, 4], vec![5, 6]]);
        assert_eq!(nodes(8, 5, 2), [[0], [4]]);
        assert_eq!(nodes(8, 3, 4), [vec![0], vec![2], vec![], vec![]]);
    }
}
