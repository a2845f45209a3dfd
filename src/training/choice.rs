//! Which settings a caller means: those of the data set's recipe, or of the network in a file, with what was given one by one over them.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::checkpoint;
use super::run_folder::{BEST, CONFIG};
use crate::data::{has_recordings, is_own};
use crate::error::{Error, Result};
use crate::regular_file;
use crate::settings::recipes::{self, Layer};
use crate::settings::{Config, NeuronKind, ReadoutKind, models};
use crate::spelling::unknown;

/// Bytes that the settings of a run folder may have.
const MOST_BYTES: u64 = 1 << 20;

/// A configuration from nothing: the recipe (by name, or the data set's own), then `layers`.
///
/// # Errors
/// [`Error::Config`] for an unknown data set, recipe or setting.
pub fn fresh(recipe: Option<&str>, layers: Vec<Layer>) -> Result<Config> {
    fresh_on(Table::new(), recipe, layers)
}

/// The same with settings of a network, which win over the recipe and give way to `layers`.
///
/// # Errors
/// As [`fresh`].
pub fn fresh_on(network: Table, recipe: Option<&str>, mut layers: Vec<Layer>) -> Result<Config> {
    let dataset = recipes::last(&layers, "dataset").and_then(|v| v.as_str()).unwrap_or(recipes::DEFAULT_DATASET).to_string();
    let name = match recipe {
        Some(name) => name.to_string(),
        None => {
            let known = crate::data::names();
            if !known.contains(&dataset.as_str()) {
                return Err(Error::config("dataset", unknown("data set", &dataset, known)));
            }
            recipes::name_for(&dataset, &layers)
        }
    };
    layers.splice(0..0, [recipes::recipe(&name)?, recipes::given(network)]);
    recipes::resolve(&Config::default(), &layers)
}

/// Model, widths, blocks and readout of the network in a checkpoint or run folder; none if it does not say.
///
/// # Errors
/// As [`checkpoint::config`] and [`recipes::trained`].
pub fn network_of(path: &Path) -> Result<Table> {
    let path = checkpoint_file(path);
    let Some(text) = checkpoint::config(&path)? else { return Ok(Table::new()) };
    let trained = recipes::trained(&path, &text)?;
    let mut table = trained.to_table()?;
    let is_custom = table.get("model").and_then(|model| model.as_str()) == Some(models::CUSTOM);
    table.retain(|key, _| if is_custom { key == "widths" || key == "blocks" } else { key == "model" });
    // Said where it is the usual one, too: the recipe of the data set may have another.
    table.insert("readout".into(), trained.readout.name().into());
    Ok(table)
}

/// Refuses another readout than that of a checkpoint of ours, whether a flag or a file asks for it; a plain `state_dict` does not say
/// what it has.
///
/// # Errors
/// [`Error::Config`] naming `readout`.
pub fn refuse_other_readout(config: &Config, path: &Path) -> Result<()> {
    let Some(text) = checkpoint::config(path)? else { return Ok(()) };
    let trained = recipes::trained(path, &text)?.readout;
    if config.readout == trained {
        return Ok(());
    }
    let (wanted, trained) = (config.readout.name(), trained.name());
    Err(Error::config(
        "readout",
        format!("{wanted}: the checkpoint has a readout by {trained}, which is part of its network; leave --readout out"),
    ))
}

/// Refuses flags for thresholds that a readout by current has not.
///
/// # Errors
/// [`Error::Config`] naming the flag.
pub fn refuse_without_output_neurons(flags: &Table, config: &Config) -> Result<()> {
    if config.readout == ReadoutKind::Current && flags.contains_key("vth_logits") {
        return Err(Error::config("vth-logits", "a readout by current has no output neurons; leave it out"));
    }
    Ok(())
}

/// The file that `path` names: of a run folder, the best checkpoint.
pub fn checkpoint_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(BEST) } else { path.to_path_buf() }
}

/// The folder for what is made from data, as the settings in a run folder name it. A checkpoint does not: it may come from elsewhere.
pub fn cache_of(folder: &Path) -> Option<PathBuf> {
    let table: Table = toml::from_str(&regular_file::read_text(&folder.join(CONFIG), MOST_BYTES).ok()?).ok()?;
    table.get("cache_dir")?.as_str().map(PathBuf::from)
}

/// Settings of initial thresholds.
pub const THRESHOLDS: [&str; 3] = ["vth", "vth_pooled", "vth_logits"];

/// The configuration of the network in a checkpoint, with `layers` over it but for its thresholds, which the file has; of a file without
/// a configuration, that of [`fresh`].
///
/// # Errors
/// As [`checkpoint::config`], [`recipes::resolve`] and [`fresh`]; [`Error::Config`] naming `seed` for one that would divide the network's
/// own set anew.
pub fn of_checkpoint(path: &Path, mut layers: Vec<Layer>) -> Result<Config> {
    match checkpoint::config(path)? {
        Some(text) => {
            let trained = recipes::trained(path, &text)?;
            let thresholds = [Some(trained.vth), trained.vth_pooled, trained.vth_logits];
            let thresholds = thresholds.map(|own| Value::from(own.unwrap_or(trained.vth)));
            layers.push(recipes::given(THRESHOLDS.map(String::from).into_iter().zip(thresholds).collect()));
            let config = recipes::resolve(&trained, &layers)?;
            if is_divided_alike(&trained, &config) && trained.seed != config.seed {
                let (set, file, ours, theirs) = (&config.dataset, path.display(), config.seed, trained.seed);
                let problem = format!(
                    "{ours} would divide {set} anew, and {file} was trained on what seed {theirs} left: leave --seed out, or samples are \
                     tested that it has learned"
                );
                return Err(Error::config("seed", problem));
            }
            Ok(config)
        }
        None => fresh(None, layers),
    }
}

/// Whether a seed draws what is tested on from the same set of the user's own.
fn is_divided_alike(trained: &Config, config: &Config) -> bool {
    // However the folder is spelled.
    let place = |config: &Config| {
        let folder = config.data_dir.clone();
        (config.dataset.clone(), folder.map(|folder| folder.canonicalize().unwrap_or(folder)))
    };
    trained.val_share.is_some() && config.val_share.is_some() && is_own(&config.dataset) && place(trained) == place(config)
}

/// What a user should know of a network that was trained on another division of the same set than that of `config`.
///
/// # Errors
/// As [`checkpoint::config`].
pub fn division_note(path: &Path, config: &Config) -> Result<Option<String>> {
    let Some(text) = checkpoint::config(path)? else { return Ok(None) };
    let trained = recipes::trained(path, &text)?;
    let division = |config: &Config| (config.val_share, config.seed);
    let differs = is_divided_alike(&trained, config) && division(&trained) != division(config);
    Ok(differs.then(|| {
        let told = |config: &Config| format!("--val-share {} --seed {}", config.val_share.unwrap_or_default(), config.seed);
        let (file, theirs, ours) = (path.display(), told(&trained), told(config));
        format!("note: {file} was trained with {theirs}: by {ours}, samples may be tested on that it was trained on")
    }))
}

/// Settings that neurons of a kind have no use for, and why: an ANN has neither thresholds nor time nor rounded weights, and IF neurons do
/// not leak.
pub fn idle(neuron: NeuronKind) -> (&'static [&'static str], &'static str) {
    const NO_LEAK: [&str; 2] = ["tau", "delta_t"];
    const NO_SPIKES: [&str; 12] = [
        "vth",
        "vth_pooled",
        "vth_logits",
        "vth_bound",
        "alpha",
        "tau",
        "delta_t",
        "threshold_init",
        "threshold_grad_scale",
        "freeze_thresholds",
        "weight_bits",
        "weight_gradient",
    ];
    match neuron {
        NeuronKind::Lif => (&[], ""),
        NeuronKind::If => (&NO_LEAK, "neurons of --neuron if do not leak"),
        NeuronKind::Relu => (&NO_SPIKES, "with --neuron relu the network is an ANN, which has no spikes and no thresholds"),
    }
}

/// Refuses flags, given one by one, that the neurons of none of the networks have a use for. Files of settings may serve others, too.
///
/// # Errors
/// [`Error::Config`] naming the flag.
pub fn refuse_idle(flags: &Table, configs: &[Config]) -> Result<()> {
    let Some((first, others)) = configs.split_first() else { return Ok(()) };
    let (keys, why) = idle(first.neuron);
    let is_idle = |key: &str| flags.contains_key(key) && others.iter().all(|other| idle(other.neuron).0.contains(&key));
    let Some(key) = keys.iter().find(|key| is_idle(key)) else { return Ok(()) };
    let flag = key.replace('_', "-");
    Err(Error::config(&flag, format!("has no effect here: {why}; leave --{flag} out")))
}

/// Refuses flags for the files of other kinds of sets; those that a file may name for every set are refused by [`Config::check`].
///
/// # Errors
/// [`Error::Config`] naming the flag.
pub fn refuse_foreign(flags: &Table, config: &Config) -> Result<()> {
    let name = config.dataset.as_str();
    let owners: [(bool, &str, &[&str]); 3] = [
        (name == "dvs-cifar10", "dvs-cifar10 has", &["event_split", "event_orientation", "event_size"]),
        (has_recordings(name), "dvs-cifar10, events and the sets like it have", &["event_frames"]),
        (matches!(name, "imagenet" | "images"), "imagenet and images have", &["image_size", "image_resize", "crop_scale"]),
    ];
    for (_, whose, keys) in owners.iter().filter(|(has, ..)| !has) {
        if let Some(key) = keys.iter().find(|key| flags.contains_key(**key)) {
            let flag = key.replace('_', "-");
            return Err(Error::config(&flag, format!("{name} has no such setting, only {whose}; leave --{flag} out")));
        }
    }
    Ok(())
}
