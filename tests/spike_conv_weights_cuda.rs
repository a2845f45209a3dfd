//! Weights on the device: rounded to the integers of the CPU and laid out as the tensor cores read them.

#[path = "support/device.rs"]
mod device;
#[path = "support/packed_weights.rs"]
mod packed_weights;
#[path = "support/seeded.rs"]
mod seeded;

use dsr::device::{Gpu, Isa, Slice};
use dsr::ops::spike_conv::{
    BF16, Geometry, QuantizedWeights, WeightSource, WeightTable, quantize_weights, round_weights, transpose_weights,
};
use packed_weights::{OnDevice, on_device};

const NO_POOL: [usize; 3] = [1, 1, 0];

fn download<T: bytemuck::Pod>(gpu: &Gpu, slice: Slice<T>) -> Vec<T> {
    let mut values = vec![T::zeroed(); slice.len()];
    gpu.download(slice, &mut values).unwrap();
    values
}

/// Weight that the packed operands hold for tap, word, channel of the word and output channel: the layout, read backwards.
fn unpacked(packed: &[u32], geometry: &Geometry, bits: u8, step: usize, channel: usize, o: usize) -> i32 {
    let steps = (geometry.taps() * geometry.cin.div_ceil(32)).next_multiple_of(2);
    let (r, j, b) =
        if geometry.is_pooled() { (channel / 16, channel % 16 / 4, channel % 4) } else { (channel % 2, channel % 8 / 2, channel / 8) };
    let lane = o % 8 * 4 + j;
    let byte = |word: u32| i32::from((word >> (8 * b)) as u8 as i8);
    let of_step = o / 64 * steps + step;
    if bits == 16 {
        let at = ((of_step * 8 + o % 64 / 8) * 32 + lane) * 4;
        256 * byte(packed[at + r]) + byte(packed[at + 2 + r])
    } else {
        byte(packed[((of_step * 4 + o % 64 / 16) * 32 + lane) * 4 + o % 16 / 8 * 2 + r])
    }
}

/// Round to bf16, to nearest and ties to even.
fn bf16(value: f32) -> u16 {
    half::bf16::from_f32(value).to_bits()
}

/// cin, cout, kernel, pool, replicate, bits, largest weight
type Case = (usize, usize, usize, [usize; 3], usize, u8, f32);

#[test]
fn weights_are_rounded_and_packed_as_on_the_cpu() {
    let gpu = device::gpu();
    let cases: [Case; 12] = [
        (1, 1, 1, NO_POOL, 1, 16, 1.0),
        (3, 16, 3, NO_POOL, 1, 16, 0.1),
        (16, 31, 3, NO_POOL, 1, 8, 0.1),
        (31, 33, 1, NO_POOL, 1, 16, 1e-30),
        (32, 64, 3, NO_POOL, 1, 16, 1e30),
        (33, 65, 3, NO_POOL, 1, 8, 40.0),
        (64, 32, 2, [2, 2, 0], 1, 16, 3.0),
        (96, 10, 1, [3, 2, 1], 1, 8, 3.0),
        (130, 130, 1, NO_POOL, 1, 16, 0.02),
        (40, 10, 1, NO_POOL, 49, 16, 0.5),
        (140, 3, 7, [7, 7, 0], 1, 16, 1.0), // a pool and many inputs take room from the width
        (5, 70, 3, NO_POOL, 2, 8, 0.0),
    ];
    let masters: Vec<Vec<f32>> = (cases.iter().enumerate())
        .map(|(n, &(cin, cout, kernel, _, replicate, _, largest))| {
            let len = replicate * kernel * kernel * cin * cout;
            // Some channels are near zero, and one weight of alike magnitude decides the scale of a channel.
            let scale = |at: usize| if at % cout % 7 == 6 { 1e-4 } else { 1.0 };
            seeded::values(n as u64, len, -1.0..1.0).iter().enumerate().map(|(at, v)| v * largest * scale(at)).collect()
        })
        .collect();
    let all: Vec<OnDevice> = (cases.iter().zip(&masters))
        .map(|(&(cin, cout, kernel, pool, replicate, bits, _), master)| {
            let geometry = Geometry { cin, cout, source: [7, 7], pool, kernel: [kernel; 2], stride: 1, pad: 0 };
            on_device(&gpu, master, geometry, replicate, bits)
        })
        .collect();
    let sources: Vec<WeightSource> = all.iter().map(|on_device| on_device.source).collect();
    let table = WeightTable::new(&gpu, &sources).unwrap();
    quantize_weights(&gpu, &table).unwrap();
    transpose_weights(&gpu, &table).unwrap();
    for (n, (on_device, master)) in all.iter().zip(&masters).enumerate() {
        let OnDevice { weights, source: WeightSource { geometry, replicate, .. }, .. } = on_device;
        let len = master.len() / replicate;
        let total = |i: usize| master.iter().skip(i).step_by(len).fold(0.0, |sum, &w| sum + f64::from(w)) as f32;
        let effective: Vec<f32> = if *replicate == 1 { master.clone() } else { (0..len).map(total).collect() };
        let mut expected = QuantizedWeights::default();
        expected.quantize(Isa::Portable, &effective, geometry.cout, weights.bits, geometry.area());
        let scale = download(&gpu, weights.scale);
        assert_eq!(scale[..geometry.cout], expected.scale, "case {n}: scales");
        let packed = download(&gpu, weights.packed);
        let words = geometry.cin.div_ceil(32);
        let (steps, columns) = ((geometry.taps() * words).next_multiple_of(2), geometry.cout.next_multiple_of(64));
        for (step, channel, o) in (0..steps).flat_map(|s| (0..32).flat_map(move |c| (0..columns).map(move |o| (s, c, o)))) {
            let (tap, of_tap) = (step / words, step % words * 32 + channel);
            let exists = tap < geometry.taps() && of_tap < geometry.cin && o < geometry.cout;
            let q = if exists { expected.integer(tap * geometry.cin + of_tap, o) } else { 0 };
            assert_eq!(unpacked(&packed, geometry, weights.bits, step, channel, o), q, "case {n}: step {step}, channel {channel}, {o}");
        }
        assert_packed_as_bf16(
            &format!("case {n}: transposed"),
            &download(&gpu, weights.transposed),
            geometry.cin,
            geometry,
            |tap, c, o| effective[(tap * geometry.cin + c) * geometry.cout + o],
        );
    }
}

/// Pieces of 64 channels N and 32 channels K of a tap; of both, one is cin and the other cout.
fn assert_packed_as_bf16(what: &str, packed: &[u32], columns: usize, geometry: &Geometry, weight: impl Fn(usize, usize, usize) -> f32) {
    let depth = geometry.cin + geometry.cout - columns;
    let chunks = depth.div_ceil(32);
    let packed: &[u16] = bytemuck::cast_slice(packed);
    assert_eq!(packed.len(), columns.div_ceil(64) * geometry.taps() * chunks * 2048, "{what}");
    for (at, &got) in packed.iter().enumerate() {
        let (half, r, eight, lane) = (at % 2, at / 2 % 2, at / 4 % 2, at / 8 % 32);
        let (pair, step, piece) = (at / 256 % 4, at / 1024 % 2, at / 2048);
        let (chunk, tap, tile) = (piece % chunks, piece / chunks % geometry.taps(), piece / chunks / geometry.taps());
        let (n, k) = (tile * 64 + pair * 16 + eight * 8 + lane / 4, chunk * 32 + step * 16 + r * 8 + lane % 4 * 2 + half);
        let expected = if n < columns && k < depth { weight(tap, n, k) } else { 0.0 };
        assert_eq!(got, bf16(expected), "{what}, tap {tap}, {n}, {k}");
    }
}

/// Those of an ANN: bf16 for forward, several connections in one launch, replicated ones added up first.
#[test]
fn weights_of_an_ann_are_rounded_to_bf16() {
    let gpu = device::gpu();
    let cases = [(1, 1, 1, 1), (3, 16, 3, 1), (31, 33, 1, 1), (33, 65, 3, 1), (64, 32, 2, 2), (130, 130, 1, 1), (40, 10, 1, 49)];
    let of_case = |(n, &(cin, cout, kernel, replicate)): (usize, &(usize, usize, usize, usize))| {
        let geometry = Geometry { cin, cout, source: [7, 7], pool: NO_POOL, kernel: [kernel; 2], stride: 1, pad: 0 };
        let master = seeded::values(n as u64, replicate * geometry.taps() * cin * cout, -1.0..1.0);
        (on_device(&gpu, &master, geometry, replicate, BF16), master)
    };
    let all: Vec<(OnDevice, Vec<f32>)> = cases.iter().enumerate().map(of_case).collect();
    let sources: Vec<WeightSource> = all.iter().map(|(on_device, _)| on_device.source).collect();
    let table = WeightTable::new(&gpu, &sources).unwrap();
    round_weights(&gpu, &table).unwrap();
    transpose_weights(&gpu, &table).unwrap();
    for (n, (on_device, master)) in all.iter().enumerate() {
        let OnDevice { weights, source: WeightSource { geometry, replicate, .. }, .. } = on_device;
        let len = master.len() / replicate;
        let effective = |tap: usize, c: usize, o: usize| {
            let at = (tap * geometry.cin + c) * geometry.cout + o;
            master.iter().skip(at).step_by(len).fold(0.0, |sum, &w| sum + f64::from(w)) as f32
        };
        let (rounded, transposed) = (download(&gpu, weights.packed), download(&gpu, weights.transposed));
        assert_packed_as_bf16(&format!("case {n}: rounded"), &rounded, geometry.cout, geometry, |tap, o, c| effective(tap, c, o));
        assert_packed_as_bf16(&format!("case {n}: transposed"), &transposed, geometry.cin, geometry, effective);
    }
}

/// Copies of a weight are added up before they are rounded, in f64: in f32 the small one would be lost beside the large ones.
#[test]
fn copies_are_added_without_loss() {
    let gpu = device::gpu();
    let geometry = Geometry { cin: 1, cout: 1, source: [1, 1], pool: NO_POOL, kernel: [1, 1], stride: 1, pad: 0 };
    let large = 16_777_216.0; // 2^24
    for bits in [BF16, 16] {
        let copies = on_device(&gpu, &[large, 1.0, -large], geometry, 3, bits);
        let (weights, table) = (copies.weights, WeightTable::new(&gpu, &[copies.source]).unwrap());
        if bits == BF16 {
            round_weights(&gpu, &table).unwrap();
            assert_packed_as_bf16("rounded", &download(&gpu, weights.packed), 1, &geometry, |_, _, _| 1.0);
        } else {
            quantize_weights(&gpu, &table).unwrap();
            assert!(download(&gpu, weights.packed).iter().any(|word| *word != 0), "the sum of the copies is 1");
        }
        transpose_weights(&gpu, &table).unwrap();
        assert_packed_as_bf16("transposed", &download(&gpu, weights.transposed), 1, &geometry, |_, _, _| 1.0);
    }
}
