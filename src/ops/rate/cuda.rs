//! Launch geometry and arguments of `kernels/rate.cu`; no arithmetic lives here.

use bytemuck::{Pod, Zeroable};

use crate::device::{Arg, Gpu, Kernel, Slice, kernels, scalars};
use crate::error::{Error, Result};
use crate::ops::neuron::{LANES, Neuron};
use crate::ops::spike_conv::{DeviceGeometry, DeviceNormalizer, Geometry};

/// Field for field `struct Pool` in `kernels/rate.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PoolArgs {
    geometry: DeviceGeometry,
    batch: i32,
    time_steps: i32,
    pitch: i32,
}
const _: () = assert!(size_of::<PoolArgs>() == 72);

/// Grid of a kernel that counts its threads in 32 bits.
fn blocks(op: &str, threads: usize) -> Result<[u32; 3]> {
    match u32::try_from(threads.next_multiple_of(256)) {
        Ok(threads) => Ok([threads / 256, 1, 1]),
        Err(_) => Err(Error::shape(op, "less than 2^32 threads", threads)),
    }
}

fn positions(geometry: &Geometry) -> usize {
    geometry.pooled().iter().product()
}

/// Spikes in each pool window and step, for a convolution: `[B][P_pooled][T][C rounded up to 32]` from spikes `[B][P][T][words]`.
///
/// # Errors
/// [`Error::ShapeMismatch`] if a window has more positions than fit a byte, [`Error::Device`] if the launch fails; so do the others.
pub fn pool_counts(gpu: &Gpu, pooled: Slice<u8>, spikes: Slice<u32>, geometry: &Geometry, [batch, time_steps]: [usize; 2]) -> Result<()> {
    if geometry.area() > 255 {
        return Err(Error::shape("pool_counts", "a window of at most 255 positions", geometry.pool));
    }
    let pitch = geometry.cin.next_multiple_of(32);
    pool(gpu, &kernels::POOL_COUNTS_8, &pooled, spikes, geometry, [batch, time_steps], [pitch, 16])
}

/// The same as a summand of its own, `[B][P_pooled][T][stride]`.
pub fn pool_sums(gpu: &Gpu, pooled: Slice<i32>, spikes: Slice<u32>, geometry: &Geometry, [batch, time_steps]: [usize; 2]) -> Result<()> {
    let pitch = geometry.cin.next_multiple_of(LANES);
    pool(gpu, &kernels::POOL_COUNTS_32, &pooled, spikes, geometry, [batch, time_steps], [pitch, 4])
}

fn pool(
    gpu: &Gpu,
    kernel: &Kernel,
    pooled: &dyn Arg,
    spikes: Slice<u32>,
    geometry: &Geometry,
    [batch, time_steps]: [usize; 2],
    [pitch, a_thread]: [usize; 2],
) -> Result<()> {
    let p = PoolArgs { geometry: geometry.into(), batch: batch as i32, time_steps: time_steps as i32, pitch: pitch as i32 };
    let threads = batch * positions(geometry) * time_steps * pitch / a_thread;
    gpu.launch(kernel, blocks(kernel.name, threads)?, 0, &[pooled, &spikes, &scalars(&p)])
}

/// Counts `[B][P][C]` added up over each pool window, `[B][P_pooled][C]`: what the weight gradient reads of a pooled source.
pub fn pool_totals(gpu: &Gpu, totals: Slice<u16>, counts: Slice<u8>, geometry: &Geometry, [batch, time_steps]: [usize; 2]) -> Result<()> {
    const MOST: usize = u16::MAX as usize;
    if geometry.area() * time_steps > MOST {
        return Err(Error::shape("pool_totals", format!("at most {MOST} spikes a window"), geometry.area() * time_steps));
    }
    let device: DeviceGeometry = geometry.into();
    let kernel = &kernels::POOL_TOTALS;
    let threads = batch * positions(geometry) * geometry.cin.div_ceil(4);
    gpu.launch(kernel, blocks(kernel.name, threads)?, 0, &[&totals, &counts, &scalars(&device), &(batch as i32)])
}

/// Logits `[B][C]` of a readout by current: `fmaf(γ, r(x̂), β)` of the means `[B][C]` that the last layer has left.
pub fn readout_current(
    gpu: &Gpu,
    logits: Slice<f32>,
    means: Slice<f32>,
    norm: &DeviceNormalizer,
    [batch, channels]: [usize; 2],
) -> Result<()> {
    let sizes = [batch as i32, channels as i32, norm.padded as i32];
    let grid = blocks("readout_current", batch * channels)?;
    gpu.launch(&kernels::READOUT_CURRENT, grid, 0, &[&logits, &means, &norm.values, &sizes[0], &sizes[1], &sizes[2]])
}

/// Logits that the kernel of the last layer writes behind its neurons; `Default` is none. Field for field `struct Readout` in
/// `kernels/include/readout.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DeviceReadout {
    logits: u64,
    step_weights: u64,
    delta_t: f32,
    by_current: i32,
}
const _: () = assert!(size_of::<DeviceReadout>() == 24);

impl DeviceReadout {
    /// What [`readout`] gives: `[B][P·C]`; `step_weights` is `[T]`.
    pub fn by_spikes(logits: Slice<f32>, step_weights: Slice<f32>, neuron: Neuron) -> Self {
        let delta_t = if let Neuron::Lif { delta_t, .. } = neuron { delta_t } else { 0.0 };
        DeviceReadout { logits: logits.address(), step_weights: step_weights.address(), delta_t, by_current: 0 }
    }

    /// What [`readout_current`] gives, `[B][C]`, of the means that the kernel is asked for: the weighted ones, if there are any.
    pub fn by_current(logits: Slice<f32>) -> Self {
        DeviceReadout { logits: logits.address(), by_current: 1, ..DeviceReadout::default() }
    }
}

/// Field for field `struct ReadoutArgs` in `kernels/rate.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ReadoutArgs {
    delta_t: f32,
    batch: i32,
    positions: i32,
    channels: i32,
    time_steps: i32,
}

/// Logits `[B][P·C]` from the spikes `[B][P][T][words]` of the last layer.
pub fn readout(
    gpu: &Gpu,
    logits: Slice<f32>,
    spikes: Slice<u32>,
    threshold: Slice<f32>,
    step_weights: Slice<f32>,
    neuron: Neuron,
    [batch, positions, channels]: [usize; 3],
) -> Result<()> {
    let p = ReadoutArgs {
        delta_t: if let Neuron::Lif { delta_t, .. } = neuron { delta_t } else { 0.0 },
        batch: batch as i32,
        positions: positions as i32,
        channels: channels as i32,
        time_steps: step_weights.len() as i32,
    };
    gpu.launch(
        &kernels::READOUT,
        blocks("readout", batch * positions * channels)?,
        0,
        &[&logits, &spikes, &threshold, &step_weights, &scalars(&p)],
    )
}
