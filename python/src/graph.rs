//! `Network.graph`: the layers as plain data, for exporters.

use dsr::Network as Engine;
use dsr::network::{Kind, Readout, Source};
use dsr::ops::batch_norm::EPS;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::shaped;

/// Everything that an evaluation computes with.
pub fn of<'py>(py: Python<'py>, engine: &Engine) -> PyResult<Bound<'py, PyDict>> {
    let graph = PyDict::new(py);
    let [height, width, channels] = engine.input;
    graph.set_item("input_shape", (channels, height, width))?;
    graph.set_item("classes", engine.classes)?;
    graph.set_item("time_steps", engine.time_steps)?;
    graph.set_item("weight_bits", engine.weight_bits)?;
    graph.set_item("readout", if engine.readout() == Readout::Current { "current" } else { "spikes" })?;
    graph.set_item("neuron", neuron(py, engine)?)?;
    let layers = (0..engine.layers.len()).map(|index| layer(py, engine, index)).collect::<PyResult<Vec<_>>>()?;
    graph.set_item("layers", layers)?;
    Ok(graph)
}

fn neuron<'py>(py: Python<'py>, engine: &Engine) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let neuron = engine.neuron;
    dict.set_item("kind", neuron.name())?;
    dict.set_item("alpha", neuron.alpha())?;
    dict.set_item("leak", neuron.leak())?;
    dict.set_item("charge", neuron.charge())?;
    if let dsr::ops::neuron::Neuron::Lif { tau, delta_t, .. } = neuron {
        dict.set_item("tau", tau)?;
        dict.set_item("delta_t", delta_t)?;
    }
    dict.set_item("step_weights", neuron.step_weights(engine.time_steps))?;
    Ok(dict)
}

fn layer<'py>(py: Python<'py>, engine: &Engine, index: usize) -> PyResult<Bound<'py, PyDict>> {
    let (layer, dict) = (&engine.layers[index], PyDict::new(py));
    let [height, width, channels] = layer.shape;
    dict.set_item("name", &layer.name)?;
    dict.set_item("shape", (channels, height, width))?;
    dict.set_item("threshold", layer.fires().then(|| engine.threshold(layer)))?;
    dict.set_item("fire_at", layer.fires().then(|| engine.neuron.alpha() * engine.threshold(layer)))?;
    dict.set_item("spike_value", layer.fires().then(|| engine.spike_value(index, false)))?;
    dict.set_item("dropout", layer.dropout)?;
    dict.set_item("norm", layer.norm.map(|at| norm(py, engine, at)).transpose()?)?;
    let connections = (0..layer.connections.len()).map(|at| connection(py, engine, index, at)).collect::<PyResult<Vec<_>>>()?;
    dict.set_item("connections", connections)?;
    Ok(dict)
}

fn connection<'py>(py: Python<'py>, engine: &Engine, index: usize, at: usize) -> PyResult<Bound<'py, PyDict>> {
    let (connection, dict) = (&engine.layers[index].connections[at], PyDict::new(py));
    let geometry = &connection.geometry;
    dict.set_item(
        "source",
        match connection.source {
            Source::Input => "input",
            Source::Layer(source) => &engine.layers[source].name,
        },
    )?;
    dict.set_item("source_shape", (geometry.cin, geometry.source[0], geometry.source[1]))?;
    let [window, stride, pad] = geometry.pool;
    dict.set_item("pool", geometry.is_pooled().then_some((window, stride, pad)))?;
    dict.set_item("replicate", connection.replicate)?;
    dict.set_item("norm", connection.norm.map(|at| norm(py, engine, at)).transpose()?)?;
    let Kind::Conv { weight, bias } = connection.kind else {
        dict.set_item("kind", "identity")?;
        return Ok(dict);
    };
    dict.set_item("kind", if engine.parameters[weight].shape.len() == 2 { "linear" } else { "conv" })?;
    dict.set_item("name", engine.parameters[weight].name.trim_end_matches(".weight"))?;
    dict.set_item("kernel", (geometry.kernel[0], geometry.kernel[1]))?;
    dict.set_item("stride", geometry.stride)?;
    dict.set_item("pad", geometry.pad)?;
    let shape = [geometry.cout, geometry.cin, geometry.kernel[0], geometry.kernel[1]];
    dict.set_item("weight", shaped(py, &shape, engine.forward_weights(index, at))?)?;
    dict.set_item("bias", bias.map(|bias| shaped(py, &[geometry.cout], engine.value(bias).to_vec())).transpose()?)?;
    Ok(dict)
}

fn norm<'py>(py: Python<'py>, engine: &Engine, at: usize) -> PyResult<Bound<'py, PyDict>> {
    let (norm, dict) = (&engine.norms[at], PyDict::new(py));
    let channels = [norm.running_mean.len()];
    dict.set_item("name", &norm.name)?;
    dict.set_item("weight", shaped(py, &channels, engine.value(norm.weight).to_vec())?)?;
    dict.set_item("bias", shaped(py, &channels, engine.value(norm.bias).to_vec())?)?;
    dict.set_item("running_mean", shaped(py, &channels, norm.running_mean.clone())?)?;
    dict.set_item("running_var", shaped(py, &channels, norm.running_var.clone())?)?;
    dict.set_item("eps", EPS)?;
    Ok(dict)
}
