//! What lies more than two gigabytes behind the start of a buffer: addresses that 32 bits do not hold.
//!
//! Nearly all of such a buffer is zero, and is not copied. A device without the room is not asked.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::inputs::{NO_POOL, floats, integers, spikes};
use super::weights::OnDevice;
use super::{Check, Outcome, Output, Size};
use crate::data::Draw;
use crate::device::{Gpu, Isa, Slice};
use crate::error::Result;
use crate::ops::augment::{DeviceDraw, Pictures, Strided, augment, strided_bytes};
use crate::ops::neuron::LANES;
use crate::ops::spike_conv::{self, Geometry, LayerSums, QuantizedWeights, Source, Summand, WeightTable, quantize_weights};

const T: usize = 255;
const CHANNELS: usize = 2048;
const WORDS: usize = T * CHANNELS / 32;
/// Positions of the source: the last begins past two gigabytes.
const POSITIONS: usize = 32_900;
const IMAGE: [usize; 3] = [8, 8, 1];
const PIXELS: usize = 64;
const IMAGES: usize = (1 << 31) / PIXELS + 1;
/// Free bytes of the device for either, with something to spare.
const NEEDED: usize = (1 << 31) + (64 << 20);

pub fn checks(gpu: &Arc<Gpu>, size: Size) -> Vec<Check> {
    if size == Size::Small || !gpu.memory().is_ok_and(|[free, _]| free >= NEEDED) {
        return Vec::new();
    }
    let [of_spikes, of_images, of_arrays] = [gpu.clone(), gpu.clone(), gpu.clone()];
    vec![
        Check::bits("spike_conv sums", "spikes past two gigabytes", move |rng, outcome| check_spikes(&of_spikes, rng, outcome)),
        Check::bits("augmentation", "an image past two gigabytes", move |rng, outcome| check_image(&of_images, rng, outcome)),
        Check::bits("strided array", "elements two gigabytes apart", move |_, outcome| check_array(&of_arrays, outcome)),
    ]
}

/// A stride that leads from the first position, which is silent, to the last.
fn check_spikes(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    let stride = POSITIONS - 1;
    let geometry = Geometry { cin: CHANNELS, cout: 1, source: [POSITIONS, 1], pool: NO_POOL, kernel: [1, 1], stride, pad: 0 };
    let (last, master) = (spikes(rng, T, 1, 1, CHANNELS), floats(rng, CHANNELS, -1.0..1.0));
    let bits = gpu.zeroed::<u32>(POSITIONS * WORDS)?;
    gpu.upload(last.bits(), bits.slice().part(stride * WORDS..POSITIONS * WORDS))?;
    let weights = OnDevice::new(gpu, &master, geometry, 1, 16)?;
    quantize_weights(gpu, &WeightTable::new(gpu, &[weights.source])?)?;
    let conv = Summand::Conv { source: Source::Bits(bits.slice()), weights: weights.source.weights, geometry };
    let layer = LayerSums { summands: [conv, Summand::None], batch: 1, positions: 2, time_steps: T, channels: 1 };
    let (sums, statistics) = (Output::unwritten(gpu, 2 * T * LANES)?, gpu.zeroed::<u64>(8)?);
    spike_conv::sums(gpu, &layer, [sums.slice(), Slice::NONE], statistics.slice())?;

    let mut quantized = QuantizedWeights::default();
    quantized.quantize(Isa::detect(), &master, 1, 16, 1);
    let mut expected = vec![0; 2 * T * LANES];
    for (t, words) in last.bits().chunks_exact(CHANNELS / 32).enumerate() {
        let fires = |c: &usize| words[c / 32] >> (c % 32) & 1 == 1;
        expected[(T + t) * LANES] = (0..CHANNELS).filter(fires).map(|c| quantized.integer(c, 0)).sum();
    }
    sums.expect("sums [B][P][T][stride]", outcome, &expected)
}

/// The last image of a data set that stays on the device.
fn check_image(gpu: &Arc<Gpu>, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    let image: Vec<u8> = integers(rng, PIXELS, 1..=255).into_iter().map(|byte| byte as u8).collect();
    let bytes = gpu.zeroed::<u8>(IMAGES * PIXELS)?;
    gpu.upload(&image, bytes.slice().part((IMAGES - 1) * PIXELS..IMAGES * PIXELS))?;
    let table = floats(rng, 256, -1.0..1.0);
    let draws = gpu.memory_of(&[DeviceDraw::new(IMAGES - 1, Draw { top: 0, left: 0, flip: false })])?;
    let (on_device, out) = (gpu.memory_of(&table)?, Output::unwritten(gpu, PIXELS)?);
    let pictures = Pictures { images: bytes.slice(), draws: draws.slice(), holes: Slice::NONE, table: on_device.slice() };
    augment(gpu, out.slice(), &pictures, IMAGE, 1, 0)?;
    out.expect("input [B][H][W][C]", outcome, &image.iter().map(|&byte| table[usize::from(byte)]).collect::<Vec<f32>>())
}

/// An array of two bytes, forwards and backwards.
fn check_array(gpu: &Arc<Gpu>, outcome: &mut Outcome) -> Result<()> {
    const FAR: usize = (1 << 31) + 5;
    let bytes = gpu.zeroed::<u8>(FAR + 1)?;
    gpu.upload(&[7], bytes.slice().part(FAR..FAR + 1))?;
    let table = gpu.memory_of(&(0..256).map(|byte| byte as f32).collect::<Vec<f32>>())?;
    for (first, step, expected) in [(0, FAR as i64, [0.0, 7.0]), (FAR, -(FAR as i64), [7.0, 0.0])] {
        let out = Output::unwritten(gpu, 2)?;
        let array = Strided::new(bytes.slice(), first, [2, 1, 1, 1, 1], [step, 0, 0, 0, 0])?;
        strided_bytes(gpu, out.slice(), &array, table.slice())?;
        out.expect("values", outcome, &expected)?;
    }
    Ok(())
}
