//! Reads a golden file: tensors by name, converted to the engine's order, and the settings of the case.

use std::io::Read;
use std::path::Path;

use dsr::device::Device;
use dsr::network::Network;
use dsr::ops::neuron::Neuron;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Layers whose name starts like this are of the test's own making; no file knows them.
pub const OWN: &str = "own.";

pub struct Case {
    pub name: String,
    bytes: Vec<u8>,
    pub meta: Value,
    /// Where the networks of the case run.
    pub device: Device,
}

/// Name of the case that a file holds: without `.safetensors`, `.safetensors.gz` or `.json`.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().split('.').next().unwrap().to_string()
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

/// A tensor in the file's order.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Case {
    pub fn open(path: &Path, device: &Device) -> Case {
        let mut bytes = std::fs::read(path).unwrap();
        if path.extension().is_some_and(|e| e == "gz") {
            bytes = unpacked(&bytes);
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().as_ref().and_then(|m| m.get("meta")).map_or("{}", String::as_str);
        let meta = serde_json::from_str(meta).unwrap();
        Case { name: name(path), bytes, meta, device: device.clone() }
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file().names().iter().map(|n| n.to_string()).collect();
        names.sort();
        names
    }

    /// Names below `prefix`, without it.
    pub fn below(&self, prefix: &str) -> Vec<String> {
        self.names().iter().filter_map(|n| n.strip_prefix(prefix).map(str::to_string)).collect()
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub fn tensor(&self, name: &str) -> Tensor {
        let file = self.file();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.name));
        let bytes = view.data();
        let data = match view.dtype() {
            Dtype::F64 => bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
            Dtype::I64 => bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            Dtype::U8 => bytes.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("{}: {name}: {other:?}", self.name),
        };
        Tensor { shape: view.shape().to_vec(), data }
    }

    pub fn number(&self, key: &str) -> f64 {
        self.meta[key].as_f64().unwrap_or_else(|| panic!("{}: meta.{key}", self.name))
    }

    pub fn size(&self, key: &str) -> usize {
        self.number(key) as usize
    }

    pub fn sizes(&self, key: &str) -> Vec<usize> {
        let list = self.meta[key].as_array().unwrap_or_else(|| panic!("{}: meta.{key}", self.name));
        list.iter().map(|v| v.as_u64().unwrap() as usize).collect()
    }

    pub fn neuron(&self) -> Neuron {
        let number = |key: &str| self.number(key) as f32;
        match self.meta["kind"].as_str() {
            Some("if") => Neuron::If { alpha: number("alpha") },
            Some("lif") => Neuron::Lif { alpha: number("alpha"), tau: number("tau"), delta_t: number("delta_t") },
            other => panic!("{}: kind {other:?}", self.name),
        }
    }

    /// Loads all parameters and buffers under `prefix`; every one of the network must be there, except what a test added under [`OWN`].
    pub fn load(&self, network: &mut Network, prefix: &str) {
        for index in (0..network.parameters.len()).filter(|&i| !network.parameters[i].name.starts_with(OWN)).collect::<Vec<_>>() {
            let tensor = self.tensor(&format!("{prefix}{}", network.parameters[index].name));
            assert_eq!(tensor.shape, network.parameters[index].shape, "{}: {}", self.name, network.parameters[index].name);
            network.set_parameter(index, &tensor.f32());
        }
        for norm in network.norms.iter_mut().filter(|n| !n.name.starts_with(OWN)) {
            norm.running_mean = self.tensor(&format!("{prefix}{}.running_mean", norm.name)).f32();
            norm.running_var = self.tensor(&format!("{prefix}{}.running_var", norm.name)).f32();
        }
        network.place(&self.device).unwrap();
    }

    /// What a gradient may be off by, as a share of its length. Products of gradients have bf16 operands on a CUDA device, 8 bits of
    /// precision: about 1 %. How close the device comes to exactly these operands is for `network_cuda` to say.
    pub fn gradient_tolerance(&self, on_cpu: f64) -> f64 {
        if matches!(self.device, Device::Cpu) { on_cpu } else { on_cpu.max(0.03) }
    }

    /// The length that a gradient's difference is a share of: its own. A threshold's is one number, a sum of terms of both signs that may
    /// nearly cancel, which leaves bf16 operands nothing to hold on to: on a CUDA device all thresholds are taken together.
    pub fn gradient_length(&self, name: &str, prefix: &str) -> f64 {
        let names = self.below(prefix);
        let is_one = |other: &String| *other == name;
        let is_threshold = |other: &String| other.ends_with("Vth");
        let together = !matches!(self.device, Device::Cpu) && name.ends_with("Vth");
        let among = names.iter().filter(|other| if together { is_threshold(other) } else { is_one(other) });
        among.flat_map(|other| self.tensor(&format!("{prefix}{other}")).data).map(|v| v * v).sum::<f64>().sqrt()
    }

    /// Spikes `[T][B][P][C]` of a neuron from NumPy's packed bits over `[T·B, C, H, W]`.
    pub fn spikes(&self, name: &str, rows: usize, shape: [usize; 3]) -> Vec<bool> {
        let packed = self.tensor(name);
        let [height, width, channels] = shape;
        let len = rows * height * width * channels;
        assert_eq!(packed.data.len(), len.div_ceil(8), "{}: {name}", self.name);
        let bit = |i: usize| (packed.data[i / 8] as u8) >> (7 - i % 8) & 1 == 1;
        let mut out = Vec::with_capacity(len);
        for row in 0..rows {
            for position in 0..height * width {
                for c in 0..channels {
                    out.push(bit((row * channels + c) * height * width + position));
                }
            }
        }
        out
    }
}

impl Tensor {
    pub fn f32(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32).collect()
    }

    /// From `[N, C, …]` to `[N][P][C]`.
    pub fn channels_last(&self) -> Vec<f64> {
        let (rows, channels) = (self.shape[0], self.shape[1]);
        let positions: usize = self.shape[2..].iter().product();
        let mut out = Vec::with_capacity(self.data.len());
        for row in 0..rows {
            for position in 0..positions {
                out.extend((0..channels).map(|c| self.data[(row * channels + c) * positions + position]));
            }
        }
        out
    }
}

/// `Σ_t w_t x[t]` of `[T][n]`, in f64.
pub fn representation(neuron: Neuron, values: &[f64], time_steps: usize) -> Vec<f64> {
    let len = values.len() / time_steps;
    let weights = neuron.step_weights(time_steps);
    (0..len).map(|i| (0..time_steps).map(|t| f64::from(weights[t]) * values[t * len + i]).sum()).collect()
}

/// Norm of the difference over the norm of what was expected.
pub fn distance(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = expected.iter().map(|v| v * v).sum::<f64>().sqrt();
    let difference = got.iter().zip(expected).map(|(&g, e)| (f64::from(g) - e).powi(2)).sum::<f64>().sqrt();
    if difference == 0.0 { 0.0 } else { difference / norm.max(1e-30) }
}
