//! Reads checkpoints, and `state_dict`s of PyTorch.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::header::{Opened, Tensors};
use super::{
    CALIBRATED, CHECKSUM, FIRST, NORMS, OptimizerState, Place, Progress, UNCHOSEN, VERSION, averaged, check_lengths, checksum, places,
};
use crate::data::DataCard;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::network::{Network, Readout, SpikingLayer};
use crate::ops::optimizer::Optimizer;
use crate::settings::{Config, Use, models, recipes};
use crate::spelling::first_three;

/// Reads a checkpoint, or a PyTorch `state_dict` that was saved through safetensors, into `network` and `optimizer`.
///
/// An ANN takes the weights of a spiking network and leaves the thresholds. Of a plain `state_dict` only the network is read, and the
/// result is none; what all of its names have in front (`module.`, `_orig_mod.`, …) is left out, and counters of batches may be missing.
///
/// # Errors
/// [`Error::File`] if the file is damaged, by a later version, of another network, or holds values that are not finite;
/// `network` and `optimizer` are then as before.
pub fn load(path: &Path, network: &mut Network, optimizer: Option<&mut Optimizer>) -> Result<Option<Progress>> {
    read(path, network, optimizer, None).map(|(progress, _)| progress)
}

/// Reads the parameters alone, or with `averaged` their moving average instead.
///
/// # Errors
/// As [`load`], or [`load_average`].
pub fn load_weights(path: &Path, network: &mut Network, averaged: bool) -> Result<()> {
    if averaged { load_average(path, network) } else { load(path, network, None).map(drop) }
}

/// What a new run took from a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// False for the file of an ANN, or of a network that has not chosen any: the thresholds are those of the new network.
    pub has_thresholds: bool,
    /// Thresholds that nobody had chosen when the file was written, which were left as they start, too.
    pub unchosen: Vec<String>,
    /// Tensors of the last layer, running statistics among them, that were left as they start.
    pub new: Vec<String>,
}

/// Reads the parameters that a new run starts from, as [`load`]; a file of an ANN leaves the thresholds of `network` as they are, a file
/// of a spiking network those that nobody had chosen, and `new_head` the parameters of its last layer, with its batch norm.
///
/// # Errors
/// As [`load`].
pub fn load_start(path: &Path, network: &mut Network, new_head: bool) -> Result<Started> {
    read(path, network, None, Some(new_head)).map(|(_, started)| started)
}

/// Reads a file; for a new run, an ANN's will do, and, if it is so said, the last layer stays as it is.
fn read(
    path: &Path,
    network: &mut Network,
    optimizer: Option<&mut Optimizer>,
    new_run: Option<bool>,
) -> Result<(Option<Progress>, Started)> {
    let opened = Opened::open(path)?;
    let ours = check_version(path, &opened)?;
    if !ours && opened.meta(NORMS) == Some("folded") {
        let problem = "has its batch norms folded into the weights, and this network has batch norms: export without --fold-norms";
        return Err(Error::file(path, problem));
    }
    let progress = if ours { Some(progress_of(path, &opened)?) } else { None };
    data_of(path, &opened)?; // whoever reads the network goes by what its file says of the data, sooner or later
    let mut optimizer = optimizer.filter(|_| ours);
    let mut steps = 0;
    if let Some(optimizer) = &mut optimizer {
        check_lengths(network, optimizer)?;
        let state = json_meta::<OptimizerState>(path, &opened, "optimizer")?;
        let (saved, wanted) = (state.rule.name(), optimizer.rule.name());
        if saved != wanted {
            let problem =
                format!("was trained with {saved}, but this run uses {wanted}: pass --optimizer {saved}, or begin with --init-from");
            return Err(Error::file(path, problem));
        }
        steps = state.steps;
    }
    let unchosen: BTreeSet<String> = unchosen_of(path, &opened)?.into_iter().collect();
    let mut tensors = opened.tensors(|opened, data| check_sum(path, opened, data))?;
    // The first checkpoint of a run has no average yet.
    let has_average = steps > 0 && optimizer.as_ref().is_some_and(|optimizer| optimizer.average.is_some());
    let mut places = places(network, optimizer.as_deref(), has_average);
    if !ours {
        tensors.leave_prefix_away(|name| places.contains_key(name));
        // PyTorch has had these since 0.4.1; nothing here reads them.
        places.retain(|name, (_, place)| !matches!(place, Place::Batches(_)) || tensors.has(name));
    }
    let thresholds: BTreeSet<&str> =
        network.layers.iter().filter_map(|layer| Some(network.parameters[layer.threshold?].name.as_str())).collect();
    check_readout(path, network, &tensors)?;
    let is_chosen = |name: &str| tensors.has(name) && !unchosen.contains(name);
    let mut started = Started { has_thresholds: thresholds.iter().any(|name| is_chosen(name)), ..Started::default() };
    if new_run.is_some() {
        let is_left = |name: &str| thresholds.contains(name) && (!started.has_thresholds || unchosen.contains(name));
        places.retain(|name, _| !is_left(name));
        started.unchosen = thresholds.iter().filter(|name| unchosen.contains(**name)).map(ToString::to_string).collect();
    }
    let (head, head_norms) = (network.head(), network.head_norms());
    let is_head = |place: &Place| match place {
        Place::Parameter(index) => head.contains(index),
        Place::RunningMean(index) | Place::RunningVar(index) | Place::Batches(index) => head_norms.contains(index),
        _ => false,
    };
    if new_run == Some(true) {
        let (left, kept) = places.into_iter().partition(|(_, (_, place))| is_head(place));
        places = kept;
        started.new = std::collections::BTreeMap::into_keys(left).collect();
    }
    let wanted: BTreeSet<&str> = places.keys().chain(&started.new).map(String::as_str).collect();
    let optional = thresholds.iter().copied().chain(started.new.iter().map(String::as_str)).collect();
    check_names(path, &tensors, wanted, &optional, &thresholds)?;
    for (name, (shape, place)) in &places {
        if let (true, Some(found)) = (is_head(place) && new_run.is_some(), tensors.shape(name))
            && found != shape
        {
            if found.first() == shape.first() {
                tensors.check_shape(name, shape)?;
            }
            let (theirs, ours) = (found.first().unwrap_or(&0), shape.first().unwrap_or(&0));
            let problem = format!("has a last layer for {theirs} classes, and the data set has {ours}: --new-head starts that layer anew");
            return Err(Error::file(path, problem));
        }
    }
    for (name, (shape, place)) in &places {
        tensors.check_shape(name, shape)?;
        match place {
            Place::Batches(_) => drop(tensors.integer(name)?),
            Place::RunningVar(_) | Place::AverageVar(_) if tensors.floats(name)?.iter().any(|&v| v < 0.0) => {
                return Err(Error::file(path, format!("{name} holds a negative variance: it is damaged; use another checkpoint")));
            }
            _ => drop(tensors.floats(name)?),
        }
    }

    // All that can fail has been tried. Tensors are decoded once more, which takes less memory than having kept them.
    if let Some(average) = optimizer.as_deref_mut().and_then(|optimizer| optimizer.average.as_mut()) {
        average.values = vec![0.0; if has_average { network.values.len() } else { 0 }];
        average.running = vec![0.0; if has_average { network.norms.iter().map(|norm| 2 * norm.running_mean.len()).sum() } else { 0 }];
    }
    for (name, (_, place)) in &places {
        match *place {
            Place::Parameter(index) => network.set_parameter(index, &tensors.floats(name)?),
            Place::AverageMean(index) | Place::AverageVar(index) => {
                let Some([_, _, _, Some(average)]) = optimizer.as_deref_mut().map(Optimizer::arenas_mut) else { continue };
                let [mean, var] = network.running_places(index);
                let into = if matches!(place, Place::AverageMean(_)) { mean } else { var };
                average[into].copy_from_slice(&tensors.floats(name)?);
            }
            Place::RunningMean(index) => network.norms[index].running_mean = tensors.floats(name)?,
            Place::RunningVar(index) => network.norms[index].running_var = tensors.floats(name)?,
            Place::Batches(index) => network.norms[index].batches = tensors.integer(name)?,
            Place::First(index) | Place::Second(index) | Place::Average(index) => {
                let Some([first, second, average, _]) = optimizer.as_deref_mut().map(Optimizer::arenas_mut) else { continue };
                let arena = match place {
                    Place::First(_) => first,
                    Place::Second(_) => second,
                    _ => average,
                };
                let Some(arena) = arena else { continue };
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
    Ok((progress, started))
}

/// Reads the moving average of the parameters that a checkpoint holds, and that of the running statistics, into `network`.
///
/// # Errors
/// As [`load`]; [`Error::File`] for a file without an average.
pub fn load_average(path: &Path, network: &mut Network) -> Result<()> {
    let opened = Opened::open(path)?;
    check_version(path, &opened)?;
    let tensors = opened.tensors(|opened, data| check_sum(path, opened, data))?;
    let places = places(network, None, true);
    if !network.parameters.iter().any(|parameter| tensors.has(&averaged(&parameter.name))) {
        return Err(Error::file(path, "holds no average of its weights: leave --ema out, or train with --ema DECAY"));
    }
    // The network is left as it is until all has been looked at.
    for (name, (shape, place)) in &places {
        match place {
            Place::AverageVar(_) if tensors.floats(name)?.iter().any(|&v| v < 0.0) => {
                return Err(Error::file(path, format!("{name} holds a negative variance: it is damaged; use another checkpoint")));
            }
            Place::AverageMean(_) | Place::AverageVar(_) => tensors.check_shape(name, shape)?,
            Place::Parameter(_) => {
                tensors.check_shape(&averaged(name), shape)?;
                drop(tensors.floats(&averaged(name))?);
            }
            _ => {}
        }
    }
    load(path, network, None)?;
    for (name, (_, place)) in &places {
        match *place {
            Place::Parameter(index) => network.set_parameter(index, &tensors.floats(&averaged(name))?),
            Place::AverageMean(index) => network.norms[index].running_mean = tensors.floats(name)?,
            Place::AverageVar(index) => network.norms[index].running_var = tensors.floats(name)?,
            _ => {}
        }
    }
    network.prepare();
    Ok(())
}

/// The settings inside a checkpoint, or inside what `dsr export` has written of one (TOML); none in a plain `state_dict`.
///
/// # Errors
/// As [`load`], of the header; that of [`data`].
pub fn config(path: &Path) -> Result<Option<String>> {
    let opened = Opened::open(path)?;
    data_of(path, &opened)?; // what is damaged is told before a data set is opened
    Ok(if describes_itself(path, &opened)? { opened.meta("config").map(str::to_string) } else { None })
}

/// What such a file says of the data the network was trained on; none in a plain `state_dict`, or in a file of an earlier version.
///
/// # Errors
/// As [`load`], of the header.
pub fn data(path: &Path) -> Result<Option<DataCard>> {
    data_of(path, &Opened::open(path)?)
}

fn data_of(path: &Path, opened: &Opened) -> Result<Option<DataCard>> {
    if !describes_itself(path, opened)? || opened.meta("data").is_none() {
        return Ok(None);
    }
    let card = json_meta::<DataCard>(path, opened, "data")?;
    card.check().map_err(|says| damaged(path, "data", &says))?;
    Ok(Some(card))
}

/// A trained network on the CPU with its settings and what it was trained on, without the data.
///
/// # Errors
/// As [`load`]; [`Error::File`] for a file that does not say enough: a plain `state_dict`, or a checkpoint of an earlier version. Build
/// the network of such a file and [`load`] its parameters.
pub fn open(path: &Path) -> Result<(Config, DataCard, Network)> {
    let (config, card) = described(path)?;
    config.check_memory(Use::Evaluate, card.shape, card.classes.len(), [1, card.frames], &Device::Cpu)?;
    let mut network = config.network(card.shape, card.classes.len())?;
    load(path, &mut network, None)?;
    Ok((config, card, network))
}

/// The settings of the network in a file, and what it was trained on, without its tensors.
///
/// # Errors
/// As [`open`].
pub fn described(path: &Path) -> Result<(Config, DataCard)> {
    let (Some(text), Some(card)) = (config(path)?, data(path)?) else {
        let problem = "does not say which network it holds, or of which images: build that network and load the file into it, or give \
                       its settings and data set to a new run, dsr train --init-from, whose checkpoints do";
        return Err(Error::file(path, problem));
    };
    let config = recipes::trained(path, &text)?;
    models::build(&config.architecture(), card.shape, card.classes.len()).map_err(|e| damaged(path, "data", &e.to_string()))?;
    Ok((config, card))
}

/// Whether a file is the first checkpoint of a run that has not taken a step.
pub fn is_first(path: &Path) -> bool {
    Opened::open(path).is_ok_and(|opened| opened.meta(FIRST).is_some()) && progress(path).is_ok_and(|progress| progress.iteration == 0)
}

/// Whether `dsr calibrate` has written a file.
pub fn is_calibrated(path: &Path) -> bool {
    Opened::open(path).is_ok_and(|opened| opened.meta(CALIBRATED).is_some())
}

/// Names of the thresholds that nobody had given or chosen when the file was written: the first batch is to. Most files have none.
///
/// # Errors
/// As [`load`], of the header.
pub fn unchosen(path: &Path) -> Result<Vec<String>> {
    unchosen_of(path, &Opened::open(path)?)
}

fn unchosen_of(path: &Path, opened: &Opened) -> Result<Vec<String>> {
    if !describes_itself(path, opened)? || opened.meta(UNCHOSEN).is_none() { Ok(Vec::new()) } else { json_meta(path, opened, UNCHOSEN) }
}

/// Whether `dsr export` has written a file.
pub fn is_exported(path: &Path) -> bool {
    Opened::open(path).is_ok_and(|opened| opened.meta(NORMS).is_some() && opened.meta("format") != Some("dsr"))
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

/// The same of a whole file: its tensors are read, too, and have the checksum that was written.
///
/// # Errors
/// As [`progress`], and of a file that has changed since.
pub fn check(path: &Path) -> Result<Progress> {
    let progress = progress(path)?;
    Opened::open(path)?.tensors(|opened, data| check_sum(path, opened, data))?;
    Ok(progress)
}

fn progress_of(path: &Path, opened: &Opened) -> Result<Progress> {
    let progress = json_meta::<Progress>(path, opened, "progress")?;
    progress.check(path)?;
    Ok(progress)
}

/// Whether this is a checkpoint of ours, of a version we can read, or what `dsr export` has written of one.
fn describes_itself(path: &Path, opened: &Opened) -> Result<bool> {
    Ok(check_version(path, opened)? || opened.meta(NORMS).is_some())
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
    serde_json::from_str(text).map_err(|e| damaged(path, key, &e.to_string()))
}

fn damaged(path: &Path, key: &str, problem: &str) -> Error {
    Error::file(path, format!("has damaged metadata {key:?} ({}): use another checkpoint", problem.escape_debug()))
}

/// Refuses a file with another readout than the network's; but for thresholds the two have the same tensors.
fn check_readout(path: &Path, network: &Network, tensors: &Tensors) -> Result<()> {
    let Some(last) = network.layers.last() else { return Ok(()) };
    let of_output = format!("{}.Vth", last.neuron_name());
    let (others, of_readout): (Vec<_>, Vec<_>) = network
        .layers
        .iter()
        .enumerate()
        .partition(|(index, layer)| index + 1 < network.layers.len() && (index + 2 < network.layers.len() || layer.norm.is_some()));
    let has = |(_, layer): &(usize, &SpikingLayer)| layer.threshold.is_some_and(|index| tensors.has(&network.parameters[index].name));
    let problem = match (network.readout(), tensors.has(&of_output)) {
        (Readout::Current, true) => format!("has output neurons ({of_output}), and this network reads currents: pass --readout spikes"),
        // A file that lacks one of several is damaged.
        (Readout::Spikes, false) if others.iter().any(has) && !of_readout.iter().any(has) => {
            format!("has no output neurons ({of_output}), and this network has: if it reads currents, pass --readout current")
        }
        _ => return Ok(()),
    };
    Err(Error::file(path, problem))
}

/// The file must have each wanted tensor, and no other than optimiser state and thresholds.
fn check_names(
    path: &Path,
    tensors: &Tensors,
    wanted: BTreeSet<&str>,
    optional: &BTreeSet<&str>,
    thresholds: &BTreeSet<&str>,
) -> Result<()> {
    let is_new = |name: &str| optional.contains(name) && !thresholds.contains(name);
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !tensors.has(name) && !is_new(name)).collect();
    let names = tensors.names();
    let is_unexpected = |n: &&str| !wanted.contains(n) && !optional.contains(n) && !n.starts_with("optimizer.");
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

/// Refuses a file whose checksum is not that of its contents. Files from elsewhere have none.
fn check_sum(path: &Path, opened: &Opened, tensors: &[u8]) -> Result<()> {
    let Some(written) = opened.meta(CHECKSUM) else { return Ok(()) };
    let said = ["config", "progress", "optimizer", "data"].map(|key| opened.meta(key).unwrap_or_default());
    let (unchosen, tensors) = (opened.meta(UNCHOSEN).unwrap_or_default(), crc32c::crc32c(tensors));
    // Of the first files with unchosen thresholds the checksum was without them.
    if [unchosen, ""].iter().any(|unchosen| checksum(said, unchosen, tensors) == written) {
        return Ok(());
    }
    Err(Error::file(path, "has changed since it was written: its checksum is another one; use another checkpoint"))
}
