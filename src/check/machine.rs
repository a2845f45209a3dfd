//! What a device has to show before anything else: copies in all directions, a kernel, a graph, two streams.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::inputs::floats;
use super::{Check, Output};
use crate::device::{Gpu, Pinned, Slice, kernels, scalars};
use crate::error::Result;

/// Field for field `struct Probe` in `kernels/probe.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Probe {
    scale: f32,
    offset: f32,
    n: i32,
}

const BLOCK: usize = kernels::PROBE.block as usize;
const SCALE: f32 = 1.7;
const OFFSET: f32 = -0.3;

/// `y = x * scale + offset`, each block of `x` in reverse.
fn probe(gpu: &Gpu, y: Slice<f32>, x: Slice<f32>) -> Result<()> {
    let p = Probe { scale: SCALE, offset: OFFSET, n: x.len() as i32 };
    gpu.launch(&kernels::PROBE, [x.len().div_ceil(BLOCK) as u32, 1, 1], 4 * BLOCK, &[&y, &x, &scalars(&p)])
}

fn probed(x: &[f32]) -> Vec<f32> {
    x.chunks(BLOCK).flat_map(|block| block.iter().rev()).map(|x| x.mul_add(SCALE, OFFSET)).collect()
}

pub fn checks(gpu: &Arc<Gpu>) -> Vec<Check> {
    let (copies, launch, overlap) = (gpu.clone(), gpu.clone(), gpu.clone());
    vec![
        Check::bits("copies", "1, 257 and 1,000,000 floats", move |rng, outcome| {
            for len in [1, 257, 1_000_000] {
                let values = floats(rng, len, -1.0..1.0);
                let [from, to] = [Output::of(&copies, &values)?, Output::unwritten(&copies, len)?];
                copies.copy(from.slice(), to.slice())?;
                to.expect("a copy on the device", outcome, &values)?;
                copies.fill_zero(to.slice())?;
                to.expect("cleared memory", outcome, &vec![0.0; len])?;
                from.expect("the source", outcome, &values)?;
            }
            Ok(())
        }),
        Check::bits("launch", "1 to 1000 floats", move |rng, outcome| {
            for len in [1, 31, BLOCK - 1, BLOCK, BLOCK + 1, 1000] {
                let x = floats(rng, len, -5.0..5.0);
                let (from, y) = (launch.memory_of(&x)?, Output::unwritten(&launch, len)?);
                probe(&launch, y.slice(), from.slice())?;
                y.expect("fmaf of reversed blocks", outcome, &probed(&x))?;
            }
            Ok(())
        }),
        Check::bits("graph and two streams", "6 replays of 700 floats", move |rng, outcome| {
            const LEN: usize = 700;
            let (gpu, input, y) = (&overlap, overlap.zeroed::<f32>(LEN)?, Output::unwritten(&overlap, LEN)?);
            let graph = gpu.capture(|| probe(gpu, y.slice(), input.slice()))?;
            let mut staging = [Pinned::<f32>::alloc(gpu, LEN)?, Pinned::<f32>::alloc(gpu, LEN)?];
            let history = Output::unwritten(gpu, 6 * LEN)?;
            let mut expected = Vec::new();
            for step in 0..6 {
                let host = &mut staging[step % 2];
                host.as_mut_slice()?.copy_from_slice(&floats(rng, LEN, -5.0..5.0));
                expected.extend(probed(host.as_slice()));
                gpu.after_compute()?;
                gpu.upload_async(host, input.slice())?;
                gpu.after_copies()?;
                graph.launch()?;
                gpu.copy(y.slice(), history.slice().part(step * LEN..(step + 1) * LEN))?;
            }
            history.expect("results of the replays", outcome, &expected)
        }),
    ]
}
