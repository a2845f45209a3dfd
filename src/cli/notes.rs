//! What a user should know about a run, a line each on stderr.

use crate::settings::{Config, NeuronKind};
use crate::training::metrics::{EpochMetrics, State};
use crate::training::{self, Run, watch};

/// What a user should know about LIF neurons that forget most of a sample, which training by representation suffers from.
pub fn memory_note(config: &Config) -> Option<String> {
    let Config { time_steps, tau, delta_t, .. } = *config;
    let times_tau = time_steps as f64 * delta_t / tau;
    (config.neuron == NeuronKind::Lif && times_tau > 3.0).then(|| {
        format!(
            "note: {time_steps} steps of delta-t {delta_t} last {times_tau:.1} tau, so neurons have forgotten the first when the last comes; \
             --delta-t {}, with thresholds in proportion, lets all of them count (docs/thresholds.md)",
            two_digits(tau / time_steps as f64)
        )
    })
}

/// What a user should know about a test accuracy far below that of training while the rate is above half of `highest`: at such rates
/// the running statistics of batch norms, which only tests use, lag behind the weights.
pub fn lag_note(metrics: &EpochMetrics, highest: f64) -> Option<String> {
    (metrics.train_accuracy - metrics.test_accuracy > 0.2 && metrics.lr > 0.5 * highest).then(|| {
        format!(
            "note: epoch {}: test accuracy is {:.1} % and that of training {:.1} %: while the learning rate is high, running statistics of \
             batch norms lag behind the weights; a test at a low rate tells more, and --lr-decay step ends a short run at one \
             (docs/training.md)",
            metrics.epoch,
            100.0 * metrics.test_accuracy,
            100.0 * metrics.train_accuracy
        )
    })
}

/// What a user should know about a warm-up that a run never comes out of.
pub fn warmup_note(run: &Run) -> Option<String> {
    let (warmup, steps) = (run.config.warmup, run.config.epochs.saturating_mul(training::steps_per_epoch(run)));
    (warmup > steps).then(|| {
        let share = 100.0 * steps as f64 / warmup as f64;
        format!(
            "note: the warm-up of {warmup} steps is longer than the run of {steps}: the learning rate ends at {share:.0} % of what it \
             would be; lower --warmup"
        )
    })
}

/// What a user should know about batch norms that see one sample at a time.
pub fn single_note(run: &Run) -> Option<String> {
    (run.config.batch == 1 && !run.network.norms.is_empty()).then(|| {
        "note: batches of one: the statistics of batch norms are over steps and positions of a single sample, and a test uses means over \
         many; give a larger -b"
            .into()
    })
}

/// What a user should know about layers that were silent in the first training step.
pub fn silence_note(run: &Run) -> Option<String> {
    if run.progress.sums.seen < watch::FEWEST as u64 {
        return None;
    }
    let warnings = watch::warnings(&run.config, &run.network, &training::layer_metrics(run));
    let mut silent = warnings.iter().filter(|warning| warning.state == State::Silent);
    let first = silent.next()?;
    let others = silent.count();
    let (layer, others) = (&first.layer, if others == 0 { String::new() } else { format!(", and {others} more") });
    Some(format!("note: layer {layer} is silent on the first batch{others}; if training does not wake it: {}", first.advice))
}

/// What a user should know about a run that goes on with another learning rate.
pub fn rate_note(trained: &Config, config: &Config) -> Option<String> {
    (trained.lr != config.lr).then(|| {
        format!(
            "note: --lr is {} from here on and was {} up to the checkpoint: the run is no longer a function of one configuration; the \
             metrics have the rate of every epoch",
            config.lr, trained.lr
        )
    })
}

/// A number with two significant digits: 0.049, 0.1, 0.00012.
fn two_digits(value: f64) -> String {
    format!("{value:.1e}").parse().unwrap_or(value).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn metrics() -> EpochMetrics {
        EpochMetrics {
            epoch: 12,
            epochs: 200,
            lr: 0.04918,
            train_loss: 0.4119,
            train_accuracy: 0.86149,
            test_loss: 1.0,
            test_accuracy: 0.852,
            best_accuracy: 0.8543,
            firing_rate: 0.0701,
            images_per_second: 1204.3,
            seconds: 13.1,
            layers: Vec::new(),
            warnings: Vec::new(),
            ..EpochMetrics::default()
        }
    }

    #[test]
    fn numbers_have_two_digits() {
        let numbers = [(0.1, "0.1"), (1.0, "1"), (0.000123, "0.00012"), (1e-7, "0.0000001"), (12.7, "13"), (0.0, "0")];
        for (number, expected) in numbers {
            assert_eq!(two_digits(number), expected);
        }
    }

    #[test]
    fn a_test_accuracy_that_lags_is_named_while_the_rate_is_high() {
        // Test accuracy, training accuracy, rate of 0.05 at the most, and whether it is said.
        let cases = [(0.497, 0.777, 0.05, true), (0.57, 0.777, 0.026, true), (0.58, 0.777, 0.05, false), (0.497, 0.777, 0.025, false)];
        for (test_accuracy, train_accuracy, lr, is_said) in cases {
            let metrics = EpochMetrics { test_accuracy, train_accuracy, lr, ..metrics() };
            assert_eq!(lag_note(&metrics, 0.05).is_some(), is_said, "{test_accuracy} {train_accuracy} {lr}");
        }
        let note = lag_note(&EpochMetrics { test_accuracy: 0.497, train_accuracy: 0.777, lr: 0.05, ..metrics() }, 0.05).unwrap();
        assert!(note.starts_with("note: epoch 12: test accuracy is 49.7 % and that of training 77.7 %"), "{note}");
    }
}
