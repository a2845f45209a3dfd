//! Dropout masks on the device: the bits of the CPU.

#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;

use dsr::ops::dropout::{draw, draw_dropped};
use dsr::ops::optimizer::cuda::StepParameters;
use output::Output;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Channels around words of 32 and around the 16 words of a block of random numbers.
#[test]
fn masks_have_the_bits_of_the_cpu() {
    let gpu = device::gpu();
    let mut expected = Vec::new();
    for (case, (channels, positions)) in
        [(1, 1), (1, 40), (16, 3), (31, 7), (32, 1), (33, 5), (64, 9), (130, 2), (4096, 1)].into_iter().enumerate()
    {
        for (batch, index, share) in [(1, 0, 0.5f32), (3, 7, 0.1), (2, 70_000, 0.999)] {
            let (seed, shape) = (case as u64 * 0x1234_5678_9abc_def1, [batch, positions, channels]);
            let first = case * 3; // of the batch of all ranks
            draw_dropped(&mut expected, seed, index, first, shape, share);
            let parameters = gpu.memory_of(&[StepParameters::new(None, 0.0, seed)]).unwrap();
            let dropped = Output::of(&gpu, &vec![u32::MAX; expected.len()]);
            draw(&gpu, dropped.slice(), parameters.slice(), index, first, shape, share).unwrap();
            assert_eq!(dropped.values(), expected, "{shape:?}, layer {index}, share {share}");
        }
    }
}

/// A number that is exactly the share is not dropped.
#[test]
fn a_draw_at_the_share_is_kept() {
    let gpu = device::gpu();
    for seed in 0..4 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(3 << 32);
        let share = rng.random::<f32>();
        let (mut expected, shape) = (Vec::new(), [1, 1, 33]);
        draw_dropped(&mut expected, seed, 3, 0, shape, share);
        assert_eq!(expected[0] & 1, 0);
        let parameters = gpu.memory_of(&[StepParameters::new(None, 0.0, seed)]).unwrap();
        let dropped = Output::of(&gpu, &vec![u32::MAX; expected.len()]);
        draw(&gpu, dropped.slice(), parameters.slice(), 3, 0, shape, share).unwrap();
        assert_eq!(dropped.values(), expected, "seed {seed}, share {share}");
    }
}
