//! `Network.train_step`: forward, backward and update in one call.

use dsr::network::Mode;
use dsr::training::dropout_seed;
use pyo3::prelude::*;

use crate::arrays;
use crate::network::Network;
use crate::optimizer::Optimizer;
use crate::threads;

/// Takes one step; the mean loss of the batch before it.
pub fn take(
    net: &Network,
    py: Python<'_>,
    images: &Bound<'_, PyAny>,
    labels: &Bound<'_, PyAny>,
    optimizer: &Optimizer,
    layout: &str,
) -> PyResult<f64> {
    threads::refuse_forked()?;
    let samples = net.samples(py, images, layout)?;
    let classes = net.engine(py)?.classes;
    let labels = arrays::labels(labels, samples.batch, classes)?;
    optimizer.check(net)?;
    let (gradient, seed) = (net.gradient(), net.seed());
    let to_choose_from = net.to_choose_from(py, images, layout, &samples)?;
    let step = net.work_with(py, optimizer, |engine, rule, lr| {
        net.with_thresholds(engine, to_choose_from.as_ref().unwrap_or(&samples), |engine| {
            samples.check(engine, net.card())?;
            net.changes.count();
            let mode = Mode::Train { gradient, seed: dropout_seed(seed, rule.steps) };
            let (number, norms) = (rule.steps + 1, engine.norms.clone());
            engine.begin_step(rule, lr, &samples.all(), &labels, mode)?;
            let step = engine.finish_step(rule)?;
            engine.synchronize(rule)?;
            match step.not_finite {
                None => Ok(step),
                Some(layer) => {
                    // Forward has taken the batch into the running statistics already.
                    engine.norms = norms;
                    engine.prepare();
                    Err(dsr::Error::NotFinite { step: number, layer, checkpoint: None })
                }
            }
        })
    })?;
    net.note_silence(py, &step.rates, samples.batch)?;
    Ok(step.loss)
}
