//! The part of the weight gradient that does not collapse over time: `Σ_t x̂[t] ⊗ o[t]`, taken while the sums are still there.

use half::bf16;
use rayon::prelude::*;

use super::currents::Reader;
use super::kept::LayerKept;
use super::{Connection, Kind, Source};
use crate::ops::batch_norm::{Normalizer, normalize};
use crate::ops::spike_conv::{add_scaled, for_each_in_window, spike_outer};

impl Reader<'_> {
    /// Turns the stored sums into normalised currents and keeps their products with the inputs.
    pub fn keep_outer_products(&self, first: &mut [i32], second: &mut [i32], kept: &mut LayerKept) {
        let channels = self.layer.shape[2];
        let own = self.layer.connections.iter().position(|c| c.norm.is_some());
        if let (Some(k), Some(inner)) = (own, &mut kept.inner) {
            let mut normed = if k == 0 { first.to_vec() } else { second.to_vec() };
            let norm =
                Normalizer { factors: [inner.factor.clone(), vec![0.0; channels]], offset: inner.offset.clone(), ..Normalizer::default() };
            self.normalize(&norm, &mut normed, &[]);
            inner.outer = self.outer_products(&self.layer.connections[k], bytemuck::cast_slice(&normed));
        }
        let identity: Vec<i32>;
        let mut second: &[i32] = second;
        if self.has_second() && second.is_empty() {
            identity = self.identity_sums(first.len());
            second = &identity;
        }
        self.normalize(&kept.norm, first, second);
        let x = bytemuck::cast_slice(first);
        kept.outer = self.layer.connections.iter().map(|connection| self.outer_products(connection, x)).collect();
    }

    fn normalize(&self, norm: &Normalizer, first: &mut [i32], second: &[i32]) {
        let chunk = self.layer.positions() * self.position_len();
        let (isa, channels) = (self.network.isa, self.layer.shape[2]);
        first.par_chunks_mut(chunk).enumerate().for_each(|(b, first)| {
            let second = if second.is_empty() { second } else { &second[b * chunk..][..chunk] };
            normalize(isa, norm, self.is_real(), first, second, channels, self.stride);
            if self.network.bf16_products {
                first.iter_mut().for_each(|v| *v = bf16::from_f32(f32::from_bits(*v as u32)).to_f32().to_bits() as i32);
            }
        });
    }

    /// Sums of the second connection, an identity, for the whole batch.
    fn identity_sums(&self, len: usize) -> Vec<i32> {
        let mut sums = vec![0; len];
        let [_, width, _] = self.layer.shape;
        let positions = self.layer.positions();
        sums.par_chunks_mut(positions * self.position_len()).enumerate().for_each(|(b, sums)| {
            for (at, acc) in sums.chunks_exact_mut(self.position_len()).enumerate() {
                self.sums_at(1, &mut Default::default(), b, [at / width, at % width], acc);
            }
        });
        sums
    }

    /// `Σ_t x[t] ⊗ o[t]` of one connection over each slice of the batch, `[slices][tap][cin][cout]`; `x` is `[B][P][frames][stride]`. A
    /// static input counts T times.
    fn outer_products(&self, connection: &Connection, x: &[f32]) -> Vec<f32> {
        if matches!(connection.kind, Kind::Identity) {
            return Vec::new();
        }
        let geometry = &connection.geometry;
        let (cin, cout) = (geometry.cin, geometry.cout);
        let [height, width] = geometry.out();
        let sample = height * width * self.position_len();
        let slices = self.network.share.slices(x.len() / sample);
        let mut outer = vec![0.0; slices.len() * geometry.taps() * cin * cout];
        let pooled_width = geometry.pooled()[1];
        outer.par_chunks_mut(cin * cout).enumerate().for_each(|(at, outer)| {
            let ((_, samples), tap) = (&slices[at / geometry.taps()], at % geometry.taps());
            let (ky, kx) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
            // A sum a sample: adding a few large values to a few large ones rounds less than millions of small ones to a large one.
            let mut of_sample = vec![0.0f32; cin * cout];
            for (b, x) in x.chunks_exact(sample).enumerate().take(samples.end).skip(samples.start) {
                of_sample.fill(0.0);
                for (at, x) in x.chunks_exact(self.position_len()).enumerate() {
                    let Some(position) = geometry.tap_position(at / width, at % width, ky, kx) else { continue };
                    match connection.source {
                        Source::Layer(source) => {
                            let Some(spikes) = self.spikes(source) else { continue };
                            let value = self.network.spike_value(source, true) / geometry.area() as f32;
                            for_each_in_window(geometry, position / pooled_width, position % pooled_width, |position| {
                                let bits = spikes.position(b, position);
                                spike_outer(self.network.isa, bits, x, self.stride, value, cout, &mut of_sample);
                            });
                        }
                        Source::Input => self.input_outer(b, position, x, cout, &mut of_sample),
                    }
                }
                outer.iter_mut().zip(&of_sample).for_each(|(sum, v)| *sum += v);
            }
        });
        outer
    }

    fn input_outer(&self, b: usize, position: usize, x: &[f32], cout: usize, outer: &mut [f32]) {
        let copies = (self.network.time_steps / self.frames) as f32;
        let cin = outer.len() / cout;
        for (t, x) in x.chunks_exact(self.stride).enumerate() {
            let values = &self.input().frame(b, t)[position * cin..][..cin];
            for (&value, outer) in values.iter().zip(outer.chunks_exact_mut(cout)) {
                let value = if self.network.bf16_products { bf16::from_f32(value).to_f32() } else { value };
                add_scaled(self.network.isa, copies * value, &x[..cout], outer);
            }
        }
    }
}
