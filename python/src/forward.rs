//! A call of a network: logits, rates and spikes of a batch, part by part.

use std::sync::Arc;

use dsr::Error;
use dsr::device::{Device, Gpu};
use dsr::network::Mode;
use dsr::spikes::Spikes;
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{listed, shaped};
use crate::device_array::DeviceArray;
use crate::errors::wrong;
use crate::network::Network;
use crate::threads;

/// What a forward pass gave.
#[pyclass(module = "dsr", frozen, get_all)]
pub struct Output {
    /// `[B, classes]` float32.
    logits: Py<PyArray2<f32>>,
    /// The same where the images were, on the device of the network; None for images of the host.
    logits_on_device: Option<Py<DeviceArray>>,
    /// Layer name to its mean firing rate over the samples: spikes per neuron and time step.
    rates: Py<PyDict>,
    /// Layer name to its spikes, `[T, B, C, H, W]` bool; only layers that were asked for.
    spikes: Py<PyDict>,
}

#[pymethods]
impl Output {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let shape: Vec<usize> = self.logits.getattr(py, "shape")?.extract(py)?;
        Ok(format!("dsr.Output(logits {shape:?}, {} rates, spikes of {} layers)", self.rates.bind(py).len(), self.spikes.bind(py).len()))
    }
}

/// Of one part of a batch.
struct Part {
    batch: usize,
    steps: usize,
    logits: Vec<f32>,
    rates: Vec<f32>,
    spikes: Vec<Vec<bool>>,
}

/// Evaluates images, `batch` at once; `spikes` says which layers' are wanted.
pub fn evaluate(
    net: &Network,
    py: Python<'_>,
    images: &Bound<'_, PyAny>,
    spikes: Option<&Bound<'_, PyAny>>,
    layout: &str,
    batch: usize,
) -> PyResult<Output> {
    threads::refuse_forked()?;
    if batch == 0 {
        return Err(wrong("batch", "at least one sample is computed at once"));
    }
    let samples = net.samples(py, images, layout)?;
    let total = samples.batch;
    let wanted = wanted(net, py, spikes)?;
    let room = |gpu: &Arc<Gpu>| {
        net.work(py, |engine| {
            samples.check(engine, net.card())?;
            gpu.given::<f32>(total * engine.classes)
        })
    };
    let on_device = samples.device().map(room).transpose()?;
    let mut parts: Vec<Part> = Vec::with_capacity(total.div_ceil(batch));
    for start in (0..total).step_by(batch) {
        let range = start..total.min(start.saturating_add(batch));
        parts.push(net.work(py, |engine| {
            samples.same_device(engine)?;
            if matches!(engine.device(), Device::Cuda(_)) {
                net.changes.end_pass(); // its buffers are those of every pass
            }
            let forward = engine.forward_of(&samples.part(range.clone()), Mode::Eval, |layer| wanted.contains(&layer))?;
            if let (Some(gpu), Some(whole)) = (samples.device(), &on_device) {
                let of_part = whole.slice().part(range.start * engine.classes..range.end * engine.classes);
                gpu.copy(engine.device_logits(range.len())?, of_part)?;
                gpu.synchronize()?;
            }
            let train = |&layer: &usize| forward.spikes.get(layer).and_then(Option::as_ref).map(Spikes::unpacked);
            let kept = || Error::shape("spikes", "those of every layer that was asked for", "some of them");
            let spikes = wanted.iter().map(train).collect::<Option<_>>().ok_or_else(kept)?;
            Ok(Part { batch: range.len(), steps: engine.time_steps, spikes, logits: forward.logits, rates: forward.rates })
        })?);
        py.check_signals()?;
    }
    let steps = parts[0].steps;
    if parts.iter().any(|part| part.steps != steps) {
        return Err(wrong("time_steps", "another thread has changed them during this call"));
    }
    // Not locked while objects are made: making them may run code of the caller.
    let (layers, classes) = {
        let engine = net.engine(py)?;
        let layers: Vec<_> = engine.layers.iter().map(|layer| (layer.name.clone(), layer.shape, layer.fires())).collect();
        (layers, engine.classes)
    };
    let rates = PyDict::new(py);
    for (index, (name, ..)) in layers.iter().enumerate().filter(|(_, (.., fires))| *fires) {
        // As `dsr eval` adds them up.
        let sum = parts.iter().fold(0.0, |sum, part| sum + f64::from(part.rates[index]) * part.batch as f64);
        rates.set_item(name, sum / total as f64)?;
    }
    let trains = PyDict::new(py);
    for (at, &index) in wanted.iter().enumerate() {
        let (name, [height, width, channels], _) = &layers[index];
        let shape = [steps, total, *channels, *height, *width];
        let fired = together(&mut parts, at, steps);
        trains.set_item(name, shaped(py, &shape, fired)?)?;
    }
    let logits: Vec<f32> = parts.iter().flat_map(|part| &part.logits).copied().collect();
    let logits = shaped(py, &[total, classes], logits)?.cast_into::<PyArray2<f32>>()?;
    let shape = [total, classes];
    let on_device = on_device.zip(samples.device()).map(|(memory, gpu)| Py::new(py, DeviceArray::new(memory, shape, gpu.ordinal())));
    let logits_on_device = on_device.transpose()?;
    Ok(Output { logits: logits.unbind(), logits_on_device, rates: rates.unbind(), spikes: trains.unbind() })
}

/// Indices of the layers whose spikes are asked for.
fn wanted(net: &Network, py: Python<'_>, spikes: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<usize>> {
    let Some(spikes) = spikes else { return Ok(Vec::new()) };
    // All of the caller's own code runs before the network is locked: it may use the network.
    let is_wanted = spikes.is_truthy()?;
    let all = spikes.extract::<bool>().ok();
    let names: Vec<String> = match (all, spikes.extract::<String>()) {
        (Some(_), _) => Vec::new(),
        (None, Ok(name)) => vec![name],
        (None, Err(_)) => {
            let name = |item: &Bound<'_, PyAny>| item.extract().map_err(|_| wrong("spikes", "give True, or names of layers"));
            listed("spikes", spikes, name)?
        }
    };
    let engine = net.engine(py)?;
    if is_wanted && engine.neuron.is_real() {
        return Err(wrong("spikes", "an ANN has none"));
    }
    if let Some(all) = all {
        let firing = (0..engine.layers.len()).filter(|&index| engine.layers[index].fires());
        return Ok(if all { firing.collect() } else { Vec::new() });
    }
    let place = |name: &String| {
        let at = engine.layers.iter().position(|layer| layer.fires() && layer.name == *name);
        at.ok_or_else(|| {
            let known: Vec<&str> = engine.firing_layers().map(|layer| layer.name.as_str()).collect();
            wrong("spikes", format!("there is no layer '{name}'; there are {}", known.join(", ")))
        })
    };
    names.iter().map(place).collect()
}

/// The spikes of one layer of all parts, `[T][B][C][H][W]`.
fn together(parts: &mut [Part], at: usize, steps: usize) -> Vec<bool> {
    if let [part] = parts {
        return std::mem::take(&mut part.spikes[at]);
    }
    let of_step = |t: usize| {
        parts.iter().flat_map(move |part| &part.spikes[at][part.spikes[at].len() / steps * t..][..part.spikes[at].len() / steps])
    };
    (0..steps).flat_map(of_step).copied().collect()
}
