//! `dsr.SGD`, `dsr.Adam`, `dsr.AdamW`: the state of an optimiser of one network.

use std::sync::{Mutex, PoisonError};

use dsr::Config;
use dsr::Optimizer as Rule;
use dsr::settings::{DecayOn, OptimizerKind};
use pyo3::prelude::*;

use crate::errors::wrong;
use crate::network::Network;

/// The state of an optimiser of one network; made by `dsr.SGD`, `dsr.Adam` or `dsr.AdamW`.
#[pyclass(module = "dsr", frozen)]
pub struct Optimizer(Mutex<(Rule, f64)>);

impl Optimizer {
    /// The state, and the learning rate.
    pub fn with<T>(&self, work: impl FnOnce(&mut Rule, f32) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lr = state.1 as f32;
        work(&mut state.0, lr)
    }

    /// Refuses a network with another number of parameters.
    pub fn check(&self, len: usize) -> PyResult<()> {
        let own = self.with(|rule, _| rule.first.len());
        if own == len { Ok(()) } else { Err(wrong("optimizer", format!("is of a network with {own} parameters; this one has {len}"))) }
    }
}

#[pymethods]
impl Optimizer {
    /// Learning rate; may be set between steps.
    #[getter]
    fn lr(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    #[setter]
    fn set_lr(&self, lr: f64) -> PyResult<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = checked("lr", lr)?;
        Ok(())
    }

    /// Steps taken.
    #[getter]
    fn steps(&self) -> u64 {
        self.with(|rule, _| rule.steps)
    }

    fn __repr__(&self) -> String {
        let (name, steps) = self.with(|rule, _| (rule.rule.name(), rule.steps));
        format!("dsr.Optimizer({name}, lr={}, {steps} steps)", self.lr())
    }
}

/// A number that is 0 or more.
fn checked(name: &str, value: f64) -> PyResult<f64> {
    if value >= 0.0 && value.is_finite() { Ok(value) } else { Err(wrong(name, format!("{value} is not 0 or more"))) }
}

fn decay_on(name: &str) -> PyResult<DecayOn> {
    match name {
        "all" => Ok(DecayOn::All),
        "weights" => Ok(DecayOn::Weights),
        other => Err(wrong("decay_on", format!("'{other}' is neither all nor weights"))),
    }
}

fn made(py: Python<'_>, net: &Network, config: &Config, lr: f64) -> PyResult<Optimizer> {
    checked("weight_decay", config.weight_decay)?;
    config.clip_norm.map_or(Ok(0.0), |norm| checked("clip_norm", norm))?;
    for (name, share) in [("momentum", config.momentum), ("betas", config.betas[0]), ("betas", config.betas[1])] {
        if !(0.0..1.0).contains(&share) {
            return Err(wrong(name, format!("{share} is not in 0..1")));
        }
    }
    if config.eps.is_nan() || config.eps <= 0.0 {
        return Err(wrong("eps", format!("{} is not a positive number", config.eps)));
    }
    let rule = config.optimizer(&*net.engine(py)?);
    Ok(Optimizer(Mutex::new((rule, checked("lr", lr)?))))
}

/// Stochastic gradient descent, by PyTorch's formulas.
///
/// Parameters
/// ----------
/// net : Network
///     Whose parameters are stepped.
/// lr : float
///     Learning rate.
/// momentum, weight_decay : float
/// nesterov : bool
/// clip_norm : float, optional
///     Bound of the norm of all gradients of a step.
/// decay_on : {"all", "weights"}
///     What decays: every parameter, or weights and not thresholds, batch norms and biases.
///
/// Raises
/// ------
/// ValueError
///     For a constant outside of its range.
#[pyfunction]
#[pyo3(name = "SGD", signature = (net, lr, momentum = 0.0, weight_decay = 0.0, nesterov = false, clip_norm = None, decay_on = "all"))]
pub fn sgd(
    py: Python<'_>,
    net: &Bound<'_, Network>,
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
    clip_norm: Option<f64>,
    decay_on: &str,
) -> PyResult<Optimizer> {
    let decay_on = self::decay_on(decay_on)?;
    let optimizer = OptimizerKind::Sgd;
    made(py, net.get(), &Config { optimizer, momentum, weight_decay, nesterov, clip_norm, decay_on, ..Config::default() }, lr)
}

/// Adam, by PyTorch's formulas.
///
/// Parameters are those of `dsr.SGD`, with `betas` (decay of the means of gradients and of their squares) and `eps` (added to the root).
#[pyfunction]
#[pyo3(name = "Adam", signature = (net, lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weight_decay = 0.0, clip_norm = None, decay_on = "all"))]
pub fn adam(
    py: Python<'_>,
    net: &Bound<'_, Network>,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    clip_norm: Option<f64>,
    decay_on: &str,
) -> PyResult<Optimizer> {
    let decay_on = self::decay_on(decay_on)?;
    let optimizer = OptimizerKind::Adam;
    made(py, net.get(), &Config { optimizer, betas, eps, weight_decay, clip_norm, decay_on, ..Config::default() }, lr)
}

/// AdamW, by PyTorch's formulas: weight decay apart from the gradient.
///
/// Parameters are those of `dsr.Adam`.
#[pyfunction]
#[pyo3(name = "AdamW", signature = (net, lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weight_decay = 1e-2, clip_norm = None, decay_on = "all"))]
pub fn adamw(
    py: Python<'_>,
    net: &Bound<'_, Network>,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    clip_norm: Option<f64>,
    decay_on: &str,
) -> PyResult<Optimizer> {
    let decay_on = self::decay_on(decay_on)?;
    let optimizer = OptimizerKind::AdamW;
    made(py, net.get(), &Config { optimizer, betas, eps, weight_decay, clip_norm, decay_on, ..Config::default() }, lr)
}
