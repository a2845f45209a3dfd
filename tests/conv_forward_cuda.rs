//! The convolution of an ANN on the device: exact where all sums are, else as near to f64 as a plain loop over bf16 operands.

#[path = "support/convolutions.rs"]
mod convolutions;
#[path = "support/device.rs"]
mod device;
#[path = "support/output.rs"]
mod output;
#[path = "support/packed_weights.rs"]
mod packed_weights;
#[path = "support/products.rs"]
mod products;
#[path = "support/seeded.rs"]
mod seeded;

use convolutions::{NO_POOL, ONE_BY_ONE, bits, geometry, upload};
use dsr::device::Slice;
use dsr::ops::conv::cuda::{conv_forward, conv_forward_in_tiles};
use dsr::ops::spike_conv::{BF16, Geometry, WeightTable, round_weights};
use emulator::Order;
use output::Output;
use packed_weights::on_device;
use products::{assert_as_near, gradient_cases, products, rounded, to_bf16};

/// Those of the gradients; more rows than a tile, kernels larger than the image, a stride that skips its end.
fn cases() -> Vec<(Geometry, usize, usize)> {
    let mut cases = gradient_cases();
    cases.push((geometry(24, 16, [9, 15], 3, 1, 1), 3, 1));
    cases.push((geometry(8, 3, [1, 1], 7, 2, 3), 2, 1));
    cases.push((geometry(40, 65, [6, 5], 3, 4, 0), 1, 1));
    assert!(cases.iter().any(|(g, ..)| g.pool != NO_POOL) && cases.iter().any(|(_, batch, _)| *batch == 1));
    cases
}

#[test]
fn outputs_are_as_near_as_bf16_operands_allow() {
    let gpu = device::gpu();
    for (case, (geometry, batch, replicate)) in cases().into_iter().enumerate() {
        let Geometry { cin, cout, .. } = geometry;
        let (inputs, outputs) = (geometry.pooled().iter().product::<usize>() * cin, geometry.positions() * cout);
        let len = geometry.taps() * cin * cout;
        // Values of a few bits have exact sums, so there is one right answer.
        for is_exact in [true, false] {
            let draw = |seed, len| {
                let values = seeded::values(seed, len, -1.0..1.0);
                if is_exact { values.iter().map(|v| (v * 4.0).round() / 4.0).collect() } else { values }
            };
            let (source, master) = (draw(1, batch * inputs), draw(2, replicate * len));
            let total = |i: usize| (0..replicate).map(|copy| f64::from(master[copy * len + i])).sum::<f64>() as f32;
            let weights: Vec<f32> = (0..len).map(total).collect();
            let (near_source, near_weights) = (rounded(&source), rounded(&weights));
            let (mut exact, mut plain) = (vec![0.0f64; batch * outputs], vec![0.0f32; batch * outputs]);
            for (b, [from, to, tap]) in (0..batch).flat_map(|b| products(&geometry).into_iter().map(move |p| (b, p))) {
                for (c, o) in (0..cin).flat_map(|c| (0..cout).map(move |o| (c, o))) {
                    let (i, x, w) = (b * outputs + to * cout + o, b * inputs + from * cin + c, (tap * cin + c) * cout + o);
                    exact[i] += f64::from(source[x]) * f64::from(weights[w]);
                    plain[i] += near_source[x] * near_weights[w];
                }
            }
            let packed = on_device(&gpu, &master, geometry, replicate, BF16);
            round_weights(&gpu, &WeightTable::new(&gpu, &[packed.source]).unwrap()).unwrap();
            let source = upload(&gpu, &to_bf16(&source));
            let run = |rows: Option<usize>| {
                let out = Output::of(&gpu, &vec![f32::NAN; batch * outputs]);
                let (to, from, weights) = (out.slice(), source.slice(), packed.weights.packed);
                match rows {
                    Some(rows) => conv_forward_in_tiles(&gpu, to, from, weights, &geometry, batch, rows).unwrap(),
                    None => conv_forward(&gpu, to, from, weights, &geometry, batch).unwrap(),
                }
                out.values()
            };
            let what = format!("case {case}, {geometry:?}, exact: {is_exact}");
            let got = run(None);
            for rows in [64, 128] {
                assert_eq!(bits(&run(Some(rows))), bits(&got), "tiles of {rows}: {what}");
            }
            if is_exact {
                let exact: Vec<f32> = exact.iter().map(|&v| v as f32).collect();
                assert_eq!(got, exact, "{what}");
            } else {
                assert_as_near(&what, &got, &plain, &exact);
            }
            if !device::is_real() {
                for order in [Order::Lifo, Order::Random(1)] {
                    emulator::set_order(order);
                    assert_eq!(bits(&run(None)), bits(&got), "{order:?}: {what}");
                    emulator::set_order(Order::Fifo);
                }
            }
        }
    }
}

#[test]
fn buffers_that_are_too_small_are_refused() {
    let gpu = device::gpu();
    let geometry = Geometry { cin: 8, cout: 3, source: [5, 5], ..ONE_BY_ONE };
    let (out, source, weights) = (gpu.zeroed::<f32>(75).unwrap(), gpu.zeroed::<u16>(200).unwrap(), gpu.zeroed::<u32>(1024).unwrap());
    let call = |out: Slice<f32>, source, weights| conv_forward(&gpu, out, source, weights, &geometry, 1);
    call(out.slice(), source.slice(), weights.slice()).unwrap();
    let problems = [
        (call(out.slice().part(0..74), source.slice(), weights.slice()), "output"),
        (call(out.slice(), source.slice().part(0..199), weights.slice()), "source"),
        (call(out.slice(), source.slice(), weights.slice().part(0..1023)), "rounded weights"),
    ];
    for (problem, word) in problems {
        let problem = problem.unwrap_err().to_string();
        assert!(problem.contains(word) && problem.contains("expected") && problem.contains("got"), "{problem}");
    }
}
