//! `dsr.SGD`, `dsr.Adam`, `dsr.AdamW`: the state of an optimiser of one network.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dsr::Config;
use dsr::Optimizer as Rule;
use dsr::settings::{DecayOn, OptimizerKind};
use pyo3::prelude::*;

use crate::errors::wrong;
use crate::network::Network;
use crate::threads;

/// The state of an optimiser of one network; made by `dsr.SGD`, `dsr.Adam` or `dsr.AdamW`.
#[pyclass(module = "dsr", frozen)]
pub struct Optimizer {
    /// The state, and the learning rate.
    state: Mutex<(Rule, f64)>,
    /// Number of its network.
    network: u64,
}

impl Optimizer {
    /// The state, and the learning rate. Not to be called by a thread of the pool, nor with the interpreter held.
    pub fn state(&self) -> MutexGuard<'_, (Rule, f64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses another network than its own.
    pub fn check(&self, network: &Network) -> PyResult<()> {
        if self.network == network.number() {
            return Ok(());
        }
        Err(wrong("optimizer", "is of another network; make one of this network, such as dsr.SGD(net, lr=0.1)"))
    }
}

#[pymethods]
impl Optimizer {
    /// Learning rate; may be set between steps.
    #[getter]
    fn lr(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(threads::locked(py, &self.state)?.1)
    }

    #[setter]
    fn set_lr(&self, py: Python<'_>, lr: f64) -> PyResult<()> {
        let lr = checked("lr", lr)?;
        threads::locked(py, &self.state)?.1 = lr;
        Ok(())
    }

    /// Steps taken.
    #[getter]
    fn steps(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(threads::locked(py, &self.state)?.0.steps)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (rule, lr) = &*threads::locked(py, &self.state)?;
        Ok(format!("dsr.Optimizer({}, lr={lr}, {} steps)", rule.rule.name(), rule.steps))
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

fn made(py: Python<'_>, net: &Network, config: Config, lr: f64) -> PyResult<Optimizer> {
    checked("weight_decay", config.weight_decay)?;
    let clip_norm = config.clip_norm.filter(|&norm| norm != 0.0); // as on the command line
    if let Some(norm) = clip_norm.filter(|&norm| !(norm as f32 > 0.0 && (norm as f32).is_finite())) {
        return Err(wrong("clip_norm", format!("{norm} is not a positive number")));
    }
    for (name, share) in [("momentum", config.momentum), ("betas", config.betas[0]), ("betas", config.betas[1])] {
        if !(0.0..1.0).contains(&share) {
            return Err(wrong(name, format!("{share} is not in 0..1")));
        }
    }
    if config.eps.is_nan() || config.eps <= 0.0 {
        return Err(wrong("eps", format!("{} is not a positive number", config.eps)));
    }
    // What does not learn does not decay.
    let freeze_thresholds = net.settings().is_some_and(|settings| settings.freeze_thresholds);
    let config = Config { clip_norm, freeze_thresholds, ..config };
    let rule = config.optimizer(&*net.engine(py)?);
    Ok(Optimizer { state: Mutex::new((rule, checked("lr", lr)?)), network: net.number() })
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
///     Bound of the norm of all gradients of a step; 0 and None are none.
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
    made(py, net.get(), Config { optimizer, momentum, weight_decay, nesterov, clip_norm, decay_on, ..Config::default() }, lr)
}

/// Adam, by PyTorch's formulas.
///
/// Parameters are those of `dsr.SGD`, with `betas` (decay of the means of gradients and of their squares) and `eps` (added to the root).
#[pyfunction]
#[pyo3(name = "Adam")]
#[pyo3(signature = (net, lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weight_decay = 0.0, clip_norm = None, decay_on = "all"))]
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
    made(py, net.get(), Config { optimizer, betas, eps, weight_decay, clip_norm, decay_on, ..Config::default() }, lr)
}

/// AdamW, by PyTorch's formulas: weight decay apart from the gradient.
///
/// Parameters are those of `dsr.Adam`.
#[pyfunction]
#[pyo3(name = "AdamW")]
#[pyo3(signature = (net, lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weight_decay = 1e-2, clip_norm = None, decay_on = "all"))]
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
    made(py, net.get(), Config { optimizer, betas, eps, weight_decay, clip_norm, decay_on, ..Config::default() }, lr)
}
