//! Data gradients of convolutions on the device: with bf16 operands as near to f64 as a plain loop over such operands, and exact where
//! all sums are.

#[path = "support/convolutions.rs"]
mod convolutions;
#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/products.rs"]
mod products;
#[path = "support/seeded.rs"]
mod seeded;

use convolutions::{bits, geometry, upload};
use dsr::device::Layout;
use dsr::ops::conv::cuda::{data_gradient, data_gradient_in_tiles};
use dsr::ops::spike_conv::{Geometry, PackedWeights, WeightSource, WeightTable, transpose_weights};
use output::Output;
use products::{assert_as_near, gradient_cases, products, rounded, to_bf16};

#[test]
fn data_gradients_are_as_near_as_bf16_operands_allow() {
    let gpu = device::gpu();
    for (case, (geometry, batch, replicate)) in gradient_cases().into_iter().enumerate() {
        let Geometry { cin, cout, .. } = geometry;
        let (inputs, outputs) = (geometry.pooled().iter().product::<usize>() * cin, geometry.positions() * cout);
        let len = geometry.taps() * cin * cout;
        // Values of a few bits have exact sums; their gradient has one right answer.
        for is_exact in [true, false] {
            let draw = |seed, len| {
                let values = seeded::values(seed, len, -1.0..1.0);
                if is_exact { values.iter().map(|v| (v * 4.0).round() / 4.0).collect() } else { values }
            };
            let (grad, master, before) = (draw(1, batch * outputs), draw(2, replicate * len), draw(3, batch * inputs));
            let total = |i: usize| (0..replicate).map(|copy| f64::from(master[copy * len + i])).sum::<f64>() as f32;
            let weights: Vec<f32> = (0..len).map(total).collect();
            let (near_grad, near_weights) = (rounded(&grad), rounded(&weights));
            let (mut exact, mut plain) = (vec![0.0f64; batch * inputs], vec![0.0f32; batch * inputs]);
            for (b, [from, to, tap]) in (0..batch).flat_map(|b| products(&geometry).into_iter().map(move |p| (b, p))) {
                for (c, o) in (0..cin).flat_map(|c| (0..cout).map(move |o| (c, o))) {
                    let (i, g, w) = (b * inputs + from * cin + c, b * outputs + to * cout + o, (tap * cin + c) * cout + o);
                    exact[i] += f64::from(grad[g]) * f64::from(weights[w]);
                    plain[i] += near_grad[g] * near_weights[w];
                }
            }
            let mut layout = Layout::measure();
            PackedWeights::take(&mut layout, &geometry, 16);
            let memory = gpu.zeroed::<u8>(layout.bytes()).unwrap();
            let packed = PackedWeights::take(&mut Layout::of(&memory), &geometry, 16);
            let (master, grad) = (upload(&gpu, &master), upload(&gpu, &to_bf16(&grad)));
            let source = WeightSource { master: master.slice(), geometry, replicate, weights: packed };
            transpose_weights(&gpu, &WeightTable::new(&gpu, &[source]).unwrap()).unwrap();
            let run = |rows: usize, adds: bool| {
                let out = Output::of(&gpu, &if adds { before.clone() } else { vec![f32::NAN; batch * inputs] });
                let (to, weights) = (out.slice(), packed.transposed);
                data_gradient_in_tiles(&gpu, to, grad.slice(), weights, &geometry, batch, adds, rows).unwrap();
                out.values()
            };
            let what = format!("case {case}, {geometry:?}, exact: {is_exact}");
            let set = run(64, false);
            assert_eq!(bits(&run(128, false)), bits(&set), "tiles of other size: {what}");
            if is_exact {
                let exact: Vec<f32> = exact.iter().map(|&v| v as f32).collect();
                assert_eq!(set, exact, "{what}");
            } else {
                assert_as_near(&what, &set, &plain, &exact);
            }
            let expected: Vec<f32> = before.iter().zip(&set).map(|(before, v)| before + v).collect();
            assert_eq!(run(128, true), expected, "added: {what}");
            let out = Output::of(&gpu, &vec![f32::NAN; set.len()]);
            data_gradient(&gpu, out.slice(), grad.slice(), packed.transposed, &geometry, batch, false).unwrap();
            assert_eq!(bits(&out.values()), bits(&set), "a tile of its own choice: {what}");
        }
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let gpu = device::gpu();
    let geometry = geometry(3, 8, [5, 5], 3, 1, 1);
    let (floats, halves, words) = (gpu.zeroed::<f32>(74).unwrap(), gpu.zeroed::<u16>(199).unwrap(), gpu.zeroed::<u32>(8).unwrap());
    let problems = [data_gradient(&gpu, floats.slice(), halves.slice(), words.slice(), &geometry, 1, true)];
    for (at, problem) in problems.into_iter().enumerate() {
        let problem = problem.unwrap_err().to_string();
        assert!(problem.contains("expected") && problem.contains("got"), "call {at}: {problem}");
    }
}

/// Odd sizes under stride 2 with more rows of a class than a tile has: 6 samples of 5x5 (or 5x4, 4x5, 4x4) positions.
#[test]
fn data_gradients_of_odd_sizes_and_several_tiles() {
    let gpu = device::gpu();
    let geometry = geometry(8, 8, [9, 9], 3, 2, 1);
    let (batch, taps) = (6, 9);
    let grad: Vec<f32> = seeded::values(1, batch * 25 * 8, -1.0..1.0).iter().map(|v| (v * 4.0).round() / 4.0).collect();
    let master: Vec<f32> = seeded::values(2, taps * 64, -1.0..1.0).iter().map(|v| (v * 4.0).round() / 4.0).collect();
    let mut expected = vec![0.0f32; batch * 81 * 8];
    for b in 0..batch {
        for (oy, ox) in (0..5).flat_map(|y| (0..5).map(move |x| (y, x))) {
            for (ky, kx) in (0..3).flat_map(|y| (0..3).map(move |x| (y, x))) {
                let (y, x) = ((oy * 2 + ky) as i32 - 1, (ox * 2 + kx) as i32 - 1);
                if !(0..9).contains(&y) || !(0..9).contains(&x) {
                    continue;
                }
                for (c, o) in (0..8).flat_map(|c| (0..8).map(move |o| (c, o))) {
                    expected[((b * 9 + y as usize) * 9 + x as usize) * 8 + c] +=
                        grad[((b * 5 + oy) * 5 + ox) * 8 + o] * master[((ky * 3 + kx) * 8 + c) * 8 + o];
                }
            }
        }
    }
    let mut layout = Layout::measure();
    PackedWeights::take(&mut layout, &geometry, 16);
    let memory = gpu.zeroed::<u8>(layout.bytes()).unwrap();
    let packed = PackedWeights::take(&mut Layout::of(&memory), &geometry, 16);
    let on_master = gpu.memory_of(&master).unwrap();
    let rounded: Vec<u16> = grad.iter().map(|v| (v.to_bits() >> 16) as u16).collect(); // quarters are exact
    let on_grad = gpu.memory_of(&rounded).unwrap();
    let source = WeightSource { master: on_master.slice(), geometry, replicate: 1, weights: packed };
    transpose_weights(&gpu, &WeightTable::new(&gpu, &[source]).unwrap()).unwrap();
    for rows in [64, 128] {
        let out = Output::of(&gpu, &vec![f32::NAN; expected.len()]);
        data_gradient_in_tiles(&gpu, out.slice(), on_grad.slice(), packed.transposed, &geometry, batch, false, rows).unwrap();
        assert!(out.values() == expected, "tiles of {rows} rows");
    }
}
