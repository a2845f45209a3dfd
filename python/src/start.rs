//! The first training step of a network that nobody has given thresholds: it chooses them. And what it says of layers without spikes.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dsr::device::Device;
use dsr::network::ChosenThreshold;
use dsr::training::dropout_seed;
use dsr::training::metrics::State;
use dsr::training::watch;
use dsr::{Config, Network as Engine};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;

use crate::access::settled;
use crate::network::Network;
use crate::samples::Samples;

/// What a network has yet to do in its first training steps.
#[derive(Default)]
pub struct Start {
    /// The thresholds that nobody has given or chosen, by the places of their parameters: the first batch chooses them.
    /// Read and written with the engine locked, so that a choice and what depends on it are one.
    unchosen: Mutex<BTreeSet<usize>>,
    /// Whether silent layers have been named.
    is_noted: AtomicBool,
}

impl Start {
    /// Of a network whose first batch chooses these thresholds.
    pub fn choosing(unchosen: BTreeSet<usize>) -> Self {
        Start { unchosen: Mutex::new(unchosen), is_noted: AtomicBool::default() }
    }

    /// The places of the thresholds that nobody has given or chosen.
    pub fn unchosen(&self) -> BTreeSet<usize> {
        self.places().clone()
    }

    /// Their names.
    pub fn names(&self, engine: &Engine) -> Vec<String> {
        self.places().iter().map(|&place| engine.parameters[place].name.clone()).collect()
    }

    /// From now on these are the ones.
    pub fn set(&self, unchosen: BTreeSet<usize>) {
        *self.places() = unchosen;
    }

    /// The parameters at these places have been given.
    pub fn given(&self, places: impl Iterator<Item = usize>) {
        let mut unchosen = self.places();
        for place in places {
            unchosen.remove(&place);
        }
    }

    fn places(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.unchosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The places of all thresholds by which neurons fire.
pub fn thresholds(engine: &Engine) -> BTreeSet<usize> {
    if engine.neuron.is_real() { BTreeSet::new() } else { engine.firing_layers().filter_map(|layer| layer.threshold).collect() }
}

/// Those of them that have these names.
pub fn thresholds_called(engine: &Engine, names: &[String]) -> BTreeSet<usize> {
    thresholds(engine).into_iter().filter(|&place| names.contains(&engine.parameters[place].name)).collect()
}

/// Work on a network on the CPU, wherever it computes.
fn on_the_cpu<T>(engine: &mut Engine, work: impl FnOnce(&mut Engine) -> dsr::Result<T>) -> dsr::Result<T> {
    let device = engine.device();
    engine.place(&Device::Cpu)?;
    let done = work(engine);
    engine.place(&device)?;
    done
}

impl Network {
    /// Chooses the threshold of every layer from images, on the CPU, wherever the network computes.
    pub fn choose(&self, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<Vec<ChosenThreshold>> {
        let samples = self.samples_at(None, py, images, layout)?;
        let seed = dropout_seed(self.seed(), 0);
        self.work(py, |engine| {
            self.changes.count();
            let chosen = on_the_cpu(engine, |engine| engine.choose_thresholds(samples.all().on_the_cpu()?, seed))?;
            self.start.set(BTreeSet::new());
            Ok(chosen)
        })
    }

    /// The images of a first step on the CPU, which chooses there; none where there is nothing to choose, and where `samples` are there.
    pub fn to_choose_from(&self, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str, samples: &Samples) -> PyResult<Option<Samples>> {
        if samples.device().is_none() || self.start.unchosen().is_empty() {
            return Ok(None);
        }
        self.samples_at(None, py, images, layout).map(Some)
    }

    /// Work that needs thresholds: those that nobody has given or chosen are chosen from `samples` first. Where that or the work comes to
    /// nothing, the choice is taken back. Samples that are on a device leave it to the next step.
    pub fn with_thresholds<T>(
        &self,
        engine: &mut Engine,
        samples: &Samples,
        work: impl FnOnce(&mut Engine) -> dsr::Result<T>,
    ) -> dsr::Result<T> {
        let unchosen = self.start.unchosen();
        if unchosen.is_empty() || samples.device().is_some() {
            return work(engine);
        }
        self.changes.count();
        let before: Vec<(usize, f32)> = unchosen.iter().map(|&place| (place, engine.value(place)[0])).collect();
        let seed = dropout_seed(self.seed(), 0);
        let input = samples.all();
        let choose = |engine: &mut Engine| engine.choose_thresholds_where(input.on_the_cpu()?, seed, |place| unchosen.contains(&place));
        let done = on_the_cpu(engine, choose).and_then(|_| settled(engine, work));
        match done {
            Ok(_) => self.start.set(BTreeSet::new()),
            Err(_) => on_the_cpu(engine, |engine| {
                before.iter().for_each(|&(place, threshold)| engine.set_parameter(place, &[threshold]));
                engine.prepare();
                Ok(())
            })?,
        }
        done
    }

    /// Chooses thresholds as a first step does; whether it had to.
    pub fn choose_once(&self, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<bool> {
        if self.start.unchosen().is_empty() {
            return Ok(false);
        }
        let samples = self.samples_at(None, py, images, layout)?;
        self.work(py, |engine| {
            let had_to = !self.start.unchosen().is_empty();
            self.with_thresholds(engine, &samples, |_| Ok(had_to))
        })
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
