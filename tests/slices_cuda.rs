//! Sums over slices on the device: the bits of the same additions on the host.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::device::Slice;
use dsr::ops::slices::cuda::{add_f32, add_f64, sample_sums, slice_sums};
use dsr::ops::slices::{Added, Slices, add_slices};
use output::Output;

fn wide(seed: u64, len: usize) -> Vec<f64> {
    seeded::values(seed, len, -1.0..1.0).into_iter().map(|v| f64::from(v) * 1.000_000_01).collect()
}

/// Every batch of up to nine slices on every number of ranks; values around a block.
#[test]
fn trees_have_the_bits_of_the_host() {
    let gpu = device::gpu();
    for all in [1, 2, 3, 5, 8, 9] {
        for present in 1..=all {
            for ranks in 1..=all {
                let slices = Slices { all, present, ranks };
                let len = [1, 255, 256, 300][(all + present + ranks) % 4];
                let what = format!("{slices:?}, {len} values");
                let every: Vec<Added> = (0..ranks).map(Added::Own).chain([Added::Across]).collect();
                let (mut f32s, mut f64s) = (seeded::values(1, all * len, -1.0..1.0), wide(2, all * len));
                let (narrow, wide) = (Output::of(&gpu, &f32s), Output::of(&gpu, &f64s));
                let into = Output::of(&gpu, &vec![0.5f32; len]);
                for added in every {
                    add_slices(&mut f32s, len, &slices, added, 0);
                    add_slices(&mut f64s, len, &slices, added, 0);
                    let goes_on = added != Added::Across;
                    add_f32(&gpu, narrow.slice(), if goes_on { Slice::NONE } else { into.slice() }, len, &slices, added, 0).unwrap();
                    add_f64(&gpu, wide.slice(), Slice::NONE, len, &slices, added, 0).unwrap();
                }
                assert_eq!(narrow.values(), f32s, "{what}");
                assert_eq!(wide.values(), f64s, "{what}");
                assert_eq!(into.values(), f32s[..len].iter().map(|v| 0.5 + v).collect::<Vec<_>>(), "{what}");
            }
        }
    }
}

/// The slices of a rank in a buffer of their own.
#[test]
fn a_rank_adds_from_its_first_slice_on() {
    let gpu = device::gpu();
    let (slices, len) = (Slices { all: 8, present: 7, ranks: 3 }, 33);
    for rank in 0..3 {
        let own = slices.of(rank);
        let mut values = seeded::values(rank as u64, own.len() * len, -1.0..1.0);
        let on_device = Output::of(&gpu, &values);
        add_slices(&mut values, len, &slices, Added::Own(rank), own.start);
        add_f32(&gpu, on_device.slice(), Slice::NONE, len, &slices, Added::Own(rank), own.start).unwrap();
        assert_eq!(on_device.values(), values, "rank {rank}");
    }
}

#[test]
fn samples_are_added_in_their_order() {
    let gpu = device::gpu();
    for (batch, slice, len) in [(1, 1, 1), (7, 3, 257), (8, 2, 20), (5, 8, 256), (0, 4, 3)] {
        let samples = wide(3, batch * len);
        let slices = batch.div_ceil(slice);
        let (values, sums) = (Output::of(&gpu, &samples), Output::of(&gpu, &vec![f64::NAN; slices * len]));
        sample_sums(&gpu, sums.slice(), values.slice(), [batch, slice, len]).unwrap();
        let of = |k: usize, i: usize| (k * slice..((k + 1) * slice).min(batch)).fold(0.0, |sum, b| sum + samples[b * len + i]);
        let expected: Vec<f64> = (0..slices).flat_map(|k| (0..len).map(move |i| (k, i))).map(|(k, i)| of(k, i)).collect();
        assert_eq!(sums.values(), expected, "{batch} samples in slices of {slice}, {len} values");
        if batch > 0 {
            assert!(sample_sums(&gpu, sums.slice(), values.slice(), [batch + slice, slice, len]).is_err());
        }
    }
}

/// Eight runs of blocks, each in order, then the runs in order.
#[test]
fn parts_are_added_in_the_order_of_every_reduction() {
    let gpu = device::gpu();
    for (quantities, blocks, channels) in [(1, 1, 1), (3, 7, 33), (2, 9, 32), (3, 0, 4)] {
        let parts = wide(4, quantities * blocks * channels);
        let (values, sums) = (Output::of(&gpu, &parts), Output::of(&gpu, &vec![f64::NAN; quantities * channels]));
        slice_sums(&gpu, sums.slice(), values.slice(), [quantities, blocks, channels]).unwrap();
        let of = |q: usize, c: usize| {
            let run = |run: usize| {
                let part = |block: usize| parts[(q * blocks + block) * channels + c];
                (blocks * run / 8..blocks * (run + 1) / 8).fold(0.0, |sum, block| sum + part(block))
            };
            (1..8).fold(run(0), |sum, other| sum + run(other))
        };
        let expected: Vec<f64> = (0..quantities).flat_map(|q| (0..channels).map(move |c| (q, c))).map(|(q, c)| of(q, c)).collect();
        assert_eq!(sums.values(), expected, "{quantities} x {blocks} x {channels}");
    }
}
