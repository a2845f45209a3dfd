//! Flags with lists: all combinations of them are measured.

use std::sync::Arc;

use clap::{ArgAction, Args};
use serde::Serialize;
use toml::{Table, Value};

use crate::bench::{Case, Trained, Work, usual_shape};
use crate::cli::progress::Progress;
use crate::cli::settings::{self, LayerFlags};
use crate::cli::{Global, Wanted, parse_device, stop};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::settings::recipes::{self, Layer};
use crate::settings::{Config, NeuronKind, ReadoutKind};

/// Networks, their settings and devices.
#[derive(Args)]
#[command(next_help_heading = settings::NETWORK)]
pub struct Axes {
    /// Networks by name; `dsr info` lists them [default: preact-resnet18].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, visible_alias = "arch", conflicts_with_all = ["widths", "blocks"])]
    pub model: Option<Vec<String>>,
    /// Neuron models [default: if].
    #[arg(long, value_enum, ignore_case = true, value_name = "NEURON,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1)]
    pub neuron: Option<Vec<NeuronKind>>,
    /// Widths of the weights in the forward pass, such as 16,8 [default: 16; kernels: 16,8].
    #[arg(long, value_name = "BITS,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, alias = "weight_bits")]
    pub weight_bits: Option<Vec<u32>>,
    /// Numbers of time steps T, such as 1,5,20 [default: 20].
    #[arg(short = 'T', long, value_name = "N,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1)]
    #[arg(visible_alias = "timesteps", alias = "time_steps")]
    pub time_steps: Option<Vec<u32>>,
    /// Samples computed at once, such as 1,32,128 [default: 32; latency: 1; kernels: 8].
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, visible_alias = "batch-size")]
    pub batch: Option<Vec<u32>>,
    /// Devices instead of --device, such as cpu,cuda:1.
    #[arg(long, value_name = "DEVICE,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, value_parser = parse_device)]
    devices: Option<Vec<Wanted>>,
    #[command(flatten)]
    pub layers: LayerFlags,
    /// Size of the images instead of the usual one of the network, such as 28x28x1.
    #[arg(long, value_name = "HxWxC", value_parser = parse_shape)]
    pub image: Option<Shape>,
}

#[derive(Clone, Debug)]
pub struct Shape([usize; 3]);

fn parse_shape(text: &str) -> std::result::Result<Shape, String> {
    let numbers: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|n| (1..=4096).contains(n))).collect();
    let shape = numbers.and_then(|numbers| <[usize; 3]>::try_from(numbers).ok());
    shape.map(Shape).ok_or("give height, width and channels, each 1 to 4096, such as 32x32x3".into())
}

/// One combination.
#[derive(Clone, Debug)]
pub struct Setting {
    pub config: Config,
    /// Height, width, channels.
    pub shape: [usize; 3],
    pub device: Device,
    /// The trained network that is measured; none for a new one.
    pub trained: Option<Arc<Trained>>,
}

impl Setting {
    /// What is measured of it.
    pub fn case(&self, work: Work) -> Case {
        let Setting { config, shape, device, trained } = self.clone();
        Case { work, config, shape, device, trained }
    }
}

/// What every case says about its network; a part of the key by which cases are found again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkKey {
    pub device: String,
    pub model: String,
    pub image: String,
    pub neuron: &'static str,
    /// Where it is not by spikes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readout: Option<&'static str>,
    /// Threshold before training.
    pub vth: f64,
    pub weight_bits: u8,
    pub time_steps: usize,
    pub batch: usize,
}

impl NetworkKey {
    /// Of a network that is run on a device.
    pub fn new(config: &Config, shape: [usize; 3], device: &Device) -> Self {
        NetworkKey {
            device: device.to_string(),
            model: config.model_name(),
            image: shape.map(|n| n.to_string()).join("x"),
            neuron: config.neuron.name(),
            readout: (config.readout == ReadoutKind::Current).then_some("current"),
            vth: config.vth,
            weight_bits: config.weight_bits,
            time_steps: config.time_steps,
            batch: config.batch,
        }
    }

    /// What tables group their rows by.
    pub fn title(&self) -> String {
        let readout = self.readout.map_or(String::new(), |readout| format!(", readout by {readout}"));
        format!("{}{readout}, images {}, {}", self.model, self.image, self.device)
    }
}

/// All combinations of the lists, each with its settings resolved: recipe, then `--config`, then flags; `more` are further flags.
pub fn settings(global: &Global, axes: &Axes, more: Table, batch: u32) -> anyhow::Result<Vec<Setting>> {
    let configs = configs(global, axes, more, batch, |mut layers| {
        let neuron = recipes::last(&layers, "neuron").and_then(Value::as_str).unwrap_or("if");
        layers.insert(0, recipes::recipe(if neuron == "lif" { "cifar10-lif" } else { "cifar10-if" })?);
        recipes::resolve(&Config::default(), &layers)
    })?;
    let shape = |config: &Config| axes.image.as_ref().map_or_else(|| usual_shape(&config.model), |shape| shape.0);
    let setting =
        |device: &Device, config: &Config| Setting { shape: shape(config), config: config.clone(), device: device.clone(), trained: None };
    Ok(devices(global, axes)?.iter().flat_map(|device| configs.iter().map(|config| setting(device, config))).collect())
}

/// The configuration of each combination, as `resolved` makes it of layers: batch, `--config`, flags.
pub fn configs(
    global: &Global,
    axes: &Axes,
    more: Table,
    batch: u32,
    resolved: impl Fn(Vec<Layer>) -> Result<Config>,
) -> Result<Vec<Config>> {
    let mut flags = settings::table(&axes.layers)?;
    if let (Some(Value::Array(widths)), None) = (flags.get("widths"), flags.get("blocks")) {
        let two = vec![Value::Integer(2); widths.len()]; // as in PreAct-ResNet-18
        flags.insert("blocks".into(), Value::Array(two));
    }
    flags.extend(more);
    let given = settings::layers(global, flags.clone())?;
    let numbers = |list: &Option<Vec<u32>>| list.iter().flatten().map(|&n| Value::from(i64::from(n))).collect::<Vec<_>>();
    let lists: [(&str, Vec<Value>); 5] = [
        ("model", axes.model.iter().flatten().map(|name| Value::from(name.as_str())).collect()),
        ("neuron", axes.neuron.iter().flatten().map(|neuron| Value::from(neuron.name())).collect()),
        ("weight_bits", numbers(&axes.weight_bits)),
        ("time_steps", numbers(&axes.time_steps)),
        ("batch", numbers(&axes.batch)),
    ];
    let devices = axes.devices.as_ref().map_or(1, Vec::len);
    check_combinations(&lists.iter().map(|list| list.1.len().max(1)).chain([devices]).collect::<Vec<usize>>())?;
    let batch = Table::from_iter([("batch".into(), batch.into())]);
    let configs = product(&lists).into_iter().map(|settings| {
        let mut layers = vec![recipes::given(batch.clone())];
        layers.extend(given.iter().cloned());
        layers.push(recipes::given(settings));
        resolved(layers)
    });
    let configs = configs.collect::<Result<Vec<Config>>>()?;
    configs.iter().try_for_each(|config| settings::refuse_without_output_neurons(&flags, config))?;
    let listed = lists.iter().filter(|list| !list.1.is_empty()).map(|(key, _)| (key.to_string(), Value::from(true)));
    settings::refuse_idle(&flags.into_iter().chain(listed).collect(), &configs)?;
    Ok(configs)
}

/// The devices that were asked for, in their order.
pub fn devices(global: &Global, axes: &Axes) -> anyhow::Result<Vec<Device>> {
    axes.devices.as_deref().unwrap_or(std::slice::from_ref(&global.device)).iter().map(|&wanted| global.open(wanted)).collect()
}

/// Cases of one command.
const MAX_CASES: usize = 10_000;

/// Refuses more combinations of lists than anybody waits for, given the lengths of the lists.
///
/// # Errors
/// [`Error::Config`] with their number.
pub fn check_combinations(lengths: &[usize]) -> Result<()> {
    let cases = lengths.iter().fold(1usize, |cases, &len| cases.saturating_mul(len));
    if cases > MAX_CASES {
        return Err(Error::config("lists", format!("they have {cases} combinations, and at most {MAX_CASES} are measured; shorten them")));
    }
    Ok(())
}

/// A table for every combination of one value from each list; an empty list leaves its key out.
fn product(axes: &[(&str, Vec<Value>)]) -> Vec<Table> {
    axes.iter().filter(|axis| !axis.1.is_empty()).fold(vec![Table::new()], |tables, (key, values)| {
        let with = |table: &Table, value: &Value| {
            let mut table = table.clone();
            table.insert((*key).into(), value.clone());
            table
        };
        tables.iter().flat_map(|table| values.iter().map(move |value| with(table, value))).collect()
    })
}

/// Whether the next case is to be measured, which is case `index` of `of`: not after somebody has said stop.
pub fn goes_on(progress: &Progress, index: usize, of: usize) -> bool {
    progress.at("case", index, of, "");
    !stop::is_asked()
}
