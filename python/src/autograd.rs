//! What `dsr.torch` is made of: forward and backward apart, for a loss of the caller's own.

use std::sync::Arc;

use dsr::device::Gpu;
use dsr::network::{LogitsGradient, Mode};
use dsr::ops::augment::{Strided, strided_not_finite};
use dsr::training::dropout_seed;
use dsr::{Error, Network as Engine};
use numpy::PyArrayDyn;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::arrays::{self, shaped};
use crate::device_array::DeviceArray;
use crate::errors::wrong;
use crate::lent::{self, Lent, Values};
use crate::network::Network;

const OTHER_WORK: &str = "dsr: the network has done other work since this forward pass in training mode, so its gradients are gone: \
                          backward is of the last forward pass in training mode only, once: call it before the next one, a training step, \
                          a change of the network and, on a CUDA device, an evaluation";

const NAME: &str = "grad_logits";

type Array<'py> = Bound<'py, PyArrayDyn<f32>>;

/// A forward pass in training mode: logits `[B, classes]`, where the images were if that is the device of the network; the firing rate of
/// every layer; and a number that no other pass has.
pub fn forward<'py>(
    net: &Network,
    py: Python<'py>,
    images: &Bound<'_, PyAny>,
    seed: u64,
    layout: &str,
) -> PyResult<(Bound<'py, PyAny>, Vec<f32>, u64)> {
    let samples = net.samples(py, images, layout)?;
    let gradient = net.gradient();
    let seed = dropout_seed(net.seed(), seed);
    let (logits, on_device, rates, classes, number) = net.work(py, |engine| {
        samples.check(engine, net.card())?;
        let mode = Mode::Train { gradient, seed };
        let number = net.changes.count();
        let forward = engine.forward_of(&samples.all(), mode, |_| false)?;
        net.changes.begin_pass(number);
        let mut on_device = None;
        if let Some(gpu) = samples.device() {
            let memory = gpu.given::<f32>(forward.logits.len())?;
            gpu.copy(engine.device_logits(samples.batch)?, memory.slice())?;
            gpu.synchronize()?;
            on_device = Some(DeviceArray::new(memory, [samples.batch, engine.classes], gpu.ordinal()));
        }
        Ok((forward.logits, on_device, forward.rates, engine.classes, number))
    })?;
    net.note_silence(py, &rates, samples.batch)?;
    let logits = match on_device {
        Some(array) => Bound::new(py, array)?.into_any(),
        None => shaped(py, &[samples.batch, classes], logits)?.into_any(),
    };
    Ok((logits, rates, number))
}

/// Gradients of all trainable tensors, and of the images, `[B, H, W, C]`, of the pass of this number.
pub fn backward<'py>(
    net: &Network,
    py: Python<'py>,
    images: &Bound<'_, PyAny>,
    grad_logits: &Bound<'_, PyAny>,
    number: u64,
    layout: &str,
) -> PyResult<(Vec<Array<'py>>, Array<'py>)> {
    let samples = net.samples(py, images, layout)?;
    let (batch, frames) = (samples.batch, samples.frames);
    let (classes, shape, steps, gpu) = {
        let engine = net.engine(py)?;
        (engine.classes, engine.input, engine.time_steps, lent::gpu_of(&engine))
    };
    let gradient = Gradient::read(grad_logits, [batch, classes], gpu.as_ref())?;
    let done = net.work(py, |engine| {
        samples.same_device(engine)?;
        let grad_logits = gradient.check(engine)?;
        if !net.changes.take_pass(number) {
            return Ok(None);
        }
        engine.grads.fill(0.0);
        let mut input_grad = vec![0.0; batch * shape.iter().product::<usize>()];
        engine.backward_of(&samples.all(), grad_logits, Some(&mut input_grad))?;
        if frames == 1 {
            // The engine has the mean over time; an image is seen at every step.
            input_grad.iter_mut().for_each(|grad| *grad *= steps as f32);
        }
        let grads: Vec<Vec<f32>> = (0..engine.parameters.len()).map(|index| engine.in_torch_order(index, &engine.grads)).collect();
        Ok(Some((grads, input_grad)))
    })?;
    let (grads, input_grad) = done.ok_or_else(|| PyRuntimeError::new_err(OTHER_WORK))?;
    let shapes: Vec<Vec<usize>> = net.engine(py)?.parameters.iter().map(|parameter| parameter.shape.clone()).collect();
    let grads = grads.into_iter().zip(&shapes).map(|(values, shape)| shaped(py, shape, values)).collect::<PyResult<Vec<_>>>()?;
    let [height, width, channels] = shape;
    Ok((grads, shaped(py, &[batch, height, width, channels], input_grad)?))
}

/// The gradient of the logits, from the host or from the network's own device.
enum Gradient {
    Host(Vec<f32>),
    Device(Box<Lent>, Strided<f32>),
}

impl Gradient {
    fn read(given: &Bound<'_, PyAny>, shape: [usize; 2], gpu: Option<&Arc<Gpu>>) -> PyResult<Self> {
        let fits = |found: &[usize]| {
            let problem = || wrong(NAME, format!("has shape {found:?}; this network needs {shape:?}"));
            if found == shape { Ok(()) } else { Err(problem()) }
        };
        let Some(lent) = lent::lent(NAME, given, gpu, fits)? else { return Ok(Gradient::Host(arrays::floats(NAME, given, &shape)?)) };
        match lent.values {
            Values::Real(values) => Ok(Gradient::Device(Box::new(lent), values)),
            Values::Bytes(_) => Err(wrong(NAME, "is uint8; use float32")),
        }
    }

    /// For the engine, once it is known that all of it is finite.
    fn check(&self, engine: &Engine) -> dsr::Result<LogitsGradient<'_>> {
        match self {
            Gradient::Host(values) => Ok(LogitsGradient::Host(values)),
            Gradient::Device(lent, values) => {
                lent::same_device(NAME, engine, &lent.gpu)?;
                lent.gpu.after_copies()?;
                match strided_not_finite(&lent.gpu, values)? {
                    None => Ok(LogitsGradient::OnDevice(*values)),
                    Some((at, value)) => Err(Error::config(NAME, format!("element {at} is {value}; every value must be finite"))),
                }
            }
        }
    }
}
