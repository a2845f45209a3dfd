//! The network as an ANN by its definition: f64, dense loops, no threads. Shares with the engine only the description of the network
//! and the masks of dropout.

use dsr::network::{Connection, Input, Kind, Network, Source};
use dsr::ops::batch_norm::EPS;
use dsr::ops::dropout::draw_dropped;
use dsr::ops::spike_conv::Geometry;

/// Outputs of each layer, `[B][P][C]`, of parameters `values` (the arena) and input `data`. With a seed it is a forward pass in
/// training: statistics of the batch and dropout; without one, running statistics.
pub fn outputs(network: &Network, values: &[f64], data: &[f64], batch: usize, seed: Option<u64>) -> Vec<Vec<f64>> {
    let mut outputs: Vec<Vec<f64>> = Vec::new();
    for (index, layer) in network.layers.iter().enumerate() {
        let channels = layer.shape[2];
        let mut current = vec![0.0; batch * layer.neurons()];
        for connection in &layer.connections {
            let mut x = connection_current(network, connection, values, data, &outputs, batch);
            if let Some(norm) = connection.norm {
                normalize(network, norm, values, &mut x, channels, seed.is_some());
            }
            current.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
        }
        if let Some(norm) = layer.norm {
            normalize(network, norm, values, &mut current, channels, seed.is_some());
        }
        if layer.fires() {
            current.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        let mut dropped = Vec::new();
        draw_dropped(&mut dropped, seed.unwrap_or(0), index, 0, [batch, layer.positions(), channels], layer.dropout);
        if seed.is_some() && !dropped.is_empty() {
            for (n, value) in current.iter_mut().enumerate() {
                let word = dropped[n / channels * channels.div_ceil(32) + n % channels / 32];
                *value *= if word >> (n % channels % 32) & 1 == 1 { 0.0 } else { 1.0 / (1.0 - f64::from(layer.dropout)) };
            }
        }
        outputs.push(current);
    }
    outputs
}

/// Mean cross-entropy of a training pass.
pub fn loss(network: &Network, values: &[f64], data: &[f64], labels: &[u32], seed: u64) -> f64 {
    let outputs = outputs(network, values, data, labels.len(), Some(seed));
    let of_sample = |(logits, &label): (&[f64], &u32)| {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + logits.iter().map(|v| (v - largest).exp()).sum::<f64>().ln() - logits[label as usize]
    };
    outputs.last().unwrap().chunks_exact(network.classes).zip(labels).map(of_sample).sum::<f64>() / labels.len() as f64
}

/// Values and data in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

pub fn data_of(input: &Input) -> Vec<f64> {
    assert_eq!(input.frames, 1);
    wide(input.data)
}

fn connection_current(
    network: &Network,
    connection: &Connection,
    values: &[f64],
    data: &[f64],
    outputs: &[Vec<f64>],
    batch: usize,
) -> Vec<f64> {
    let geometry = &connection.geometry;
    let source = match connection.source {
        Source::Input => data,
        Source::Layer(source) => &outputs[source],
    };
    let parameter = |index: usize| &values[network.parameters[index].start..][..network.parameters[index].len];
    let Geometry { cin, cout, stride, pad, kernel, .. } = *geometry;
    let mut all = Vec::new();
    for sample in source.chunks_exact(source.len() / batch) {
        let (pooled, [height, width]) = pool(geometry, sample);
        let Kind::Conv { weight, bias } = connection.kind else {
            all.extend(pooled);
            continue;
        };
        let (weights, taps) = (parameter(weight), kernel[0] * kernel[1]);
        let side = |n: usize, k: usize| (n + 2 * pad - k) / stride + 1;
        for (y, x) in (0..side(height, kernel[0])).flat_map(|y| (0..side(width, kernel[1])).map(move |x| (y, x))) {
            let mut sum = bias.map_or(vec![0.0; cout], |bias| parameter(bias).to_vec());
            for tap in 0..taps {
                let (row, column) = (y * stride + tap / kernel[1], x * stride + tap % kernel[1]);
                if !(pad..height + pad).contains(&row) || !(pad..width + pad).contains(&column) {
                    continue;
                }
                let from = ((row - pad) * width + column - pad) * cin;
                for (copy, c) in (0..connection.replicate).flat_map(|copy| (0..cin).map(move |c| (copy, c))) {
                    let weights = &weights[((copy * taps + tap) * cin + c) * cout..][..cout];
                    sum.iter_mut().zip(weights).for_each(|(sum, w)| *sum += pooled[from + c] * w);
                }
            }
            all.extend(sum);
        }
    }
    all
}

/// Means in the windows of the pool, padding counted, and the size of the result.
fn pool(geometry: &Geometry, sample: &[f64]) -> (Vec<f64>, [usize; 2]) {
    let ([height, width], [window, stride, pad], cin) = (geometry.source, geometry.pool, geometry.cin);
    let size = [height, width].map(|n| (n + 2 * pad - window) / stride + 1);
    let mut means = vec![0.0; size[0] * size[1] * cin];
    for (at, means) in means.chunks_exact_mut(cin).enumerate() {
        let (top, left) = (at / size[1] * stride, at % size[1] * stride);
        for (y, x) in (top..top + window).flat_map(|y| (left..left + window).map(move |x| (y, x))) {
            if (pad..height + pad).contains(&y) && (pad..width + pad).contains(&x) {
                let values = &sample[((y - pad) * width + x - pad) * cin..][..cin];
                means.iter_mut().zip(values).for_each(|(mean, v)| *mean += v / (window * window) as f64);
            }
        }
    }
    (means, size)
}

fn normalize(network: &Network, norm: usize, values: &[f64], x: &mut [f64], channels: usize, training: bool) {
    let state = &network.norms[norm];
    let parameter = |index: usize, c: usize| values[network.parameters[index].start + c];
    let rows = (x.len() / channels) as f64;
    for c in 0..channels {
        let (mut mean, mut var) = (f64::from(state.running_mean[c]), f64::from(state.running_var[c]));
        if training {
            mean = x.iter().skip(c).step_by(channels).sum::<f64>() / rows;
            var = x.iter().skip(c).step_by(channels).map(|v| (v - mean).powi(2)).sum::<f64>() / rows;
        }
        let scale = parameter(state.weight, c) / (var + EPS).sqrt();
        x.iter_mut().skip(c).step_by(channels).for_each(|v| *v = scale * (*v - mean) + parameter(state.bias, c));
    }
}
