//! What is measured after an epoch: the network on both splits, its moving average, and its layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::metrics::LayerMetrics;
use super::{Measuring, Run};
use crate::data::{Batch, Dataset};
use crate::error::Result;
use crate::evaluation::{Evaluation, Ties, evaluate};
use crate::network::{Forward, Network, SpikingLayer};

/// Of the validation split, if there is one, and of the test split.
pub(super) type Measured = (Option<Evaluation>, Evaluation);

/// The same as [`measure`] of the moving average of the parameters; an inner none if there is no such average.
pub(super) fn measure_average(run: &mut Run, stop: &AtomicBool, tell: Measuring) -> Result<Option<Option<Measured>>> {
    if run.optimizer.average.is_none() {
        return Ok(Some(None));
    }
    run.network.exchange_with_average(&mut run.optimizer)?;
    let measured = measure(run, stop, tell);
    run.network.exchange_with_average(&mut run.optimizer)?;
    Ok(measured?.map(Some))
}

/// The network on the validation split, if there is one, and on the test split; nothing if `stop` says so.
pub(super) fn measure(run: &mut Run, stop: &AtomicBool, tell: Measuring) -> Result<Option<Measured>> {
    let (network, batch, progress) = (&mut run.network, run.config.batch, &run.progress);
    let mut pass = |dataset: &Arc<Dataset>, split: &'static str| {
        let (mut seen, mut heard) = (0, Ok(()));
        let visit = &mut |_: &Network, _: &Forward, part: &Batch| {
            seen += part.labels.len();
            heard = tell(progress, split, [seen, dataset.test.len()]);
            heard.is_ok() && !stop.load(Ordering::Relaxed)
        };
        let measured = evaluate(network, dataset, batch, Ties::First, false, visit)?;
        heard.map(|()| measured)
    };
    let validation = match &run.validation {
        None => None,
        Some(held) => match pass(held, "validation")? {
            None => return Ok(None),
            measured => measured,
        },
    };
    let test = pass(&run.dataset, "test")?;
    Ok(test.map(|test| (validation, test)))
}

/// What the steps of the epoch at work have measured of each layer.
pub(crate) fn layer_metrics(run: &Run) -> Vec<LayerMetrics> {
    let sums = &run.progress.sums;
    let measured = |(layer, sum): (&SpikingLayer, &f64)| LayerMetrics {
        name: layer.name.clone(),
        threshold: layer.threshold.filter(|_| !run.network.neuron.is_real()).map(|threshold| f64::from(run.network.value(threshold)[0])),
        firing_rate: sum / sums.seen as f64,
    };
    run.network.firing_layers().zip(&sums.rates).map(measured).collect()
}
