//! A convolution's shapes and a layer's constants, as kernels take them.

use bytemuck::{Pod, Zeroable};

use super::Geometry;
use crate::device::{Gpu, Slice};
use crate::error::Result;
use crate::ops::batch_norm::Normalizer;

/// Field for field `struct Geometry` in `kernels/include/geometry.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DeviceGeometry {
    pub cin: i32,
    pub cout: i32,
    pub source_h: i32,
    pub source_w: i32,
    pub pool: i32,
    pub pool_stride: i32,
    pub pool_pad: i32,
    pub pooled_h: i32,
    pub pooled_w: i32,
    pub kernel_h: i32,
    pub kernel_w: i32,
    pub stride: i32,
    pub pad: i32,
    pub out_h: i32,
    pub out_w: i32,
}
const _: () = assert!(size_of::<DeviceGeometry>() == 60);

impl From<&Geometry> for DeviceGeometry {
    fn from(geometry: &Geometry) -> Self {
        let ([pooled_h, pooled_w], [out_h, out_w]) = (geometry.pooled().map(|n| n as i32), geometry.out().map(|n| n as i32));
        let [pool, pool_stride, pool_pad] = geometry.pool.map(|n| n as i32);
        DeviceGeometry {
            cin: geometry.cin as i32,
            cout: geometry.cout as i32,
            source_h: geometry.source[0] as i32,
            source_w: geometry.source[1] as i32,
            pool,
            pool_stride,
            pool_pad,
            pooled_h,
            pooled_w,
            kernel_h: geometry.kernel[0] as i32,
            kernel_w: geometry.kernel[1] as i32,
            stride: geometry.stride as i32,
            pad: geometry.pad as i32,
            out_h,
            out_w,
        }
    }
}

/// Normalizer of a layer on the device: `[6][padded]` f32 = factor0, factor1, offset, gamma, beta, scale; padded = C rounded up to 64.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceNormalizer {
    pub values: Slice<f32>,
    pub padded: usize,
}

impl DeviceNormalizer {
    /// The constants on the host, [`Normalizer::scale`] padded as the others are.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the copy fails.
    pub fn download(&self, gpu: &Gpu) -> Result<Normalizer> {
        let mut values = vec![0.0; 6 * self.padded];
        gpu.download(self.values, &mut values)?;
        let row = |k: usize| values[k * self.padded..(k + 1) * self.padded].to_vec();
        Ok(Normalizer { factors: [row(0), row(1)], offset: row(2), gamma: row(3), beta: row(4), scale: row(5) })
    }
}
