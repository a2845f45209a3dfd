//! Weights: rounded to the integers of the CPU, and laid out as the tensor cores read them.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::inputs::{NO_POOL, floats};
use super::{Check, Outcome};
use crate::device::{Gpu, Isa, Layout, Memory, Slice};
use crate::error::Result;
use crate::ops::spike_conv::{Geometry, PackedWeights, QuantizedWeights, WeightSource, WeightTable, quantize_weights, transpose_weights};

/// Weights of one connection on the device, and what holds them.
pub struct OnDevice {
    pub source: WeightSource,
    _memory: (Memory<u8>, Memory<f32>),
}

impl OnDevice {
    /// Uploads `[replicate][tap][cin][cout]`; nothing is packed yet.
    pub fn new(gpu: &Arc<Gpu>, master: &[f32], geometry: Geometry, replicate: usize, bits: u8) -> Result<OnDevice> {
        let mut layout = Layout::measure();
        PackedWeights::take_for(&mut layout, &geometry, bits, gpu.products());
        let memory = gpu.memory_of(&vec![0xa5u8; layout.bytes()])?; // whatever was there must be overwritten
        let weights = PackedWeights::take_for(&mut Layout::of(&memory), &geometry, bits, gpu.products());
        let on_device = gpu.memory_of(master)?;
        Ok(OnDevice { source: WeightSource { master: on_device.slice(), geometry, replicate, weights }, _memory: (memory, on_device) })
    }
}

/// Of three copies of a weight, 1 is what is left of this, 1 and minus this, where they are added without loss.
pub const CANCELS: f32 = 16_777_216.0;

/// Inputs, outputs, kernel, pool, copies, bits, largest weight.
type Case = (usize, usize, usize, [usize; 3], usize, u8, f32);

const CASES: [Case; 12] = [
    (1, 1, 1, NO_POOL, 1, 16, 1.0),
    (3, 16, 3, NO_POOL, 1, 16, 0.1),
    (16, 31, 3, NO_POOL, 1, 8, 0.1),
    (31, 33, 1, NO_POOL, 1, 16, 1e-30),
    (32, 64, 3, NO_POOL, 1, 16, 1e30),
    (33, 65, 3, NO_POOL, 1, 8, 40.0),
    (64, 32, 2, [2, 2, 0], 1, 16, 3.0),
    (96, 10, 1, [3, 2, 1], 1, 8, 3.0),
    (40, 10, 1, NO_POOL, 49, 16, 0.5),
    (140, 3, 7, [7, 7, 0], 1, 16, 1.0), // a pool and many inputs take room from the width
    (5, 70, 3, NO_POOL, 2, 8, 0.0),
    (1, 1, 1, NO_POOL, 3, 16, CANCELS),
];

pub fn checks(gpu: &Arc<Gpu>) -> Vec<Check> {
    let on = [gpu.clone(), gpu.clone()];
    let [quantized, transposed] = on;
    let shape = format!("{} connections in one launch", CASES.len());
    vec![
        Check::bits("weights, fixed point", &shape, move |rng, outcome| check(&quantized, rng, outcome, false)),
        Check::bits("weights, bf16", &shape, move |rng, outcome| check(&transposed, rng, outcome, true)),
    ]
}

fn check(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome, in_bf16: bool) -> Result<()> {
    let masters = CASES.map(|(cin, cout, kernel, _, replicate, _, largest)| {
        if largest == CANCELS {
            return vec![CANCELS, 1.0, -CANCELS];
        }
        // Some channels are near zero, so that scales differ.
        let scale = |at: usize| if at % cout % 7 == 6 { 1e-4 } else { 1.0 };
        let values = floats(rng, replicate * kernel * kernel * cin * cout, -1.0..1.0);
        values.iter().enumerate().map(|(at, v)| v * largest * scale(at)).collect::<Vec<f32>>()
    });
    let mut all = Vec::new();
    for (&(cin, cout, kernel, pool, replicate, bits, _), master) in CASES.iter().zip(&masters) {
        let geometry = Geometry { cin, cout, source: [7, 7], pool, kernel: [kernel; 2], stride: 1, pad: 0 };
        all.push(OnDevice::new(gpu, master, geometry, replicate, bits)?);
    }
    let sources: Vec<WeightSource> = all.iter().map(|on_device| on_device.source).collect();
    let table = WeightTable::new(gpu, &sources)?;
    if in_bf16 {
        transpose_weights(gpu, &table)?
    } else {
        quantize_weights(gpu, &table)?
    }
    for (source, master) in sources.iter().zip(&masters) {
        let effective = summed_copies(master, source.replicate);
        if in_bf16 {
            compare_transposed(gpu, outcome, source, &effective)?;
        } else {
            compare_packed(gpu, outcome, source, &effective)?;
        }
    }
    Ok(())
}

/// The weights of all copies of the source, added as the CPU does.
pub fn summed_copies(master: &[f32], replicate: usize) -> Vec<f32> {
    if replicate == 1 {
        return master.to_vec();
    }
    let len = master.len() / replicate;
    (0..len).map(|i| master.iter().skip(i).step_by(len).fold(0.0, |sum, &w| sum + f64::from(w)) as f32).collect()
}

fn name(source: &WeightSource) -> String {
    let Geometry { cin, cout, kernel: [height, width], .. } = source.geometry;
    format!("{cin} -> {cout}, {height}x{width}, {} bits", source.weights.bits)
}

fn download<T: bytemuck::Pod>(gpu: &Gpu, slice: Slice<T>) -> Result<Vec<T>> {
    let mut values = vec![T::zeroed(); slice.len()];
    gpu.download(slice, &mut values)?;
    Ok(values)
}

/// Scales and integers; integers are compared as `[step][32 channels][outputs]`.
fn compare_packed(gpu: &Gpu, outcome: &mut Outcome, source: &WeightSource, effective: &[f32]) -> Result<()> {
    let (geometry, bits) = (&source.geometry, source.weights.bits);
    let mut expected = QuantizedWeights::default();
    expected.quantize(Isa::detect(), effective, geometry.cout, bits, geometry.area());
    let scale = download(gpu, source.weights.scale)?;
    outcome.bits(&format!("scales of {}", name(source)), &scale[..geometry.cout], &expected.scale);
    let packed = download(gpu, source.weights.packed)?;
    let words = geometry.cin.div_ceil(32);
    let (steps, columns) = ((geometry.taps() * words).next_multiple_of(2), geometry.cout.next_multiple_of(64));
    let places = || (0..steps).flat_map(|s| (0..32).flat_map(move |c| (0..columns).map(move |o| [s, c, o])));
    let integer = |[step, channel, o]: [usize; 3]| {
        let (tap, of_tap) = (step / words, step % words * 32 + channel);
        let exists = tap < geometry.taps() && of_tap < geometry.cin && o < geometry.cout;
        if exists { expected.integer(tap * geometry.cin + of_tap, o) } else { 0 }
    };
    let got: Vec<i32> = places().map(|place| unpacked(&packed, geometry, bits, place)).collect();
    outcome.bits(&format!("integers of {}", name(source)), &got, &places().map(integer).collect::<Vec<i32>>());
    Ok(())
}

/// The weight that packed operands hold, by the layout in the head of `kernels/spike_conv_weights.cu` read backwards.
fn unpacked(packed: &[u32], geometry: &Geometry, bits: u8, [step, channel, o]: [usize; 3]) -> i32 {
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

/// bf16 weights for the data gradient, in their own order.
fn compare_transposed(gpu: &Gpu, outcome: &mut Outcome, source: &WeightSource, effective: &[f32]) -> Result<()> {
    let geometry = &source.geometry;
    let words = download(gpu, source.weights.transposed)?;
    let got: &[u16] = bytemuck::cast_slice(&words);
    let chunks = geometry.cout.div_ceil(32);
    let weight = |at: usize| {
        let (half, r, eight, lane) = (at % 2, at / 2 % 2, at / 4 % 2, at / 8 % 32);
        let (pair, step, piece) = (at / 256 % 4, at / 1024 % 2, at / 2048);
        let (chunk, tap, tile) = (piece % chunks, piece / chunks % geometry.taps(), piece / chunks / geometry.taps());
        let (c, o) = (tile * 64 + pair * 16 + eight * 8 + lane / 4, chunk * 32 + step * 16 + r * 8 + lane % 4 * 2 + half);
        let exists = c < geometry.cin && o < geometry.cout;
        let weight = if exists { effective[(tap * geometry.cin + c) * geometry.cout + o] } else { 0.0 };
        half::bf16::from_f32(weight).to_bits()
    };
    outcome.bits(&format!("bf16 weights of {}", name(source)), got, &(0..got.len()).map(weight).collect::<Vec<u16>>());
    Ok(())
}
