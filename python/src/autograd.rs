//! What `dsr.torch` is made of: forward and backward apart, for a loss of the caller's own.

use dsr::network::{Input, Mode};
use dsr::training::dropout_seed;
use numpy::PyArrayDyn;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::arrays::{self, Samples, shaped};
use crate::network::Network;

const OTHER_WORK: &str = "dsr: the network has done other work since this forward pass in training mode, so its gradients are gone: \
                          backward is of the last forward pass in training mode only, once: call it before the next one, a training step, \
                          a change of the network and, on a CUDA device, an evaluation";

type Array<'py> = Bound<'py, PyArrayDyn<f32>>;

/// A forward pass in training mode: logits `[B, classes]`, the firing rate of every layer, and a number that no other pass has.
pub fn forward<'py>(
    net: &Network,
    py: Python<'py>,
    images: &Bound<'_, PyAny>,
    seed: u64,
    layout: &str,
) -> PyResult<(Array<'py>, Vec<f32>, u64)> {
    let Samples { values, batch, frames } = net.samples(py, images, layout)?;
    let gradient = net.gradient();
    let seed = dropout_seed(net.seed(), seed);
    let (logits, rates, classes, number) = net.work(py, |engine| {
        let mode = Mode::Train { gradient, seed };
        let number = net.changes.count();
        let forward = engine.forward(&Input { data: &values, batch, frames }, mode, |_| false)?;
        net.changes.begin_pass(number);
        Ok((forward.logits, forward.rates, engine.classes, number))
    })?;
    Ok((shaped(py, &[batch, classes], logits)?, rates, number))
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
    let Samples { values, batch, frames } = net.samples(py, images, layout)?;
    let (classes, shape, steps) = {
        let engine = net.engine(py)?;
        (engine.classes, engine.input, engine.time_steps)
    };
    let grad_logits = arrays::floats("grad_logits", grad_logits, &[batch, classes])?;
    let done = net.work(py, |engine| {
        if !net.changes.take_pass(number) {
            return Ok(None);
        }
        engine.grads.fill(0.0);
        let mut input_grad = vec![0.0; batch * shape.iter().product::<usize>()];
        engine.backward(&Input { data: &values, batch, frames }, &grad_logits, Some(&mut input_grad))?;
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
