//! The first training step of a network that nobody has given thresholds: it chooses them. And what it says of layers without spikes.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

use dsr::Config;
use dsr::device::Device;
use dsr::network::ChosenThreshold;
use dsr::settings::ThresholdInit;
use dsr::training::dropout_seed;
use dsr::training::metrics::State;
use dsr::training::watch;
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::network::Network;

/// What a network has yet to do in its first training steps.
#[derive(Default)]
pub struct Start {
    /// Whether the first batch chooses the thresholds.
    is_open: AtomicBool,
    /// Whether silent layers have been named.
    is_noted: AtomicBool,
}

impl Start {
    /// Of a new network: with `threshold_init` auto its first batch chooses.
    pub fn of(config: &Config) -> Self {
        Start::open(config.threshold_init == ThresholdInit::Auto)
    }

    /// Of a network whose first batch chooses its thresholds, or does not.
    pub fn open(is_open: bool) -> Self {
        Start { is_open: AtomicBool::new(is_open), is_noted: AtomicBool::default() }
    }

    /// Of a copy, which is as far and has notes of its own.
    pub fn of_copy(&self) -> Self {
        Start::open(self.is_open())
    }

    /// Whether the thresholds are still those that nobody has chosen.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// The thresholds have been given, or read.
    pub fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }
}

impl Network {
    /// Chooses the threshold of every layer from images, on the CPU, wherever the network computes.
    pub fn choose(&self, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<Vec<ChosenThreshold>> {
        let samples = self.samples_at(None, py, images, layout)?;
        let seed = dropout_seed(self.seed(), 0);
        let chosen = self.work(py, |engine| {
            self.changes.count();
            let device = engine.device();
            engine.place(&Device::Cpu)?;
            let chosen = samples.all().on_the_cpu().and_then(|input| engine.choose_thresholds(input, seed));
            engine.place(&device)?;
            chosen
        })?;
        self.start.close();
        Ok(chosen)
    }

    /// The same if nobody has yet: the thresholds that there were, for [`Network::unchoose`].
    pub fn choose_once(&self, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<Option<Vec<(usize, f32)>>> {
        if !self.start.is_open() {
            return Ok(None);
        }
        let engine = self.engine(py)?;
        let before = engine.firing_layers().filter_map(|layer| layer.threshold).map(|index| (index, engine.value(index)[0])).collect();
        drop(engine);
        self.choose(py, images, layout)?;
        Ok(Some(before))
    }

    /// Takes a choice back that a step has come to nothing with.
    pub fn unchoose(&self, py: Python<'_>, before: &[(usize, f32)]) -> PyResult<()> {
        self.work(py, |engine| {
            self.changes.count();
            let device = engine.device();
            engine.place(&Device::Cpu)?;
            before.iter().for_each(|&(index, threshold)| engine.set_parameter(index, &[threshold]));
            engine.prepare();
            engine.place(&device)
        })?;
        self.start.is_open.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Warns once of layers that were silent in a training step of `batch` samples.
    pub fn note_silence(&self, py: Python<'_>, rates: &[f32], batch: usize) -> PyResult<()> {
        if batch < watch::FEWEST || self.start.is_noted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let silent: Vec<String> = {
            let engine = self.engine(py)?;
            let default = Config::default();
            let warnings = watch::of_rates(self.settings().unwrap_or(&default), &engine, rates);
            warnings.into_iter().filter(|warning| warning.state == State::Silent).map(|warning| warning.layer).collect()
        };
        let Some(first) = silent.first() else { return Ok(()) };
        if self.start.is_noted.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let others = if silent.len() == 1 { String::new() } else { format!(" and {} more", silent.len() - 1) };
        let verb = if silent.len() == 1 { "is" } else { "are" };
        let advice = if self.engine(py)?.neuron.is_real() {
            "no activation is above 0: lower lr"
        } else {
            "net.choose_thresholds(images) takes thresholds with which every layer fires; or lower vth, or lr"
        };
        let note = format!("dsr: {first}{others} {verb} silent in this training step, and nothing behind is learned: {advice}");
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), &CString::new(note).unwrap_or_default(), 1)
    }
}

/// Whether a state has thresholds.
pub fn has_thresholds(state: &Bound<'_, PyDict>) -> bool {
    state.keys().iter().any(|name| name.extract::<String>().is_ok_and(|name| name.ends_with(".Vth")))
}
