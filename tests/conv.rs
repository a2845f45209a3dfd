//! Real-valued convolution: its forward bit for bit against a plain loop, its gradients against sums in f64.

#[path = "support/seeded.rs"]
mod seeded;

use approx::assert_relative_eq;
use dsr::device::Isa;
use dsr::ops::conv::{conv_at, data_gradient, pool_rates, unpool_add, weight_gradient};
use dsr::ops::spike_conv::Geometry;
use rand::Rng;

const NO_POOL: [usize; 3] = [1, 1, 0];

/// Shapes around the sizes of the gradients' tasks (256 and 1,024 positions), with the batch.
fn cases() -> Vec<(Geometry, usize)> {
    let geometry = |cin, cout, source: [usize; 2], kernel: usize, stride, pad| Geometry {
        cin,
        cout,
        source,
        pool: NO_POOL,
        kernel: [kernel; 2],
        stride,
        pad,
    };
    vec![
        (geometry(1, 1, [1, 1], 1, 1, 0), 1),
        (geometry(3, 33, [7, 5], 3, 1, 1), 2),
        (geometry(3, 10, [9, 11], 7, 2, 3), 3),
        (geometry(10, 3, [6, 6], 1, 2, 0), 5),
        (geometry(4, 5, [16, 17], 3, 1, 1), 9),
        (geometry(2, 3, [33, 32], 3, 1, 1), 3),
        (Geometry { kernel: [4, 3], ..geometry(5, 7, [4, 3], 1, 1, 0) }, 300),
    ]
}

/// Source position that a tap reads: (input, output, weight row) of every product, channel 0.
fn products(geometry: &Geometry) -> Vec<[usize; 3]> {
    let [height, width] = geometry.source.map(|n| n as isize);
    let [out_height, out_width] = geometry.out();
    let mut found = Vec::new();
    for (y, x) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
        for (ky, kx) in (0..geometry.kernel[0]).flat_map(|ky| (0..geometry.kernel[1]).map(move |kx| (ky, kx))) {
            let iy = (y * geometry.stride + ky) as isize - geometry.pad as isize;
            let ix = (x * geometry.stride + kx) as isize - geometry.pad as isize;
            if (0..height).contains(&iy) && (0..width).contains(&ix) {
                found.push([(iy * width + ix) as usize, y * out_width + x, ky * geometry.kernel[1] + kx]);
            }
        }
    }
    found
}

/// Products are added tap by tap, channel by channel, one `mul_add` each.
#[test]
fn forward_has_the_bits_of_a_plain_loop() {
    for (geometry, _) in cases() {
        let Geometry { cin, cout, source, .. } = geometry;
        let input = seeded::values(1, source[0] * source[1] * cin, -2.0..2.0);
        let weights = seeded::values(2, geometry.taps() * cin * cout, -1.0..1.0);
        let mut expected = vec![0.0f32; geometry.positions() * cout];
        for [from, to, tap] in products(&geometry) {
            for (c, o) in (0..cin).flat_map(|c| (0..cout).map(move |o| (c, o))) {
                let out = &mut expected[to * cout + o];
                *out = input[from * cin + c].mul_add(weights[(tap * cin + c) * cout + o], *out);
            }
        }
        for isa in Isa::available() {
            let mut got = vec![f32::NAN; expected.len()];
            for (at, out) in got.chunks_exact_mut(cout).enumerate() {
                let width = geometry.out()[1];
                conv_at(isa, &input, &weights, &geometry, [at / width, at % width], out);
            }
            assert_eq!(got, expected, "{isa:?}: {geometry:?}");
        }
    }
}

#[test]
fn gradients_match_f64_and_add_to_what_is_there() {
    for (geometry, batch) in cases() {
        let Geometry { cin, cout, source, .. } = geometry;
        let (inputs, outputs) = (source[0] * source[1] * cin, geometry.positions() * cout);
        let input = seeded::values(1, batch * inputs, -1.0..1.0);
        let weights = seeded::values(2, geometry.taps() * cin * cout, -1.0..1.0);
        let grad = seeded::values(3, batch * outputs, -1.0..1.0);
        let (mut expected_data, mut expected_weight) = (vec![1.0f64; input.len()], vec![-1.0f64; weights.len()]);
        for (b, [from, to, tap]) in (0..batch).flat_map(|b| products(&geometry).into_iter().map(move |p| (b, p))) {
            for (c, o) in (0..cin).flat_map(|c| (0..cout).map(move |o| (c, o))) {
                let (i, w) = (b * inputs + from * cin + c, (tap * cin + c) * cout + o);
                let g = f64::from(grad[b * outputs + to * cout + o]);
                expected_data[i] += g * f64::from(weights[w]);
                expected_weight[w] += g * f64::from(input[i]);
            }
        }
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (mut data, mut weight) = (vec![1.0f32; input.len()], vec![-1.0f32; weights.len()]);
            pool.install(|| {
                data_gradient(&grad, &weights, &geometry, &mut data);
                weight_gradient(&input, &grad, &geometry, &mut weight);
            });
            (data, weight)
        };
        let (data, weight) = run(1);
        for (name, got, expected) in [("data", &data, &expected_data), ("weight", &weight, &expected_weight)] {
            let terms = if name == "data" { geometry.taps() * cout } else { batch * geometry.positions() };
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                let off = (f64::from(*got) - expected).abs();
                // A sum of random terms grows like their square root; f32 keeps 1e-7 of it, blocked sums a little less.
                let allowed = 1e-6 * (terms as f64).sqrt().max(1.0);
                assert!(off <= allowed, "{name} gradient {i}: {got}, expected {expected}: {geometry:?}");
            }
        }
        assert_eq!(run(2), (data, weight), "threads: {geometry:?}");
    }
}

/// Padding counts as part of the window; `unpool_add` is the transpose of `pool_rates`.
#[test]
fn pools_average_over_the_whole_window() {
    for (pool, source) in [(NO_POOL, [5, 3]), ([2, 2, 0], [5, 4]), ([3, 2, 1], [5, 6]), ([4, 4, 0], [4, 4])] {
        let channels = 3;
        let geometry = Geometry { cin: channels, cout: channels, source, pool, kernel: [1, 1], stride: 1, pad: 0 };
        let mut rng = seeded::rng(4);
        let counts: Vec<u8> = (0..source[0] * source[1] * channels).map(|_| rng.random_range(0..=255)).collect();
        let pooled: usize = geometry.pooled().iter().product();
        let [window, stride, pad] = pool.map(|n| n as isize);
        let mut expected = vec![0.0f64; pooled * channels];
        for (at, c) in (0..pooled).flat_map(|at| (0..channels).map(move |c| (at, c))) {
            let width = geometry.pooled()[1] as isize;
            let [y, x] = [at as isize / width * stride - pad, at as isize % width * stride - pad];
            for (iy, ix) in (y..y + window).flat_map(|iy| (x..x + window).map(move |ix| (iy, ix))) {
                if (0..source[0] as isize).contains(&iy) && (0..source[1] as isize).contains(&ix) {
                    let count = counts[(iy as usize * source[1] + ix as usize) * channels + c];
                    expected[at * channels + c] += 0.5 * f64::from(count) / (window * window) as f64;
                }
            }
        }
        let mut rates = vec![f32::NAN; expected.len()];
        pool_rates(&counts, 0.5, &geometry, &mut rates);
        for (got, expected) in rates.iter().zip(&expected) {
            assert_relative_eq!(f64::from(*got), expected, max_relative = 1e-6);
        }
        // <pool(counts), g> = <counts, unpool(g)>
        let grad = seeded::values(5, rates.len(), -1.0..1.0);
        let mut unpooled = vec![0.0; counts.len()];
        unpool_add(&grad, &geometry, &mut unpooled);
        let of_pooled: f64 = rates.iter().zip(&grad).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let of_source: f64 = counts.iter().zip(&unpooled).map(|(a, b)| 0.5 * f64::from(*a) * f64::from(*b)).sum();
        assert_relative_eq!(of_pooled, of_source, max_relative = 1e-5);
        let once = unpooled.clone();
        unpool_add(&grad, &geometry, &mut unpooled); // adds to what is there
        for (twice, once) in unpooled.iter().zip(&once) {
            assert_relative_eq!(*twice, 2.0 * once, epsilon = 1e-6);
        }
    }
}
