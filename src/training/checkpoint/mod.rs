//! Checkpoints: safetensors files with PyTorch's names and shapes, and beside them all that training needs to go on.
//!
//! | tensor | type | |
//! |---|---|---|
//! | `layer1.0.conv1.weight`, `layer1.0.relu1.Vth`, … | F32 | parameters, as in the reference's `state_dict` |
//! | `bn1.running_mean`, `bn1.running_var` | F32 | running statistics |
//! | `bn1.num_batches_tracked` | I64 | batches seen |
//! | `optimizer.first/NAME`, `optimizer.second/NAME` | F32 | optimiser state of the parameter |
//! | `optimizer.average/NAME` | F32 | moving average of the parameter or running statistic, with `ema` |
//!
//! An ANN (`relu`) has no thresholds, so neither has its file.
//!
//! Metadata: `format` = `dsr`, `version`, `config` (TOML), `progress`, `optimizer` and `data` (JSON), `crc32c`.
//! Equal states give equal bytes: no time, no path, everything sorted.

mod export;
mod header;
mod progress;
mod read;

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::data::DataCard;
use crate::error::{Error, Result};
use crate::network::{Network, NormState};
use crate::ops::optimizer::{Optimizer, Rule};
use crate::training::metrics::EpochMetrics;
pub use export::export;
pub use progress::{EpochSums, Progress};
pub use read::{
    Started, check, config, data, described, is_calibrated, is_exported, is_first, load, load_average, load_start, load_weights, open,
    progress, unchosen,
};

/// Version that [`save`] writes, and the latest that [`load`] reads.
pub const VERSION: u32 = 1;

/// Metadata `optimizer`.
#[derive(Serialize, Deserialize)]
struct OptimizerState {
    rule: Rule,
    steps: u64,
}

/// Metadata of the first checkpoint of a run only.
const FIRST: &str = "first";

/// Metadata of what `dsr calibrate` has written.
const CALIBRATED: &str = "calibrated";

/// Metadata of a network whose thresholds the first batch is to choose: their names.
const UNCHOSEN: &str = "unchosen";

/// Metadata of what `dsr export` has written: whether batch norms are kept or folded.
const NORMS: &str = "norms";

/// Name of the checksum in the metadata.
const CHECKSUM: &str = "crc32c";

/// Checksum of a file: of what its metadata say, with the thresholds that nobody has chosen where there are any, and of all tensors, in
/// the order of the file. Two CRC-32C in hexadecimal.
fn checksum(said: [&str; 4], unchosen: &str, tensors: u32) -> String {
    let said = said.into_iter().chain(Some(unchosen).filter(|text| !text.is_empty()));
    let said = said.fold(0, |checksum, text| crc32c::crc32c_append(crc32c::crc32c_append(checksum, text.as_bytes()), b"\0"));
    format!("{said:08x}{tensors:08x}")
}

/// Where a tensor of the file lives: an index into the network's parameters or norms.
#[derive(Clone, Copy)]
enum Place {
    Parameter(usize),
    First(usize),
    Second(usize),
    Average(usize),
    AverageMean(usize),
    AverageVar(usize),
    RunningMean(usize),
    RunningVar(usize),
    Batches(usize),
}

/// All tensors of a checkpoint by name, with their shapes; `has_average` says whether averages are among them.
fn places(network: &Network, optimizer: Option<&Optimizer>, has_average: bool) -> BTreeMap<String, (Vec<usize>, Place)> {
    let mut places = BTreeMap::new();
    let is_kept = |index: usize| !(network.neuron.is_real() && network.is_threshold(index));
    for (index, parameter) in network.parameters.iter().enumerate().filter(|(index, _)| is_kept(*index)) {
        places.insert(parameter.name.clone(), (parameter.shape.clone(), Place::Parameter(index)));
        if let Some(optimizer) = optimizer {
            places.insert(format!("optimizer.first/{}", parameter.name), (parameter.shape.clone(), Place::First(index)));
            if !optimizer.second.is_empty() {
                places.insert(format!("optimizer.second/{}", parameter.name), (parameter.shape.clone(), Place::Second(index)));
            }
            if has_average {
                places.insert(averaged(&parameter.name), (parameter.shape.clone(), Place::Average(index)));
            }
        }
    }
    for (index, norm) in network.norms.iter().enumerate() {
        let channels = vec![norm.running_mean.len()];
        if has_average {
            places.insert(averaged(&format!("{}.running_mean", norm.name)), (channels.clone(), Place::AverageMean(index)));
            places.insert(averaged(&format!("{}.running_var", norm.name)), (channels.clone(), Place::AverageVar(index)));
        }
        places.insert(format!("{}.running_mean", norm.name), (channels.clone(), Place::RunningMean(index)));
        places.insert(format!("{}.running_var", norm.name), (channels, Place::RunningVar(index)));
        places.insert(format!("{}.num_batches_tracked", norm.name), (vec![], Place::Batches(index)));
    }
    places
}

/// Name of the moving average of a tensor.
fn averaged(name: &str) -> String {
    format!("optimizer.average/{name}")
}

/// Bytes of a tensor, in PyTorch's order.
fn bytes_at(place: Place, network: &Network, optimizer: &Optimizer) -> Vec<u8> {
    let [_, _, average, average_running] = optimizer.arenas();
    match place {
        Place::Parameter(index) => le_bytes(&network.in_torch_order(index, &network.values)),
        Place::First(index) => le_bytes(&network.in_torch_order(index, &optimizer.first)),
        Place::Second(index) => le_bytes(&network.in_torch_order(index, &optimizer.second)),
        Place::Average(index) => le_bytes(&network.in_torch_order(index, average)),
        Place::AverageMean(index) => le_bytes(&average_running[network.running_places(index)[0].clone()]),
        Place::AverageVar(index) => le_bytes(&average_running[network.running_places(index)[1].clone()]),
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

/// What a checkpoint says beside its numbers, so that it can be used without the run that wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// The settings that made the network; empty for one that no settings describe, which the commands then do not open.
    pub config_toml: &'a str,
    /// The data it was trained on: sizes, names of the classes, normalisation.
    pub data: Option<&'a DataCard>,
    /// Whether it is the first checkpoint of a run, of which nothing is lost if another run begins in its place.
    pub is_first: bool,
    /// Whether its thresholds were calibrated and nothing has been trained since.
    pub is_calibrated: bool,
    /// Names of the thresholds that nobody has given or chosen yet: the first batch that the network is trained on does.
    pub unchosen: &'a [String],
}

impl About<'_> {
    /// The names of the thresholds that nobody has chosen as a file has them; empty for none.
    fn unchosen_text(&self) -> serde_json::Result<String> {
        if self.unchosen.is_empty() { Ok(String::new()) } else { serde_json::to_string(self.unchosen) }
    }
}

/// Writes a checkpoint, tensor by tensor, in place of an older one.
///
/// # Errors
/// [`Error`] with the path if the file cannot be written, or if the state holds a value that is not finite; an older checkpoint
/// at `path` is then unchanged.
pub fn save(path: &Path, network: &Network, optimizer: &Optimizer, progress: &Progress, about: About) -> Result<()> {
    check_lengths(network, optimizer)?;
    check_finite(path, network, optimizer)?;
    check_card(path, about.data)?;
    let metrics = progress.metrics.iter().map(EpochMetrics::without_times).collect();
    let json_error = |e: serde_json::Error| Error::file(path, format!("cannot be written: {e}"));
    let progress = serde_json::to_string(&Progress { metrics, ..progress.clone() }).map_err(json_error)?;
    let state = OptimizerState { rule: optimizer.rule, steps: optimizer.steps };
    let state = serde_json::to_string(&state).map_err(json_error)?;
    let data = about.data.map_or(Ok(String::new()), serde_json::to_string).map_err(json_error)?;
    let unchosen = about.unchosen_text().map_err(json_error)?;
    let config_toml = about.config_toml;
    let version = VERSION.to_string();

    let places = places(network, Some(optimizer), optimizer.has_average());
    // Eight-byte values first, so that every tensor is aligned.
    let (counters, floats): (Vec<_>, Vec<_>) = places.iter().partition(|(_, (_, place))| matches!(place, Place::Batches(_)));
    let mut tensors_checksum = 0;
    for (_, (_, place)) in counters.iter().chain(&floats) {
        tensors_checksum = crc32c::crc32c_append(tensors_checksum, &bytes_at(*place, network, optimizer));
    }
    let checksum = checksum([config_toml, &progress, &state, &data], &unchosen, tensors_checksum);
    let metadata = [
        ("format", "dsr"),
        ("version", &version),
        ("config", config_toml),
        ("progress", &progress),
        ("optimizer", &state),
        ("data", &data),
        (FIRST, if about.is_first { "true" } else { "" }),
        (CALIBRATED, if about.is_calibrated { "true" } else { "" }),
        (UNCHOSEN, &unchosen),
        (CHECKSUM, &checksum),
    ];
    let metadata = metadata.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let shapes = counters.iter().map(|(name, (shape, _))| (name.as_str(), Dtype::I64, shape.as_slice()));
    let shapes = shapes.chain(floats.iter().map(|(name, (shape, _))| (name.as_str(), Dtype::F32, shape.as_slice())));
    let header = header(metadata, shapes).map_err(json_error)?;
    atomic_file::write_with(path, |out| {
        out.write_all(&header)?;
        for (_, (_, place)) in counters.iter().chain(&floats) {
            out.write_all(&bytes_at(*place, network, optimizer))?;
        }
        Ok(())
    })
}

/// A file's header; sorted maps, so that equal states give equal bytes.
#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

/// What stands before the tensors of a file, whose names, types and shapes come in the order in which they follow.
fn header<'a>(
    metadata: BTreeMap<&'a str, &'a str>,
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize])>,
) -> serde_json::Result<Vec<u8>> {
    let mut header = Header { metadata, tensors: BTreeMap::new() };
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        header.tensors.insert(name, TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (start, end) });
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}

fn check_lengths(network: &Network, optimizer: &Optimizer) -> Result<()> {
    let len = network.values.len();
    let second = if optimizer.rule.has_second() { len } else { 0 };
    let average = if optimizer.has_average() { len } else { 0 };
    let running = if optimizer.has_average() { network.norms.iter().map(|norm| 2 * norm.running_mean.len()).sum() } else { 0 };
    let (wanted, found) = ([len, second, average, running], optimizer.arenas().map(<[f32]>::len));
    if found == wanted { Ok(()) } else { Err(Error::shape("optimiser state", wanted, found)) }
}

/// A checkpoint whose data [`load`] would refuse is not written.
fn check_card(path: &Path, card: Option<&DataCard>) -> Result<()> {
    card.map_or(Ok(()), DataCard::check)
        .map_err(|says| Error::file(path, format!("not written, because its data have {says}: scale them, or give --mean and --std")))
}

/// A checkpoint that [`load`] would refuse must not replace one that it takes.
fn check_finite(path: &Path, network: &Network, optimizer: &Optimizer) -> Result<()> {
    let [first, second, average, _] = optimizer.arenas();
    let state = "the optimiser state of ";
    let in_arenas = [("", &*network.values), (state, first), (state, second), ("the average of ", average)];
    let in_parameters = in_arenas.iter().find_map(|(what, arena)| {
        let index = arena.iter().position(|v| !v.is_finite())?;
        let parameter = network.parameters.iter().find(|p| (p.start..p.start + p.len).contains(&index))?;
        Some(format!("{what}{}", parameter.name))
    });
    let bad_average = || {
        let has =
            |range: &std::ops::Range<usize>| optimizer.arenas()[3].get(range.clone()).is_some_and(|v| v.iter().any(|v| !v.is_finite()));
        let index = (0..network.norms.len()).find(|&index| network.running_places(index).iter().any(has))?;
        Some(format!("the average of {}", network.norms[index].statistics_name()))
    };
    let bad_norm = || network.norms.iter().find(|n| n.running_mean.iter().chain(&n.running_var).any(|v| !v.is_finite()));
    match in_parameters.or_else(|| bad_norm().map(NormState::statistics_name)).or_else(bad_average) {
        None => Ok(()),
        Some(what) => {
            let problem =
                format!("not written, because {what} holds a value that is not finite: lower --lr, or go on from an older checkpoint");
            Err(Error::file(path, problem))
        }
    }
}
