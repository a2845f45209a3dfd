//! Networks from files, by name, and layer by layer.

use dsr::checkpoint;
use dsr::data::DataCard;
use dsr::device::Device;
use dsr::network::{Builder, Connection, Conv, Init, NO_POOL, Source};
use dsr::ops::neuron::Neuron;
use dsr::settings::ThresholdInit;
use dsr::training::choice;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::listed;
use crate::errors::{raised, wrong};
use crate::network::Network;
use crate::paths::UserPath;
use crate::start::{self, Start};
use crate::{settings, threads};

/// Loads a trained network from a run folder (its best checkpoint), a checkpoint, or what `dsr export` has written.
///
/// Parameters
/// ----------
/// path : path-like
///     Folder or file.
/// device : str
///     Where to compute: cpu, cuda, cuda:N or auto.
/// average : bool
///     Take the moving average of the weights, which a run with `ema` keeps.
///
/// Returns
/// -------
/// Network
///
/// Raises
/// ------
/// FileNotFoundError
///     If there is no such file.
/// ValueError
///     If it is damaged, or does not say which network it holds: build that network and use its method `load`.
#[pyfunction]
#[pyo3(signature = (path, device = "cpu", average = false))]
pub fn load(py: Python<'_>, path: UserPath, device: &str, average: bool) -> PyResult<Network> {
    let path = choice::checkpoint_file(&path.0);
    let (config, card, engine, start) = threads::work(py, || {
        let (config, card, mut engine) = checkpoint::open(&path)?;
        let start = Start::choosing(start::thresholds_called(&engine, &checkpoint::unchosen(&path)?));
        if average {
            checkpoint::load_average(&path, &mut engine)?;
        }
        engine.place(&Device::named(device)?)?;
        Ok((config, card, engine, start))
    })?;
    Ok(Network::new(engine, Some(config), card, None).starting(start))
}

/// Names of the classes: as given, or the numbers of so many.
fn class_names(given: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let refused = |n: &dyn std::fmt::Display| wrong("classes", format!("{n} is not in 1..={LARGEST}"));
    if given.hasattr("__index__")? {
        let number = given.extract().ok().filter(|n| (1..=LARGEST).contains(n)).ok_or_else(|| refused(given))?;
        return Ok((0..number).map(|class| class.to_string()).collect());
    }
    let name = |item: &Bound<'_, PyAny>| item.extract().map_err(|_| wrong("classes", format!("{item} is no name")));
    let names: Vec<String> = listed("classes", given, name)?;
    if names.is_empty() { Err(refused(&0)) } else { Ok(names) }
}

/// Names of the classes and normalisation, for a network of images `(channels, height, width)`.
fn card(shape: [usize; 3], frames: usize, about: &About<'_>) -> PyResult<DataCard> {
    let channels = shape[2];
    let classes = class_names(&about.classes)?;
    let numbers = |name: &str, given: &Option<Bound<'_, PyAny>>, otherwise: f32| match given {
        Some(given) => listed(name, given, |item| item.extract::<f32>()),
        None => Ok(vec![otherwise; channels]),
    };
    let (mean, std) = (numbers("mean", &about.mean, 0.0)?, numbers("std", &about.std, 1.0)?);
    for (name, values) in [("mean", &mean), ("std", &std)] {
        if values.len() != channels || values.iter().any(|v| !v.is_finite()) || (name == "std" && values.iter().any(|&v| v <= 0.0)) {
            return Err(wrong(name, format!("{values:?}: give one number for each of the {channels} channels")));
        }
    }
    Ok(DataCard { name: "python".into(), shape, frames, classes, max_value: 255, mean, std })
}

/// Images and classes of a network to be made; all by their names.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct About<'py> {
    input_shape: [usize; 3],
    /// Their number, or their names.
    classes: Bound<'py, PyAny>,
    mean: Option<Bound<'py, PyAny>>,
    std: Option<Bound<'py, PyAny>>,
}

/// Largest number that says a shape: more has no network, and computing with it may overflow.
const LARGEST: usize = 1 << 16;

/// Refuses an input without values, or with more than are counted with 31 bits.
fn check_shape(shape: [usize; 3]) -> PyResult<()> {
    let [channels, height, width] = shape;
    let values = shape.iter().fold(1usize, |values, &n| values.saturating_mul(n));
    if shape.iter().all(|n| (1..=LARGEST).contains(n)) && values < 1 << 31 {
        return Ok(());
    }
    let problem = format!("({channels}, {height}, {width}): every number is in 1..={LARGEST}, and an image has fewer than 2^31 values");
    Err(wrong("input_shape", problem))
}

/// A network of the settings that `dsr train` would have, with parameters drawn from the seed; `about` has `input_shape`, `classes`,
/// `mean` and `std`. The functions of the package are made of this.
#[pyfunction]
pub fn _network(py: Python<'_>, about: &Bound<'_, PyDict>, given: &Bound<'_, PyDict>) -> PyResult<Network> {
    let about: About = about.extract()?;
    let [channels, height, width] = about.input_shape;
    check_shape([channels, height, width])?;
    let table = settings::table(Some(given))?;
    let config = choice::fresh(None, settings::layers(&table)).map_err(raised)?;
    let card = card([height, width, channels], 1, &about)?;
    let engine = threads::work(py, || config.network(card.shape, card.classes.len()))?;
    // Thresholds that are fixed are the caller's, or those of the settings.
    let is_open = config.threshold_init == ThresholdInit::Auto;
    let start = if is_open { Start::choosing(start::thresholds(&engine)) } else { Start::default() };
    Ok(Network::new(engine, Some(config), card, None).starting(start))
}

/// A connection, as `dsr.conv`, `dsr.linear` and `dsr.identity` describe it.
#[derive(FromPyObject)]
struct ConnectionOf {
    kind: String,
    source: String,
    name: Option<String>,
    out: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
    pool: Option<[usize; 3]>,
    bias: bool,
    std: Option<f32>,
    norm: Option<String>,
}

/// A layer, as `dsr.layer` describes it.
#[derive(FromPyObject)]
struct LayerOf {
    name: String,
    connections: Vec<ConnectionOf>,
    norm: Option<String>,
    dropout: f32,
}

/// Constants of a network that is put together.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Constants {
    neuron: String,
    time_steps: Option<usize>,
    /// None to choose them from the first batch.
    threshold: Option<f32>,
    alpha: f32,
    tau: f32,
    delta_t: f32,
    threshold_bound: f32,
    weight_bits: u8,
    readout: String,
    seed: u64,
}

/// A network of these layers; `Network.build` is made of it.
#[pyfunction]
pub fn _build(
    py: Python<'_>,
    about: &Bound<'_, PyDict>,
    constants: &Bound<'_, PyDict>,
    layers: Vec<Bound<'_, PyAny>>,
) -> PyResult<Network> {
    let about: About = about.extract()?;
    let [channels, height, width] = about.input_shape;
    check_shape([channels, height, width])?;
    let Constants { neuron, time_steps, threshold, alpha, tau, delta_t, threshold_bound, weight_bits, readout, seed } =
        constants.extract()?;
    let neuron = match neuron.as_str() {
        "if" => Neuron::If { alpha },
        "lif" => Neuron::Lif { alpha, tau, delta_t },
        "relu" => Neuron::Relu,
        other => return Err(wrong("neuron", format!("'{other}' is none of if, lif and relu"))),
    };
    if ![8, 16].contains(&weight_bits) {
        return Err(wrong("weight_bits", format!("{weight_bits} is neither 16 nor 8")));
    }
    let card = card([height, width, channels], 1, &about)?;
    let mut builder = Builder::new(card.shape, threshold.unwrap_or(1.0));
    let layers: Vec<LayerOf> = layers
        .iter()
        .map(|layer| layer.extract())
        .collect::<PyResult<_>>()
        .map_err(|e: PyErr| PyTypeError::new_err(format!("layers: each is made by dsr.layer(name, connections): {}", e.value(py))))?;
    for layer in &layers {
        add(&mut builder, layer)?;
    }
    let (last, classes) = (builder.layers.last().map(|layer| layer.shape), card.classes.len());
    if last != Some([1, 1, classes]) {
        let found = last.map_or("no layers".to_string(), |[h, w, c]| format!("a last layer of shape ({c}, {h}, {w})"));
        return Err(wrong("layers", format!("{found}; for {classes} classes it is ({classes}, 1, 1), such as that of dsr.linear")));
    }
    let builder = match readout.as_str() {
        "spikes" => builder,
        "current" => builder.read_current().map_err(raised)?,
        other => return Err(wrong("readout", format!("'{other}' is neither spikes nor current"))),
    };
    let time_steps = time_steps.unwrap_or(if neuron.is_real() { 1 } else { 8 });
    let engine = threads::work(py, || {
        let mut engine = builder.finish(neuron, time_steps, threshold_bound, seed)?;
        engine.weight_bits = weight_bits;
        engine.prepare();
        Ok(engine)
    })?;
    let start = if threshold.is_none() { Start::choosing(start::thresholds(&engine)) } else { Start::default() };
    Ok(Network::new(engine, None, card, None).starting(start))
}

fn add(builder: &mut Builder, layer: &LayerOf) -> PyResult<()> {
    if builder.layers.iter().any(|other| other.name == layer.name) || layer.name == "input" {
        return Err(wrong("layers", format!("there is more than one called '{}'", layer.name)));
    }
    if layer.connections.is_empty() {
        return Err(wrong(&layer.name, "a layer has one or two connections"));
    }
    if !(0.0..1.0).contains(&layer.dropout) {
        return Err(wrong(&layer.name, format!("dropout {} is not in 0..1", layer.dropout)));
    }
    let mut connections = Vec::new();
    for of in &layer.connections {
        connections.push(connection(builder, layer, of)?);
    }
    builder.layer(&layer.name, connections, layer.norm.as_deref(), layer.dropout).map(drop).map_err(raised)
}

fn connection(builder: &mut Builder, layer: &LayerOf, of: &ConnectionOf) -> PyResult<Connection> {
    let source = match of.source.as_str() {
        "input" => Source::Input,
        name => Source::Layer(builder.layers.iter().position(|other| other.name == name).ok_or_else(|| {
            let known: Vec<&str> = builder.layers.iter().map(|other| other.name.as_str()).collect();
            wrong(&layer.name, format!("its source '{name}' is no layer before it; there are input, {}", known.join(", ")))
        })?),
    };
    let pool = of.pool.unwrap_or(NO_POOL);
    if let Some(n) = [of.out, of.kernel, of.stride, of.pad].iter().chain(&pool).find(|&&n| n > LARGEST) {
        return Err(wrong(&layer.name, format!("a size, stride, padding or pool of {n}; at most {LARGEST}")));
    }
    if source == Source::Input && pool != NO_POOL {
        return Err(wrong(&layer.name, "a pool in front of the input's own connection is not done; pool the images"));
    }
    if pool[0] == 0 || pool[1] == 0 || of.stride == 0 {
        return Err(wrong(&layer.name, "a window or stride of 0"));
    }
    if pool[2] * 2 > pool[0] {
        return Err(wrong(&layer.name, format!("a pool of {} is padded by at most half of that, not {}", pool[0], pool[2])));
    }
    let name = of.name.clone().unwrap_or_default();
    if of.kind != "identity" && (name.is_empty() || builder_has(builder, &name)) {
        return Err(wrong(&layer.name, format!("a connection with weights needs a name of its own, not '{name}'")));
    }
    let [height, width, channels] = builder.shape(source);
    let mut made = match of.kind.as_str() {
        "identity" if source == Source::Input => return Err(wrong(&layer.name, "the input needs a convolution or linear layer")),
        "identity" => builder.identity(source, pool),
        "conv" => {
            if of.out == 0 || of.kernel == 0 {
                return Err(wrong(&name, "at least one output channel, and a kernel of at least 1"));
            }
            let taps = of.kernel * of.kernel;
            let weight = Init::Normal(of.std.unwrap_or((2.0 / (of.out * taps) as f32).sqrt()));
            let bias = of.bias.then(|| Init::Uniform(1.0 / ((channels * taps) as f32).sqrt()));
            let conv = Conv { cout: of.out, kernel: of.kernel, stride: of.stride, pad: of.pad, weight, bias };
            builder.conv(&name, source, pool, conv)
        }
        "linear" => {
            if of.out == 0 {
                return Err(wrong(&name, "at least one output"));
            }
            let pooled = [height, width].map(|n| (n + 2 * pool[2]).saturating_sub(pool[0]) / pool[1] + 1);
            let bound = 1.0 / ((channels * pooled[0] * pooled[1]).max(1) as f32).sqrt();
            let weight = of.std.map_or(Init::Uniform(bound), Init::Normal);
            builder.linear(&name, source, pool, of.out, 1, [weight, Init::Constant(0.0)])
        }
        other => return Err(wrong(&layer.name, format!("'{other}' is none of conv, linear and identity"))),
    };
    if let Some(norm) = &of.norm {
        made.norm = Some(builder.norm(norm, made.geometry.cout));
    }
    Ok(made)
}

/// Whether a connection of this name was added.
fn builder_has(builder: &Builder, name: &str) -> bool {
    builder.has_parameter(&format!("{name}.weight"))
}
