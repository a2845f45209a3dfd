//! Parameters and running statistics by name, out and in.

use std::collections::{BTreeMap, BTreeSet};

use dsr::Network as Engine;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{self, shaped};
use crate::errors::wrong;

/// All of them, with PyTorch's names and shapes.
pub fn of<'py>(py: Python<'py>, engine: &Engine) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (index, parameter) in engine.parameters.iter().enumerate() {
        dict.set_item(&parameter.name, shaped(py, &parameter.shape, engine.in_torch_order(index, &engine.values))?)?;
    }
    for norm in &engine.norms {
        let channels = [norm.running_mean.len()];
        dict.set_item(format!("{}.running_mean", norm.name), shaped(py, &channels, norm.running_mean.clone())?)?;
        dict.set_item(format!("{}.running_var", norm.name), shaped(py, &channels, norm.running_var.clone())?)?;
        dict.set_item(format!("{}.num_batches_tracked", norm.name), shaped(py, &[], vec![norm.batches])?)?;
    }
    Ok(dict)
}

/// What of a state belongs into a network, by the places of its parameters and norms.
#[derive(Default)]
pub struct Taken {
    parameters: Vec<(usize, Vec<f32>)>,
    means: Vec<(usize, Vec<f32>)>,
    variances: Vec<(usize, Vec<f32>)>,
    batches: Vec<(usize, i64)>,
}

impl Taken {
    /// The places of the parameters that are in it.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.parameters.iter().map(|(place, _)| *place)
    }

    /// Puts all of it there.
    pub fn put(self, engine: &mut Engine) {
        self.parameters.iter().for_each(|(index, values)| engine.set_parameter(*index, values));
        self.means.into_iter().for_each(|(index, values)| engine.norms[index].running_mean = values);
        self.variances.into_iter().for_each(|(index, values)| engine.norms[index].running_var = values);
        self.batches.into_iter().for_each(|(index, batches)| engine.norms[index].batches = batches);
        engine.prepare();
    }
}

/// Names and shapes that a network takes a state by: reading one runs code of the caller, which may use the network.
pub struct Known {
    parameters: Vec<(String, Vec<usize>)>,
    /// Names and channels.
    norms: Vec<(String, usize)>,
    is_real: bool,
}

impl Known {
    /// Those of `engine`.
    pub fn of(engine: &Engine) -> Known {
        Known {
            parameters: engine.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone())).collect(),
            norms: engine.norms.iter().map(|norm| (norm.name.clone(), norm.running_mean.len())).collect(),
            is_real: engine.neuron.is_real(),
        }
    }
}

/// What of `state` belongs into this network.
///
/// # Errors
/// `ValueError` unless all of it fits.
pub fn read(network: &Known, state: &Bound<'_, PyDict>, strict: bool) -> PyResult<Taken> {
    let state: BTreeMap<String, Bound<'_, PyAny>> = state.extract()?;
    let mut known = BTreeSet::new();
    let mut missing = Vec::new();
    let mut find = |name: &str, is_optional: bool| {
        known.insert(name.to_string());
        let found = state.get(name);
        if found.is_none() && !is_optional {
            missing.push(name.to_string());
        }
        found
    };
    let mut taken = Taken::default();
    for (index, (parameter, shape)) in network.parameters.iter().enumerate() {
        if let Some(given) = find(parameter, network.is_real && parameter.ends_with(".Vth")) {
            taken.parameters.push((index, arrays::floats(parameter, given, shape)?));
        }
    }
    for (index, (norm, channels)) in network.norms.iter().enumerate() {
        let channels = [*channels];
        let name = |what: &str| format!("{norm}.{what}");
        let [mean, var, batches] = ["running_mean", "running_var", "num_batches_tracked"].map(name);
        if let Some(given) = find(&mean, false) {
            taken.means.push((index, arrays::floats(&mean, given, &channels)?));
        }
        if let Some(given) = find(&var, false) {
            let values = arrays::floats(&var, given, &channels)?;
            if values.iter().any(|&v| v < 0.0) {
                return Err(wrong(&var, "holds a negative variance"));
            }
            taken.variances.push((index, values));
        }
        if let Some(given) = find(&batches, true) {
            taken.batches.push((index, arrays::integer(&batches, given)?));
        }
    }
    let unexpected: Vec<&str> = state.keys().map(String::as_str).filter(|name| !known.contains(*name)).collect();
    if strict && !(missing.is_empty() && unexpected.is_empty()) {
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        let lists = [("missing", missing), ("unexpected", unexpected)].map(|(what, names)| match names.len() {
            0 => String::new(),
            n => {
                format!("{what} {}{}", names[..n.min(3)].join(", "), if n > 3 { format!(" and {} more", n - 3) } else { String::new() })
            }
        });
        let lists: Vec<String> = lists.into_iter().filter(|list| !list.is_empty()).collect();
        return Err(wrong("state_dict", format!("belongs to another network: {}", lists.join("; "))));
    }
    Ok(taken)
}
