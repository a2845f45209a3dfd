//! Settings by name, and how settings from several places become one configuration.

use std::path::Path;

use clap::ValueEnum;
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::settings::files::foreign;
use crate::settings::models;
use crate::settings::{Config, NeuronKind};
use crate::spelling::unknown;

/// Name and text of every built-in recipe.
const BUILT_IN: [(&str, &str); 33] = [
    ("fashion-mnist-3k", include_str!("../../recipes/fashion-mnist-3k.toml")),
    ("fashion-mnist", include_str!("../../recipes/fashion-mnist.toml")),
    ("mnist", include_str!("../../recipes/mnist.toml")),
    ("digits-8x8", include_str!("../../recipes/digits-8x8.toml")),
    ("photo-patches-10", include_str!("../../recipes/photo-patches-10.toml")),
    ("cifar10-if", include_str!("../../recipes/cifar10-if.toml")),
    ("cifar10-lif", include_str!("../../recipes/cifar10-lif.toml")),
    ("cifar10-if-t15", include_str!("../../recipes/cifar10-if-t15.toml")),
    ("cifar10-lif-t15", include_str!("../../recipes/cifar10-lif-t15.toml")),
    ("cifar10-if-t10", include_str!("../../recipes/cifar10-if-t10.toml")),
    ("cifar10-lif-t10", include_str!("../../recipes/cifar10-lif-t10.toml")),
    ("cifar10-if-t5", include_str!("../../recipes/cifar10-if-t5.toml")),
    ("cifar10-lif-t5", include_str!("../../recipes/cifar10-lif-t5.toml")),
    ("cifar10-fast", include_str!("../../recipes/cifar10-fast.toml")),
    ("cifar100-if", include_str!("../../recipes/cifar100-if.toml")),
    ("cifar100-lif", include_str!("../../recipes/cifar100-lif.toml")),
    ("cifar100-if-t15", include_str!("../../recipes/cifar100-if-t15.toml")),
    ("cifar100-lif-t15", include_str!("../../recipes/cifar100-lif-t15.toml")),
    ("cifar100-if-t10", include_str!("../../recipes/cifar100-if-t10.toml")),
    ("cifar100-lif-t10", include_str!("../../recipes/cifar100-lif-t10.toml")),
    ("cifar100-if-t5", include_str!("../../recipes/cifar100-if-t5.toml")),
    ("cifar100-lif-t5", include_str!("../../recipes/cifar100-lif-t5.toml")),
    ("cifar100-fast", include_str!("../../recipes/cifar100-fast.toml")),
    ("dvs-cifar10-if", include_str!("../../recipes/dvs-cifar10-if.toml")),
    ("dvs-cifar10-lif", include_str!("../../recipes/dvs-cifar10-lif.toml")),
    ("dvs-cifar10-fast", include_str!("../../recipes/dvs-cifar10-fast.toml")),
    ("imagenet-if", include_str!("../../recipes/imagenet-if.toml")),
    ("images", include_str!("../../recipes/images.toml")),
    ("arrays", include_str!("../../recipes/arrays.toml")),
    ("events", include_str!("../../recipes/events.toml")),
    ("dvs-gesture", include_str!("../../recipes/dvs-gesture.toml")),
    ("n-mnist", include_str!("../../recipes/n-mnist.toml")),
    ("n-caltech101", include_str!("../../recipes/n-caltech101.toml")),
];

/// The data set of a run that names none.
pub const DEFAULT_DATASET: &str = "fashion-mnist-3k";

/// Names of the built-in recipes.
pub fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|r| r.0).collect()
}

/// Settings from one place; those that are missing are left to the places before it.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Name, for a built-in recipe: it has to know the neuron model it is used with.
    recipe: Option<String>,
    /// Keys of [`Config`].
    flat: Table,
    /// The same for one neuron model each: sections `[if]`, `[lif]` and `[relu]`.
    neurons: Table,
}

/// The settings of a TOML text; `origin` says in errors where it came from.
///
/// # Errors
/// [`Error::Config`] for text that is no TOML, naming an unknown key, or for a value of the wrong type.
pub fn parse(text: &str, origin: &str) -> Result<Layer> {
    let mut flat: Table = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        // Of a value that is none, the message does not say whose it is.
        let is_key = |key: &&str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let key = text.lines().nth(line - 1).and_then(|text| text.split_once('=')).map(|(key, _)| key.trim()).filter(is_key);
        let of = key.map_or(String::new(), |key| format!("{key}: "));
        Error::config(origin, format!("line {line}: {of}{}", e.message().replace('\n', ": ")))
    })?;
    let mut neurons = Table::new();
    for kind in NeuronKind::value_variants().iter().map(|kind| kind.name()) {
        match flat.remove(kind) {
            Some(Value::Table(section)) => {
                Config::from_table(section.clone(), &format!("{origin}, section [{kind}]"))?;
                neurons.insert(kind.into(), Value::Table(section));
            }
            Some(_) => return Err(Error::config(origin, format!("{kind} is a section: [{kind}]"))),
            None => {}
        }
    }
    if let Some((name, _)) = flat.iter().find(|(_, value)| value.is_table()) {
        let known: Vec<&str> = NeuronKind::value_variants().iter().map(|kind| kind.name()).collect();
        return Err(Error::config(origin, unknown("section", name, &known)));
    }
    Config::from_table(flat.clone(), origin)?; // names unknown keys and wrong types here, where the file is known
    Ok(Layer { recipe: None, flat, neurons })
}

/// The settings that a checkpoint at `path` was trained with; what belongs to the machine of its writer is left out.
///
/// # Errors
/// [`Error::File`] for settings that no run can have had: they are the file's, and no flag of the user's.
pub fn trained(path: &Path, text: &str) -> Result<Config> {
    let config = parse(text, "its settings").and_then(|layer| resolve(&Config::default(), &[layer]));
    let damaged = |e: Error| Error::file(path, format!("has damaged metadata \"config\" ({e}): use another checkpoint"));
    config.map(|config| config.without_machine()).map_err(damaged)
}

/// Settings that were given one by one.
pub fn given(flat: Table) -> Layer {
    Layer { recipe: None, flat, neurons: Table::new() }
}

/// The built-in recipe of this name.
///
/// # Errors
/// [`Error::Config`] listing the names there are.
pub fn recipe(name: &str) -> Result<Layer> {
    Ok(Layer { recipe: Some(name.into()), ..parse(text(name)?, &format!("recipe {name}"))? })
}

/// The text of a built-in recipe; the comment at its top says where its settings come from.
///
/// # Errors
/// [`Error::Config`] listing the names there are.
pub fn text(name: &str) -> Result<&'static str> {
    match BUILT_IN.iter().find(|r| r.0 == name) {
        Some((_, text)) => Ok(text),
        None => Err(Error::config("recipe", unknown("recipe", name, &names()))),
    }
}

/// Where the settings of a recipe come from: the comment at its top, a line each.
pub fn source(text: &str) -> Vec<&str> {
    text.lines().map_while(|line| line.strip_prefix("# ")).collect()
}

/// The recipe a data set is trained with unless another is asked for, given what `layers` say about neuron and T.
///
/// CIFAR has one for short runs: T of 5 and less takes the paper's settings for T = 5.
pub fn name_for(dataset: &str, layers: &[Layer]) -> String {
    let neuron = if last(layers, "neuron").and_then(Value::as_str) == Some("lif") { "lif" } else { "if" };
    let short = last(layers, "time_steps").and_then(Value::as_integer).is_some_and(|t| t <= 5);
    match dataset {
        "cifar10" | "cifar100" => format!("{dataset}-{neuron}{}", if short { "-t5" } else { "" }),
        "dvs-cifar10" => format!("{dataset}-{neuron}"),
        "imagenet" => "imagenet-if".into(),
        other => other.into(),
    }
}

/// What the last layer that has `key` says.
pub fn last<'a>(layers: &'a [Layer], key: &str) -> Option<&'a Value> {
    layers.iter().rev().find_map(|layer| layer.flat.get(key))
}

/// Takes away what belongs to the data set so far and not to the one that `settings` name: nobody can leave out what a checkpoint says.
fn leave_behind(table: &mut Table, settings: &Table) {
    let Some(dataset) = settings.get("dataset").and_then(Value::as_str) else { return };
    if table.get("dataset").and_then(Value::as_str) != Some(dataset) {
        // Sets of the user's own have a normalisation each.
        foreign(dataset).iter().chain(&["mean", "std"]).for_each(|key| drop(table.remove(*key)));
    }
}

/// Refuses a rule for the ends of frames that has no effect, since what it is laid over says their length.
fn refuse_idle_ends(table: &Table, settings: &Table) -> Result<()> {
    let length = table.get("frame_ms").and_then(Value::as_float).filter(|ms| *ms != 0.0);
    match length {
        Some(ms) if settings.contains_key("event_frames") && !settings.contains_key("frame_ms") => {
            let problem = format!("has no effect on frames of {ms} ms (--frame-ms): give --frame-ms 0 with it, or leave it out");
            Err(Error::config("event-frames", problem))
        }
        _ => Ok(()),
    }
}

/// One configuration from `base` and layers, each of which wins over those before it.
///
/// # Errors
/// [`Error::Config`] if the result is no valid configuration, or if a recipe is for the other neuron model.
pub fn resolve(base: &Config, layers: &[Layer]) -> Result<Config> {
    let neuron = last(layers, "neuron").and_then(Value::as_str).unwrap_or(base.neuron.name()).to_string();
    let is_ann = neuron == NeuronKind::Relu.name(); // takes every recipe: what sections say about spikes does not concern it
    let mut table = base.to_table()?;
    for layer in layers {
        let section = layer.neurons.get(&neuron).and_then(Value::as_table);
        if let (Some(recipe), None, false) = (&layer.recipe, section, is_ann) {
            return Err(Error::config("neuron", format!("recipe {recipe} has no settings for '{neuron}'; choose another --recipe")));
        }
        for settings in [Some(&layer.flat), section].into_iter().flatten() {
            let sized = settings.contains_key("widths") || settings.contains_key("blocks");
            if sized && !settings.contains_key("model") {
                table.insert("model".into(), models::CUSTOM.into());
            } else if !sized && settings.contains_key("model") {
                table.insert("widths".into(), Value::Array(Vec::new()));
                table.insert("blocks".into(), Value::Array(Vec::new()));
            }
            leave_behind(&mut table, settings);
            refuse_idle_ends(&table, settings)?;
            table.extend(settings.clone());
        }
    }
    if is_ann && !layers.iter().any(|layer| layer.recipe.is_none() && layer.flat.contains_key("time_steps")) {
        table.insert("time_steps".into(), 1.into());
    }
    if is_ann && !layers.iter().any(|layer| layer.recipe.is_none() && layer.flat.contains_key("threshold_init")) {
        table.insert("threshold_init".into(), "fixed".into()); // a recipe's choice is for its spiking networks
    }
    let config = Config::from_table(table, "configuration")?.normal();
    config.check()?;
    Ok(config)
}
