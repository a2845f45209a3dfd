//! Membrane potentials for people to look at. The engine never stores one; here they are computed again by a plain loop.

use super::currents::{Reader, Task};
use super::{Input, Network};
use crate::error::Result;
use crate::spikes::Spikes;

/// A neuron at one step of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub layer: usize,
    pub t: usize,
    /// Position within the batch, B·P.
    pub position: usize,
    pub channel: usize,
    /// After charging, before the reset, in units of the layer's threshold.
    pub potential: f32,
    pub fires: bool,
}

impl Network {
    /// Shows every neuron of the first `samples` samples at every step of an evaluation, on one thread. `spikes` are those of all
    /// layers, as [`Network::forward`] gives them in evaluation of `input`.
    ///
    /// # Errors
    /// [`crate::error::Error::ShapeMismatch`] if the input does not fit the network.
    pub fn potentials(&self, input: &Input, spikes: &[Option<Spikes>], samples: usize, mut show: impl FnMut(Moment)) -> Result<()> {
        self.check_input(input)?;
        let (leak, charge, alpha) = (self.neuron.leak(), self.neuron.charge(), self.neuron.alpha());
        for (index, layer) in self.firing_layers().enumerate() {
            let reader = Reader::new(self, index, input, spikes);
            let norm = self.running_normalizer(index);
            let threshold = self.threshold(layer);
            let (mut events, len) = (Default::default(), reader.position_len());
            let (mut first, mut second) = (vec![0i32; len], vec![0i32; len]);
            let [_, width, channels] = layer.shape;
            let mut potentials = vec![0.0f32; channels];
            for position in 0..samples.min(input.batch) * layer.positions() {
                let (b, at) = (position / layer.positions(), position % layer.positions());
                if at % width == 0 {
                    reader.list(&mut events, &Task { b, rows: at / width..at / width + 1 });
                }
                reader.sums_at(0, &mut events, b, [at / width, at % width], &mut first);
                if reader.has_second() {
                    reader.sums_at(1, &mut events, b, [at / width, at % width], &mut second);
                }
                potentials.fill(0.0);
                for t in 0..self.time_steps {
                    let row = if reader.frames == 1 { 0 } else { t } * reader.stride;
                    for (channel, potential) in potentials.iter_mut().enumerate() {
                        let sum = first[row + channel];
                        let x = if reader.is_real() { f32::from_bits(sum as u32) } else { sum as f32 };
                        let mut normed = norm.offset[channel];
                        if reader.has_second() {
                            normed = norm.factors[1][channel].mul_add(second[row + channel] as f32, normed);
                        }
                        normed = norm.factors[0][channel].mul_add(x, normed);
                        let current = norm.gamma[channel].mul_add(normed, norm.beta[channel]);
                        *potential = leak.mul_add(*potential, charge * current);
                        let fires = *potential >= alpha * threshold;
                        show(Moment { layer: index, t, position, channel, potential: *potential / threshold, fires });
                        *potential -= if fires { threshold } else { 0.0 };
                    }
                }
            }
        }
        Ok(())
    }
}
