//! The forward pass as its definition has it: dense convolutions and plain loops over steps, samples, positions and channels;
//! no bits, no events, no threads. Shares with the engine only the description of the network and `quantize`.

use dsr::device::Isa;
use dsr::network::{Connection, Input, Kind, Network, Source};
use dsr::ops::batch_norm::EPS;
use dsr::ops::neuron::Neuron;
use dsr::ops::spike_conv::{Geometry, QuantizedWeights};

pub struct Plain {
    /// Spikes of each layer, `[T][B][P][C]`.
    pub spikes: Vec<Vec<bool>>,
    /// `[B][classes]`.
    pub logits: Vec<f64>,
    /// Batch statistics of each norm: mean and unbiased variance; empty in evaluation.
    pub statistics: Vec<[Vec<f64>; 2]>,
}

/// Per-channel constants of a layer: `x̂ = factor₀·s₀ + (factor₁·s₁ + offset)`, current = `γ·x̂ + β`.
struct Constants {
    factors: [Vec<f32>; 2],
    offset: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

pub fn forward(network: &Network, input: &Input, training: bool) -> Plain {
    let mut plain = Plain { spikes: Vec::new(), logits: Vec::new(), statistics: vec![[Vec::new(), Vec::new()]; network.norms.len()] };
    for index in 0..network.layers.len() {
        let layer = &network.layers[index];
        let channels = layer.shape[2];
        let mut sums = Vec::new();
        let mut units = Vec::new();
        for connection in &layer.connections {
            let (sum, unit) = connection_sums(network, connection, input, &plain.spikes);
            sums.push(sum);
            units.push(unit);
        }
        let constants = constants(network, index, &sums, units, training.then_some(&mut plain.statistics));
        let neurons = sums[0].len() / network.time_steps;
        let mut spikes = vec![false; sums[0].len()];
        let mut currents = vec![0.0; neurons];
        let shares = shares(network);
        let threshold = network.threshold(layer);
        let (leak, charge, fire_at) = (network.neuron.leak(), network.neuron.charge(), network.neuron.alpha() * threshold);
        for n in 0..neurons {
            let c = n % channels;
            let mut potential = 0.0f32;
            for t in 0..network.time_steps {
                let mut normed = constants.offset[c];
                if let Some(second) = sums.get(1) {
                    normed = constants.factors[1][c].mul_add(second[t * neurons + n] as f32, normed);
                }
                normed = constants.factors[0][c].mul_add(sums[0][t * neurons + n] as f32, normed);
                let current = constants.gamma[c].mul_add(normed, constants.beta[c]);
                currents[n] += shares[t] * f64::from(current);
                potential = leak.mul_add(potential, charge * current);
                spikes[t * neurons + n] = potential >= fire_at;
                if potential >= fire_at {
                    potential -= threshold;
                }
            }
        }
        plain.spikes.push(spikes);
        plain.logits = currents;
    }
    if network.layers.last().unwrap().fires() {
        plain.logits = logits(network, plain.spikes.last().unwrap());
    }
    plain
}

/// Sums of a connection `[T][B][P][C]`, exact in f64 (integers, or f32 from a real input), and the value of one unit per channel.
fn connection_sums(network: &Network, connection: &Connection, input: &Input, spikes: &[Vec<bool>]) -> (Vec<f64>, Vec<f64>) {
    let geometry = &connection.geometry;
    let Geometry { cin, cout, .. } = *geometry;
    let master = effective_weights(network, connection);
    let (time_steps, batch, positions) = (network.time_steps, input.batch, geometry.positions());
    let mut sums = Vec::with_capacity(time_steps * batch * positions * cout);
    let Source::Layer(source) = connection.source else {
        let frame: usize = network.input.iter().product();
        for (t, b) in (0..time_steps).flat_map(|t| (0..batch).map(move |b| (t, b))) {
            let t = if input.frames == 1 { 0 } else { t };
            let frame = &input.data[(b * input.frames + t) * frame..][..frame];
            for position in 0..positions {
                let Some(master) = &master else {
                    sums.extend(frame[position * cin..][..cin].iter().map(|&v| f64::from(v)));
                    continue;
                };
                let mut x = vec![0.0f32; cout];
                for (tap, from) in receptive_field(geometry, position) {
                    for (c, o) in (0..cin).flat_map(|c| (0..cout).map(move |o| (c, o))) {
                        x[o] = frame[from * cin + c].mul_add(master[(tap * cin + c) * cout + o], x[o]);
                    }
                }
                sums.extend(x.iter().map(|&v| f64::from(v)));
            }
        }
        return (sums, vec![1.0; cout]);
    };
    let value = f64::from(network.neuron.spike_value(network.threshold(&network.layers[source]))) / geometry.area() as f64;
    let mut weights = QuantizedWeights::default();
    if let Some(master) = &master {
        weights.quantize(Isa::Portable, master, cout, network.weight_bits, geometry.area());
    }
    let sample: usize = geometry.source.iter().product::<usize>() * cin;
    for (t, b) in (0..time_steps).flat_map(|t| (0..batch).map(move |b| (t, b))) {
        let pooled = pool(geometry, &spikes[source][(t * batch + b) * sample..][..sample]);
        for position in 0..positions {
            let mut sum = vec![0i64; cout];
            if master.is_none() {
                sum.copy_from_slice(&pooled[position * cin..][..cin]);
            }
            for (tap, from) in receptive_field(geometry, position).into_iter().filter(|_| master.is_some()) {
                for c in (0..cin).filter(|c| pooled[from * cin + c] != 0) {
                    let count = pooled[from * cin + c];
                    sum.iter_mut().enumerate().for_each(|(o, sum)| *sum += count * i64::from(weights.integer(tap * cin + c, o)));
                }
            }
            sums.extend(sum.iter().map(|&v| v as f64));
        }
    }
    let unit = (0..cout).map(|o| value * weights.scale.get(o).map_or(1.0, |&s| f64::from(s))).collect();
    (sums, unit)
}

/// Taps that do not fall into the padding, with the pooled position that each reads.
fn receptive_field(geometry: &Geometry, position: usize) -> Vec<(usize, usize)> {
    let [height, width] = geometry.source.map(|n| (n + 2 * geometry.pool[2] - geometry.pool[0]) / geometry.pool[1] + 1);
    let out_width = (width + 2 * geometry.pad - geometry.kernel[1]) / geometry.stride + 1;
    let (y, x) = (position / out_width * geometry.stride, position % out_width * geometry.stride);
    let mut field = Vec::new();
    for (ky, kx) in (0..geometry.kernel[0]).flat_map(|ky| (0..geometry.kernel[1]).map(move |kx| (ky, kx))) {
        let inside = (geometry.pad..height + geometry.pad).contains(&(y + ky)) && (geometry.pad..width + geometry.pad).contains(&(x + kx));
        if inside {
            field.push((ky * geometry.kernel[1] + kx, (y + ky - geometry.pad) * width + x + kx - geometry.pad));
        }
    }
    field
}

/// Spikes in each pool window of one sample and step, `[P_pooled][C]`.
fn pool(geometry: &Geometry, spikes: &[bool]) -> Vec<i64> {
    let [height, width] = geometry.source;
    let [window, stride, pad] = geometry.pool;
    let [pooled_height, pooled_width] = [height, width].map(|n| (n + 2 * pad - window) / stride + 1);
    let mut counts = vec![0; pooled_height * pooled_width * geometry.cin];
    for (y, x) in (0..pooled_height).flat_map(|y| (0..pooled_width).map(move |x| (y, x))) {
        for (iy, ix) in (0..window).flat_map(|iy| (0..window).map(move |ix| (y * stride + iy, x * stride + ix))) {
            if (pad..height + pad).contains(&iy) && (pad..width + pad).contains(&ix) {
                for c in 0..geometry.cin {
                    let spike = spikes[((iy - pad) * width + ix - pad) * geometry.cin + c];
                    counts[(y * pooled_width + x) * geometry.cin + c] += i64::from(spike);
                }
            }
        }
    }
    counts
}

/// `[tap][cin][cout]` from PyTorch's order; taps that read copies of the same position are summed.
fn effective_weights(network: &Network, connection: &Connection) -> Option<Vec<f32>> {
    let Kind::Conv { weight, .. } = connection.kind else { return None };
    let Geometry { cin, cout, .. } = connection.geometry;
    let (taps, copies) = (connection.geometry.taps(), connection.replicate);
    let torch = network.in_torch_order(weight, &network.values);
    let mut weights = Vec::new();
    for (tap, c, o) in (0..taps).flat_map(|tap| (0..cin).flat_map(move |c| (0..cout).map(move |o| (tap, c, o)))) {
        let copy = |k: usize| f64::from(torch[(o * cin + c) * taps * copies + k * taps + tap]);
        weights.push((0..copies).map(copy).sum::<f64>() as f32);
    }
    Some(weights)
}

fn constants(
    network: &Network,
    index: usize,
    sums: &[Vec<f64>],
    mut units: Vec<Vec<f64>>,
    statistics: Option<&mut Vec<[Vec<f64>; 2]>>,
) -> Constants {
    let layer = &network.layers[index];
    let channels = layer.shape[2];
    let (mut constant, mut no_statistics) = (vec![0.0f64; channels], Vec::new());
    let training = statistics.is_some();
    let statistics = statistics.unwrap_or(&mut no_statistics);
    let rows = sums[0].len() / channels;
    for (k, connection) in layer.connections.iter().enumerate() {
        let bias = match connection.kind {
            Kind::Conv { bias: Some(bias), .. } => network.value(bias).to_vec(),
            _ => vec![0.0; channels],
        };
        for c in 0..channels {
            let Some(norm) = connection.norm.map(|norm| &network.norms[norm]) else {
                constant[c] += f64::from(bias[c]);
                continue;
            };
            let (mut mean, mut var) = (f64::from(norm.running_mean[c]) - f64::from(bias[c]), f64::from(norm.running_var[c]));
            if training {
                (mean, var) = mean_and_variance((0..rows).map(|r| units[k][c] * sums[k][r * channels + c]));
                let [means, vars] = &mut statistics[connection.norm.unwrap()];
                means.push(mean + f64::from(bias[c]));
                vars.push(var * rows as f64 / (rows as f64 - 1.0).max(1.0));
            }
            let scale = f64::from(network.value(norm.weight)[c]) / (var + EPS).sqrt();
            constant[c] += f64::from(network.value(norm.bias)[c]) - scale * mean;
            units[k][c] *= scale;
        }
    }
    units.resize(2, vec![0.0; channels]);
    let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let Some(norm_index) = layer.norm else {
        let [first, second] = [units[0].clone(), units[1].clone()].map(narrow);
        return Constants { factors: [first, second], offset: narrow(constant), gamma: vec![1.0; channels], beta: vec![0.0; channels] };
    };
    let norm = &network.norms[norm_index];
    let (mut factors, mut offset) = ([Vec::new(), Vec::new()], Vec::new());
    for c in 0..channels {
        let (mut mean, mut var) = (f64::from(norm.running_mean[c]) - constant[c], f64::from(norm.running_var[c]));
        if training {
            let second = |r: usize| sums.get(1).map_or(0.0, |sum| units[1][c] * sum[r * channels + c]);
            (mean, var) = mean_and_variance((0..rows).map(|r| units[0][c] * sums[0][r * channels + c] + second(r)));
            let [means, vars] = &mut statistics[norm_index];
            means.push(mean + constant[c]);
            vars.push(var * rows as f64 / (rows as f64 - 1.0).max(1.0));
        }
        let inv = 1.0 / (var + EPS).sqrt();
        (0..2).for_each(|k| factors[k].push((inv * units[k][c]) as f32));
        offset.push((-inv * mean) as f32);
    }
    Constants { factors, offset, gamma: network.value(norm.weight).to_vec(), beta: network.value(norm.bias).to_vec() }
}

/// Two passes over the values of one channel; the variance is biased.
fn mean_and_variance(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (mean, values.map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

/// Share of each step in a representation.
fn shares(network: &Network) -> Vec<f64> {
    let decay = match network.neuron {
        Neuron::If { .. } | Neuron::Relu => 0.0,
        Neuron::Lif { tau, delta_t, .. } => f64::from(delta_t) / f64::from(tau),
    };
    let weights: Vec<f64> = (1..=network.time_steps).map(|t| (-decay * (network.time_steps - t) as f64).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Representation of the last layer: the (weighted) mean over time of what its spikes are worth.
fn logits(network: &Network, spikes: &[bool]) -> Vec<f64> {
    let layer = network.layers.last().unwrap();
    let value = f64::from(network.neuron.spike_value(network.threshold(layer)));
    let shares = shares(network);
    let len = spikes.len() / network.time_steps;
    let fired = |n: usize, t: usize| if spikes[t * len + n] { shares[t] } else { 0.0 };
    (0..len).map(|n| value * (0..network.time_steps).map(|t| fired(n, t)).sum::<f64>()).collect()
}
