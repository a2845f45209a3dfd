//! Checkpoints: safetensors files with PyTorch's names and shapes, and beside them all that training needs to go on.
//!
//! | tensor | type | |
//! |---|---|---|
//! | `layer1.0.conv1.weight`, `layer1.0.relu1.Vth`, … | F32 | parameters, as in the reference's `state_dict` |
//! | `bn1.running_mean`, `bn1.running_var` | F32 | running statistics |
//! | `bn1.num_batches_tracked` | I64 | batches seen |
//! | `optimizer.first/NAME`, `optimizer.second/NAME` | F32 | optimiser state of the parameter |
//!
//! An ANN (`relu`) has no thresholds, so neither has its file.
//!
//! Metadata: `format` = `dsr`, `version`, `config` (TOML), `progress` and `optimizer` (JSON).
//! Equal states give equal bytes: no time, no path, everything sorted.

mod header;
mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::network::{Network, NormState};
use crate::ops::optimizer::{Optimizer, Rule};
use crate::training::metrics::EpochMetrics;
use header::{Opened, Tensors};
pub use progress::{EpochSums, Progress};

/// Version that [`save`] writes, and the latest that [`load`] reads.
pub const VERSION: u32 = 1;

/// Metadata `optimizer`.
#[derive(Serialize, Deserialize)]
struct OptimizerState {
    rule: Rule,
    steps: u64,
}

/// Name of the checksum in the metadata.
const CHECKSUM: &str = "crc32c";

/// Checksum of a file: of what its metadata say and of all tensors, in the order of the file. Two CRC-32C in hexadecimal.
fn checksum(said: [&str; 3], tensors: u32) -> String {
    let said = said.iter().fold(0, |checksum, text| crc32c::crc32c_append(crc32c::crc32c_append(checksum, text.as_bytes()), b"\0"));
    format!("{said:08x}{tensors:08x}")
}

/// Refuses a file whose checksum is not that of its contents. Files from elsewhere have none.
fn check_sum(path: &Path, opened: &Opened, tensors: &[u8]) -> Result<()> {
    let Some(written) = opened.meta(CHECKSUM) else { return Ok(()) };
    let said = ["config", "progress", "optimizer"].map(|key| opened.meta(key).unwrap_or_default());
    if checksum(said, crc32c::crc32c(tensors)) == written {
        return Ok(());
    }
    Err(Error::file(path, "has changed since it was written: its checksum is another one; use another checkpoint"))
}

/// Where a tensor of the file lives: an index into the network's parameters or norms.
#[derive(Clone, Copy)]
enum Place {
    Parameter(usize),
    First(usize),
    Second(usize),
    RunningMean(usize),
    RunningVar(usize),
    Batches(usize),
}

/// Whether a parameter is a threshold.
fn is_threshold(network: &Network, index: usize) -> bool {
    network.layers.iter().any(|layer| layer.threshold == index)
}

/// All tensors of a checkpoint by name, with their shapes.
fn places(network: &Network, optimizer: Option<&Optimizer>) -> BTreeMap<String, (Vec<usize>, Place)> {
    let mut places = BTreeMap::new();
    let is_kept = |index: usize| !(network.neuron.is_real() && is_threshold(network, index));
    for (index, parameter) in network.parameters.iter().enumerate().filter(|(index, _)| is_kept(*index)) {
        places.insert(parameter.name.clone(), (parameter.shape.clone(), Place::Parameter(index)));
        if let Some(optimizer) = optimizer {
            places.insert(format!("optimizer.first/{}", parameter.name), (parameter.shape.clone(), Place::First(index)));
            if !optimizer.second.is_empty() {
                places.insert(format!("optimizer.second/{}", parameter.name), (parameter.shape.clone(), Place::Second(index)));
            }
        }
    }
    for (index, norm) in network.norms.iter().enumerate() {
        let channels = vec![norm.running_mean.len()];
        places.insert(format!("{}.running_mean", norm.name), (channels.clone(), Place::RunningMean(index)));
        places.insert(format!("{}.running_var", norm.name), (channels, Place::RunningVar(index)));
        places.insert(format!("{}.num_batches_tracked", norm.name), (vec![], Place::Batches(index)));
    }
    places
}

/// Bytes of a tensor, in PyTorch's order.
fn bytes_at(place: Place, network: &Network, optimizer: &Optimizer) -> Vec<u8> {
    match place {
        Place::Parameter(index) => le_bytes(&network.in_torch_order(index, &network.values)),
        Place::First(index) => le_bytes(&network.in_torch_order(index, &optimizer.first)),
        Place::Second(index) => le_bytes(&network.in_torch_order(index, &optimizer.second)),
        Place::RunningMean(index) => le_bytes(&network.norms[index].running_mean),
        Place::RunningVar(index) => le_bytes(&network.norms[index].running_var),
        Place::Batches(index) => network.norms[index].batches.to_le_bytes().to_vec(),
    }
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
    bytes
}

/// Writes a checkpoint, tensor by tensor, in place of an older one. `config_toml` are the settings that made the network; empty for one
/// that no settings describe, which the commands then do not open.
///
/// # Errors
/// [`Error`] with the path if the file cannot be written, or if the state holds a value that is not finite; an older checkpoint
/// at `path` is then unchanged.
pub fn save(path: &Path, network: &Network, optimizer: &Optimizer, progress: &Progress, config_toml: &str) -> Result<()> {
    check_lengths(network, optimizer)?;
    check_finite(path, network, optimizer)?;
    let metrics = progress.metrics.iter().map(EpochMetrics::without_times).collect();
    let json_error = |e: serde_json::Error| Error::file(path, format!("cannot be written: {e}"));
    let progress = serde_json::to_string(&Progress { metrics, ..progress.clone() }).map_err(json_error)?;
    let state = OptimizerState { rule: optimizer.rule, steps: optimizer.steps };
    let state = serde_json::to_string(&state).map_err(json_error)?;
    let version = VERSION.to_string();

    let places = places(network, Some(optimizer));
    // Eight-byte values first, so that every tensor is aligned.
    let (counters, floats): (Vec<_>, Vec<_>) = places.iter().partition(|(_, (_, place))| matches!(place, Place::Batches(_)));
    let mut tensors_checksum = 0;
    for (_, (_, place)) in counters.iter().chain(&floats) {
        tensors_checksum = crc32c::crc32c_append(tensors_checksum, &bytes_at(*place, network, optimizer));
    }
    let checksum = checksum([config_toml, &progress, &state], tensors_checksum);
    let metadata = [
        ("format", "dsr"),
        ("version", &version),
        ("config", config_toml),
        ("progress", &progress),
        ("optimizer", &state),
        (CHECKSUM, &checksum),
    ];
    let metadata = metadata.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let mut header = Header { metadata, tensors: BTreeMap::new() };
    let mut end = 0;
    for (dtype, tensors) in [(Dtype::I64, &counters), (Dtype::F32, &floats)] {
        for (name, (shape, _)) in tensors {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            header.tensors.insert(name, TensorInfo { dtype, shape: shape.clone(), data_offsets: (start, end) });
        }
    }
    let mut header = serde_json::to_vec(&header).map_err(json_error)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic_file::write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (_, (_, place)) in counters.iter().chain(&floats) {
            out.write_all(&bytes_at(*place, network, optimizer))?;
        }
        Ok(())
    })
}

/// The file's header; sorted maps, so that equal states give equal bytes.
#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

fn check_lengths(network: &Network, optimizer: &Optimizer) -> Result<()> {
    let len = network.values.len();
    let second = if matches!(optimizer.rule, Rule::Adam { .. }) { len } else { 0 };
    let found = (optimizer.first.len(), optimizer.second.len());
    if found == (len, second) { Ok(()) } else { Err(Error::shape("optimiser state", (len, second), found)) }
}

/// A checkpoint that [`load`] would refuse must not replace one that it takes.
fn check_finite(path: &Path, network: &Network, optimizer: &Optimizer) -> Result<()> {
    let in_arenas = [("", &network.values), ("the optimiser state of ", &optimizer.first), ("the optimiser state of ", &optimizer.second)];
    let in_parameters = in_arenas.iter().find_map(|(what, arena)| {
        let index = arena.iter().position(|v| !v.is_finite())?;
        let parameter = network.parameters.iter().find(|p| (p.start..p.start + p.len).contains(&index))?;
        Some(format!("{what}{}", parameter.name))
    });
    let bad_norm = || network.norms.iter().find(|n| n.running_mean.iter().chain(&n.running_var).any(|v| !v.is_finite()));
    match in_parameters.or_else(|| bad_norm().map(NormState::statistics_name)) {
        None => Ok(()),
        Some(what) => {
            let problem =
                format!("not written, because {what} holds a value that is not finite: lower --lr, or go on from an older checkpoint");
            Err(Error::file(path, problem))
        }
    }
}

/// Reads a checkpoint, or a PyTorch `state_dict` that was saved through safetensors, into `network` and `optimizer`.
///
/// An ANN takes the weights of a spiking network and leaves the thresholds. Of a plain `state_dict` (whose names may begin with
/// `module.`) only the network is read, and the result is none.
///
/// # Errors
/// [`Error::File`] if the file is damaged, by a later version, of another network, or holds values that are not finite;
/// `network` and `optimizer` are then as before.
pub fn load(path: &Path, network: &mut Network, optimizer: Option<&mut Optimizer>) -> Result<Option<Progress>> {
    read(path, network, optimizer, false).map(|(progress, _)| progress)
}

/// Reads the parameters that a new run starts from, as [`load`]; a file of an ANN leaves the thresholds of `network` as they are.
/// Says whether the file had thresholds.
///
/// # Errors
/// As [`load`].
pub fn load_start(path: &Path, network: &mut Network) -> Result<bool> {
    read(path, network, None, true).map(|(_, has_thresholds)| has_thresholds)
}

/// Reads a file; without `may_lack_thresholds`, a spiking network takes no file of an ANN. Says whether the file had thresholds.
fn read(
    path: &Path,
    network: &mut Network,
    optimizer: Option<&mut Optimizer>,
    may_lack_thresholds: bool,
) -> Result<(Option<Progress>, bool)> {
    let opened = Opened::open(path)?;
    let ours = check_version(path, &opened)?;
    let progress = if ours { Some(progress_of(path, &opened)?) } else { None };
    let mut optimizer = optimizer.filter(|_| ours);
    let mut steps = 0;
    if let Some(optimizer) = &mut optimizer {
        check_lengths(network, optimizer)?;
        let state = json_meta::<OptimizerState>(path, &opened, "optimizer")?;
        let (saved, wanted) = (rule_name(state.rule), rule_name(optimizer.rule));
        if saved != wanted {
            let problem =
                format!("was trained with {saved}, but this run uses {wanted}: pass --optimizer {saved}, or begin with --init-from");
            return Err(Error::file(path, problem));
        }
        steps = state.steps;
    }
    let tensors = opened.tensors(|opened, data| check_sum(path, opened, data))?;
    let mut places = places(network, optimizer.as_deref());
    let thresholds: BTreeSet<&str> = network.layers.iter().map(|layer| network.parameters[layer.threshold].name.as_str()).collect();
    let has_thresholds = thresholds.iter().any(|name| tensors.has(name));
    if may_lack_thresholds && !has_thresholds {
        places.retain(|name, _| !thresholds.contains(name.as_str()));
    }
    check_names(path, &tensors, places.keys().map(String::as_str).collect(), &thresholds)?;
    for (name, (shape, place)) in &places {
        tensors.check_shape(name, shape)?;
        match place {
            Place::Batches(_) => drop(tensors.integer(name)?),
            Place::RunningVar(_) if tensors.floats(name)?.iter().any(|&v| v < 0.0) => {
                return Err(Error::file(path, format!("{name} holds a negative variance: it is damaged; use another checkpoint")));
            }
            _ => drop(tensors.floats(name)?),
        }
    }

    // All that can fail has been tried. Tensors are decoded once more, which takes less memory than having kept them.
    for (name, (_, place)) in &places {
        match *place {
            Place::Parameter(index) => network.set_parameter(index, &tensors.floats(name)?),
            Place::RunningMean(index) => network.norms[index].running_mean = tensors.floats(name)?,
            Place::RunningVar(index) => network.norms[index].running_var = tensors.floats(name)?,
            Place::Batches(index) => network.norms[index].batches = tensors.integer(name)?,
            Place::First(index) | Place::Second(index) => {
                let Some(optimizer) = optimizer.as_deref_mut() else { continue };
                let arena = if matches!(place, Place::First(_)) { &mut optimizer.first } else { &mut optimizer.second };
                // The network knows the order of its own arena only: lend it this one.
                std::mem::swap(&mut network.values, arena);
                network.set_parameter(index, &tensors.floats(name)?);
                std::mem::swap(&mut network.values, arena);
            }
        }
    }
    if let Some(optimizer) = optimizer {
        optimizer.steps = steps;
    }
    network.prepare();
    Ok((progress, has_thresholds))
}

/// The settings inside a checkpoint (TOML); none in a plain `state_dict`.
///
/// # Errors
/// As [`load`], of the header.
pub fn config(path: &Path) -> Result<Option<String>> {
    let opened = Opened::open(path)?;
    Ok(if check_version(path, &opened)? { opened.meta("config").map(str::to_string) } else { None })
}

/// How far the run of a checkpoint was, without its tensors.
///
/// # Errors
/// As [`load`], of the header; [`Error::File`] for a file that is no checkpoint.
pub fn progress(path: &Path) -> Result<Progress> {
    let opened = Opened::open(path)?;
    if check_version(path, &opened)? {
        progress_of(path, &opened)
    } else {
        Err(Error::file(path, "holds parameters but no training state"))
    }
}

fn progress_of(path: &Path, opened: &Opened) -> Result<Progress> {
    let progress = json_meta::<Progress>(path, opened, "progress")?;
    progress.check(path)?;
    Ok(progress)
}

/// Whether this is a checkpoint of ours, of a version we can read.
fn check_version(path: &Path, opened: &Opened) -> Result<bool> {
    if opened.meta("format") != Some("dsr") {
        return Ok(false);
    }
    let version = opened.meta("version").unwrap_or_default();
    match version.parse::<u64>() {
        Ok(number) if number > u64::from(VERSION) => {
            Err(Error::file(path, format!("written by a later dsr: version {number}, this one reads up to {VERSION}; use a newer dsr")))
        }
        Ok(1..) => Ok(true),
        _ => Err(Error::file(path, format!("has no valid version ({version:?}): it is damaged; use another checkpoint"))),
    }
}

fn json_meta<T: for<'de> Deserialize<'de>>(path: &Path, opened: &Opened, key: &str) -> Result<T> {
    let text = opened.meta(key).unwrap_or_default();
    serde_json::from_str(text)
        .map_err(|e| Error::file(path, format!("has damaged metadata {key:?} ({}): use another checkpoint", e.to_string().escape_debug())))
}

fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::Sgd { .. } => "sgd",
        Rule::Adam { .. } => "adam",
    }
}

/// The file must have each wanted tensor, and no other than optimiser state and thresholds.
fn check_names(path: &Path, tensors: &Tensors, wanted: BTreeSet<&str>, thresholds: &BTreeSet<&str>) -> Result<()> {
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !tensors.has(name)).collect();
    let names = tensors.names();
    let is_unexpected = |n: &&str| !wanted.contains(n) && !thresholds.contains(n) && !n.starts_with("optimizer.");
    let unexpected: Vec<&str> = names.into_iter().filter(is_unexpected).collect();
    if unexpected.is_empty() && !missing.is_empty() && missing.len() == thresholds.len() && missing.iter().all(|n| thresholds.contains(n)) {
        let problem = "holds an ANN, which has no thresholds: dsr calibrate takes them from its activations, and dsr train --init-from starts \
                       with those of its settings";
        return Err(Error::file(path, problem));
    }
    let lists: Vec<String> = [("missing", missing), ("unexpected", unexpected)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", first_three(&names)))
        .collect();
    if lists.is_empty() {
        return Ok(());
    }
    Err(Error::file(path, format!("belongs to another network: {}; check --model, --widths and --blocks", lists.join("; "))))
}

fn first_three(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(3).map(|name| name.escape_debug().to_string()).collect();
    let more = names.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
