//! `dsr.Network`: a network with its parameters, forward, training steps, files.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dsr::checkpoint::{self, About, Progress};
use dsr::data::DataCard;
use dsr::device::{Device, keeping_current};
use dsr::network::WeightGradient;
use dsr::training::choice;
use dsr::{Config, Network as Engine, Optimizer as Rule};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::access::Changes;
use crate::errors::{raised, wrong};
use crate::forward::{self, Output};
use crate::optimizer::Optimizer;
use crate::paths::UserPath;
use crate::start::{self, Start};
use crate::{autograd, settings, state, step};

/// Networks of this process so far.
static NETWORKS: AtomicU64 = AtomicU64::new(0);

/// A spiking network with its parameters.
///
/// Made by `dsr.load`, `dsr.preact_resnet`, `dsr.vgg`, `dsr.imagenet_resnet`, `dsr.train` or `dsr.Network.build`. Calls release the GIL;
/// several threads may call, one network at a time works for one of them.
#[pyclass(module = "dsr", frozen)]
pub struct Network {
    pub(crate) engine: Mutex<Engine>,
    /// None for a network that was put together layer by layer.
    config: Option<Config>,
    card: DataCard,
    /// The run folder that it was trained into.
    folder: Option<PathBuf>,
    /// A number that no other network of the process has.
    number: u64,
    pub(crate) changes: Changes,
    pub(crate) start: Start,
}

impl Network {
    /// A network that has its thresholds; [`Network::starting`] is of one that may have to choose them.
    pub fn new(engine: Engine, config: Option<Config>, card: DataCard, folder: Option<PathBuf>) -> Self {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let (changes, start) = (Changes::default(), Start::default());
        Network { engine: Mutex::new(engine), config, card, folder, number, changes, start }
    }

    pub fn starting(self, start: Start) -> Self {
        Network { start, ..self }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn card(&self) -> &DataCard {
        &self.card
    }

    pub fn settings(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    pub fn gradient(&self) -> WeightGradient {
        self.config.as_ref().map_or(WeightGradient::Rate, Config::gradient)
    }

    pub fn seed(&self) -> u64 {
        self.config.as_ref().map_or(0, |config| config.seed)
    }
}

#[pymethods]
impl Network {
    /// Evaluates images.
    ///
    /// Parameters
    /// ----------
    /// images : numpy.ndarray or torch.Tensor
    ///     `[B, C, H, W]`, or `[B, T, C, H, W]` for recordings; float32, as the network takes them, or uint8, which the normalisation of
    ///     the network is applied to. Tensors on the CUDA device of the network are read there, others on the host.
    /// spikes : bool or list of str, optional
    ///     Layers whose spikes are wanted: True for all, or names.
    /// layout : {"NCHW", "NHWC"}
    ///     Order of the axes of an image.
    /// batch : int
    ///     Samples that are computed at once; it changes no logit.
    ///
    /// Returns
    /// -------
    /// Output
    ///     `logits` `[B, classes]` float32, `logits_on_device` the same on the CUDA device that the images were on, `rates` (layer name to
    ///     spikes per neuron and step), `spikes` (layer name to bool `[T, B, C, H, W]`).
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For another shape or type (float64: use float32), a value that is not finite, an unknown layer.
    /// dsr.DeviceError
    ///     If the device fails.
    #[pyo3(signature = (images, spikes = None, layout = "NCHW", batch = 128))]
    fn __call__(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        spikes: Option<&Bound<'_, PyAny>>,
        layout: &str,
        batch: usize,
    ) -> PyResult<Output> {
        forward::evaluate(self, py, images, spikes, layout, batch)
    }

    /// Takes one training step: forward with batch statistics, cross-entropy, backward, update.
    ///
    /// The first step of a network that was made without thresholds of the caller's (`threshold_init="auto"`) chooses those that have
    /// not been given or loaded since from its batch, as `choose_thresholds` does. Layers without a spike are named in a warning, once
    /// for a network.
    ///
    /// Parameters
    /// ----------
    /// images : numpy.ndarray or torch.Tensor
    ///     As for a call of the network.
    /// labels : numpy.ndarray or torch.Tensor
    ///     Numbers of the classes, `[B]`, integers.
    /// optimizer : Optimizer
    ///     Of this network: `dsr.SGD(net, lr=0.1)`, `dsr.Adam` or `dsr.AdamW`.
    /// layout : {"NCHW", "NHWC"}
    ///     Order of the axes of an image.
    ///
    /// Returns
    /// -------
    /// float
    ///     Mean loss of the batch, before the update.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For wrong images or labels, or an optimiser of another network.
    /// FloatingPointError
    ///     If a value or gradient is not finite; parameters, running statistics and optimiser are then as before.
    #[pyo3(signature = (images, labels, optimizer, layout = "NCHW"))]
    fn train_step(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        labels: &Bound<'_, PyAny>,
        optimizer: &Bound<'_, Optimizer>,
        layout: &str,
    ) -> PyResult<f64> {
        step::take(self, py, images, labels, optimizer.get(), layout)
    }

    /// Chooses the threshold of every layer from images, so that none starts silent.
    ///
    /// Parameters
    /// ----------
    /// images : numpy.ndarray or torch.Tensor
    ///     As for a call of the network; some dozens are enough.
    /// layout : {"NCHW", "NHWC"}
    ///     Order of the axes of an image.
    ///
    /// Returns
    /// -------
    /// dict
    ///     Layer name to its threshold.
    #[pyo3(signature = (images, layout = "NCHW"))]
    fn choose_thresholds<'py>(&self, py: Python<'py>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<Bound<'py, PyDict>> {
        let chosen = self.choose(py, images, layout)?;
        let thresholds = PyDict::new(py);
        chosen.iter().try_for_each(|of_layer| thresholds.set_item(&of_layer.layer, of_layer.threshold))?;
        Ok(thresholds)
    }

    /// Parameters and running statistics, with the names and shapes of the authors' PyTorch networks.
    ///
    /// Returns
    /// -------
    /// dict
    ///     Name to float32 array; counters of batches are int64.
    fn state_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        state::of(py, &*self.engine(py)?)
    }

    /// Takes parameters and running statistics.
    ///
    /// Parameters
    /// ----------
    /// state : dict
    ///     Name to array or tensor, as `state_dict` gives them; counters of batches may be missing.
    /// strict : bool
    ///     Whether every tensor has to be there, and no other; without it, those that fit by name are taken. Thresholds that are taken
    ///     stay as they are given: the first training step chooses the others only.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For names or shapes of another network, or a value that is not finite; the network is then as before.
    #[pyo3(signature = (state, strict = true))]
    fn load_state_dict(&self, py: Python<'_>, state: &Bound<'_, PyDict>, strict: bool) -> PyResult<()> {
        let known = state::Known::of(&*self.engine(py)?);
        let taken = state::read(&known, state, strict)?;
        self.work(py, |engine| {
            self.changes.count();
            self.start.given(taken.places());
            taken.put(engine);
            Ok(())
        })
    }

    /// Writes a checkpoint, which `dsr.load`, `dsr eval` and `dsr train --init-from` read.
    ///
    /// Thresholds that the first training step is still to choose are so in the file, too, and a network that is loaded from it chooses
    /// them.
    ///
    /// Parameters
    /// ----------
    /// path : path-like
    ///     File to write or replace.
    /// optimizer : Optimizer, optional
    ///     Whose state is kept, too.
    ///
    /// Raises
    /// ------
    /// OSError, ValueError
    ///     If the file cannot be written, or a value is not finite; an older file is then unchanged.
    #[pyo3(signature = (path, optimizer = None))]
    fn save(&self, py: Python<'_>, path: UserPath, optimizer: Option<&Bound<'_, Optimizer>>) -> PyResult<()> {
        let path = path.0;
        let config_toml = match &self.config {
            Some(config) => config.without_machine().to_toml().map_err(raised)?,
            None => String::new(),
        };
        let progress = Progress { seed: self.seed(), ..Progress::default() };
        let write = |engine: &Engine, rule: &Rule| {
            let unchosen = self.start.names(engine);
            let about = About { config_toml: &config_toml, data: Some(&self.card), unchosen: &unchosen, ..About::default() };
            checkpoint::save(&path, engine, rule, &progress, about)
        };
        match optimizer {
            Some(optimizer) => self.work_with(py, optimizer.get(), |engine, rule, _| write(engine, rule)),
            None => self.work(py, |engine| write(engine, &Config::default().optimizer(engine))),
        }
    }

    /// Reads parameters and running statistics from a checkpoint, or from a `state_dict` in safetensors, of a network like this one.
    ///
    /// Raises
    /// ------
    /// FileNotFoundError, ValueError
    ///     If there is no such file, or it is damaged or of another network; the network is then as before.
    fn load(&self, py: Python<'_>, path: UserPath) -> PyResult<()> {
        let path = choice::checkpoint_file(&path.0);
        self.work(py, |engine| {
            self.changes.count();
            let unchosen = checkpoint::unchosen(&path)?;
            checkpoint::load(&path, engine, None)?;
            self.start.set(start::thresholds_called(engine, &unchosen));
            Ok(())
        })
    }

    /// Computes on this device from now on: `cpu`, `cuda`, `cuda:N` or `auto`.
    ///
    /// Raises
    /// ------
    /// dsr.DeviceError
    ///     If a device that was named cannot be used.
    fn to<'py>(slf: Bound<'py, Self>, device: &str) -> PyResult<Bound<'py, Self>> {
        let device = keeping_current(|| Device::named(device)).map_err(raised)?;
        let net = slf.get();
        net.work(slf.py(), |engine| {
            net.changes.count();
            engine.place(&device)
        })?;
        Ok(slf)
    }

    /// A copy with parameters of its own; what the first training step is to choose, the copy's chooses, too.
    fn copy(&self, py: Python<'_>) -> PyResult<Network> {
        let (engine, start) = self.work(py, |engine| Ok((engine.clone(), Start::choosing(self.start.unchosen()))))?;
        Ok(Network::new(engine, self.config.clone(), self.card.clone(), self.folder.clone()).starting(start))
    }

    /// Number of time steps T, 1 to 255; may be set.
    #[getter]
    fn time_steps(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.engine(py)?.time_steps)
    }

    #[setter]
    fn set_time_steps(&self, py: Python<'_>, steps: usize) -> PyResult<()> {
        let mut engine = self.engine(py)?;
        if engine.neuron.is_real() && steps != 1 {
            return Err(wrong("time_steps", "an ANN has 1"));
        }
        if !(1..=255).contains(&steps) {
            return Err(wrong("time_steps", format!("{steps} is not in 1..=255")));
        }
        self.changes.count();
        engine.time_steps = steps;
        Ok(())
    }

    /// `(channels, height, width)`.
    #[getter]
    fn input_shape(&self, py: Python<'_>) -> PyResult<(usize, usize, usize)> {
        let [height, width, channels] = self.engine(py)?.input;
        Ok((channels, height, width))
    }

    /// Names of the classes, in the order of the logits.
    #[getter]
    fn classes(&self) -> Vec<String> {
        self.card.classes.clone()
    }

    /// What uint8 images are normalised with: mean and standard deviation of each channel, in units of `max_value`, and `max_value`.
    #[getter]
    fn normalization<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("mean", &self.card.mean)?;
        dict.set_item("std", &self.card.std)?;
        dict.set_item("max_value", self.card.max_value)?;
        Ok(dict)
    }

    /// All settings by name; empty for a network of `Network.build`.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let Some(config) = &self.config else { return Ok(dict) };
        for (key, value) in config.to_complete_table().map_err(raised)? {
            dict.set_item(key, settings::to_python(py, &value)?)?;
        }
        Ok(dict)
    }

    /// `if`, `lif`, or `relu` for an ANN.
    #[getter]
    fn neuron(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.engine(py)?.neuron.name())
    }

    /// Names of the layers that have neurons, in order.
    #[getter]
    fn layers(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.engine(py)?.firing_layers().map(|layer| layer.name.clone()).collect())
    }

    /// Where it computes.
    #[getter]
    fn device(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.engine(py)?.device().to_string())
    }

    /// The run folder that `dsr.train` has written; None for another network.
    #[getter]
    fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let engine = self.engine(py)?;
        let model = self.config.as_ref().map_or("built".to_string(), Config::model_name);
        let (layers, parameters, neuron) = (engine.layers.len(), engine.len(), engine.neuron.name());
        let [height, width, channels] = engine.input;
        let shape = format!("({channels}, {height}, {width})");
        Ok(format!(
            "dsr.Network({model}, {shape} -> {}, {layers} layers, {parameters} parameters, {neuron}, T={})",
            engine.classes, engine.time_steps
        ))
    }

    /// The layers in order, as an exporter needs them: see `docs/python.md`.
    fn graph<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        // Rounded weights lie where the network computes.
        let engine = self.work(py, |engine| {
            let mut engine = engine.clone();
            engine.place(&Device::Cpu).map(|()| engine)
        })?;
        crate::graph::of(py, &engine)
    }

    // What `dsr.torch` is made of.

    /// Names, shapes of the trainable tensors, in the order of `_grads`.
    fn _parameters(&self, py: Python<'_>) -> PyResult<Vec<(String, Vec<usize>)>> {
        Ok(self.engine(py)?.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect())
    }

    /// Chooses thresholds as the first `train_step` does; whether it had to.
    #[pyo3(signature = (images, layout = "NCHW"))]
    fn _choose_once(&self, py: Python<'_>, images: &Bound<'_, PyAny>, layout: &str) -> PyResult<bool> {
        self.choose_once(py, images, layout)
    }

    /// How often the network was changed; forward passes in training mode change running statistics.
    fn _changes(&self) -> u64 {
        self.changes.counted()
    }

    /// A forward pass in training mode, which `_backward` may follow: logits (where the images were, if that is the network's device), rates,
    /// and its number, that of `_changes` after it.
    #[pyo3(signature = (images, seed, layout = "NCHW"))]
    fn _train_forward<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'_, PyAny>,
        seed: u64,
        layout: &str,
    ) -> PyResult<(Bound<'py, PyAny>, Vec<f32>, u64)> {
        autograd::forward(self, py, images, seed, layout)
    }

    /// Gradients of all trainable tensors, in PyTorch's shapes, and of the images `[B, H, W, C]`, for a gradient of the logits of the
    /// last `_train_forward`, which has this number; of recordings, the mean over their frames.
    #[pyo3(signature = (images, grad_logits, number, layout = "NCHW"))]
    fn _backward<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'_, PyAny>,
        grad_logits: &Bound<'_, PyAny>,
        number: u64,
        layout: &str,
    ) -> PyResult<(Vec<Bound<'py, PyArrayDyn<f32>>>, Bound<'py, PyArrayDyn<f32>>)> {
        autograd::backward(self, py, images, grad_logits, number, layout)
    }
}
