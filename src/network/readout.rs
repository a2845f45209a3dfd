//! What the logits are: the representation of spiking output neurons, or the mean current of the linear layer itself.
//!
//! With few time steps a spiking output has few values: T + 1 for a logit, and as many for each pooled feature before it. A readout by
//! current spikes neither behind the pool nor at the output: the linear layer reads the spikes in each window of the pool, and the
//! logits are its (for LIF: weighted) mean current behind the last batch norm. Its gradient is that of a clamp mapping without ends.
//! It has no thresholds, and after step t it is what a run of t steps has.

use rayon::prelude::*;

use super::currents::{Reader, Task};
use super::{Builder, Connection, Forward, Input, Kind, Network, Source, SpikingLayer};
use crate::error::{Error, Result};

/// What the logits are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readout {
    /// The representation of spiking output neurons, as in the paper.
    #[default]
    Spikes,
    /// The mean current of the linear layer.
    Current,
}

/// Behind the name of a layer without neurons.
const READOUT: &str = " (readout)";

impl SpikingLayer {
    /// The name that its neurons have in the reference, or would have.
    pub fn neuron_name(&self) -> &str {
        self.name.strip_suffix(READOUT).unwrap_or(&self.name)
    }

    /// Whether it has neurons; the last layer of a readout by current has none.
    pub fn fires(&self) -> bool {
        self.threshold.is_some()
    }
}

impl Builder {
    /// Turns the readout of a network that has been put together into one by current: no neurons at the output, and none behind a pool
    /// in front of it.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the last layer does not read one earlier layer.
    pub fn read_current(mut self) -> Result<Builder> {
        let unfit = || Error::shape("a readout by current", "a last layer that reads one earlier layer", "another");
        let mut last = self.layers.pop().ok_or_else(unfit)?;
        let [Connection { source: Source::Layer(before), .. }] = last.connections[..] else { return Err(unfit()) };
        let mut gone: Vec<usize> = last.threshold.take().into_iter().collect();
        let pool = match &self.layers[before] {
            SpikingLayer { connections, norm: None, .. } if before + 1 == self.layers.len() => match &connections[..] {
                [pool @ Connection { kind: Kind::Identity, source: Source::Layer(_), .. }] => Some(pool.clone()),
                _ => None,
            },
            _ => None,
        };
        let to = &mut last.connections[0];
        if let Some(pool) = pool.filter(|_| !to.geometry.is_pooled()) {
            (to.source, to.geometry.source, to.geometry.pool) = (pool.source, pool.geometry.source, pool.geometry.pool);
            gone.extend(self.layers.pop().and_then(|layer| layer.threshold));
        }
        last.name += READOUT;
        self.layers.push(last);
        self.without_parameters(&gone);
        Ok(self)
    }
}

impl Network {
    /// What the logits are.
    pub fn readout(&self) -> Readout {
        if self.layers.last().is_some_and(SpikingLayer::fires) { Readout::Spikes } else { Readout::Current }
    }

    /// The layers that have neurons.
    pub fn firing_layers(&self) -> impl Iterator<Item = &SpikingLayer> {
        self.layers.iter().filter(|layer| layer.fires())
    }

    /// Logits after each step of an evaluation, `[B][T][classes]`: those that a run of as many steps has, bit for bit. For a readout by
    /// current; `forward` is of `input` and has kept the spikes of the layer that the readout reads.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the spikes are not there, or if the output neurons spike.
    pub fn currents_by_step(&self, input: &Input, forward: &Forward) -> Result<Vec<f32>> {
        let last = self.layers.len() - 1;
        let unfit = |what: &str| Error::shape("logits after each step", "a readout by current and the spikes that it reads", what);
        let [Connection { source: Source::Layer(before), .. }] = self.layers[last].connections[..] else {
            return Err(unfit("another layer"));
        };
        if self.readout() == Readout::Spikes || forward.spikes.get(before).is_none_or(Option::is_none) {
            return Err(unfit("none"));
        }
        let norm = self.running_normalizer(last);
        let (steps, classes) = (self.time_steps, self.classes);
        let weights: Vec<Vec<f32>> = (1..=steps).map(|t| self.neuron.step_weights(t)).collect();
        let is_weighted = matches!(self.neuron, crate::ops::neuron::Neuron::Lif { .. });
        let mut logits = vec![0.0f32; input.batch * steps * classes];
        logits.par_chunks_mut(steps * classes).enumerate().for_each(|(b, logits)| {
            let reader = Reader::new(self, last, input, &forward.spikes);
            let (mut events, mut sums) = (Default::default(), vec![0i32; reader.position_len()]);
            reader.list(&mut events, &Task { b, rows: 0..1 });
            reader.sums_at(0, &mut events, b, [0, 0], &mut sums);
            let mut normed = vec![0.0f32; steps];
            for class in 0..classes {
                for (normed, row) in normed.iter_mut().zip(sums.chunks_exact(reader.stride)) {
                    *normed = norm.factors[0][class].mul_add(row[class] as f32, norm.offset[class]);
                }
                for t in 1..=steps {
                    let mean = if is_weighted {
                        weights[t - 1].iter().zip(&normed).fold(0.0f32, |sum, (&weight, &x)| weight.mul_add(x, sum))
                    } else {
                        normed[..t].iter().fold(0.0f32, |sum, &x| sum + x) / t as f32
                    };
                    logits[(t - 1) * classes + class] = norm.gamma[class].mul_add(mean, norm.beta[class]);
                }
            }
        });
        Ok(logits)
    }
}
