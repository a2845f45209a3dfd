//! `--checkpoint` of `dsr bench latency` and `throughput`: a trained network instead of a new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use toml::Table;

use super::axes::{self, Axes, Setting};
use crate::bench::{Case, Trained};
use crate::cli::{self, Global, settings, use_threads};
use crate::data::Dataset;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::settings::{Config, NeuronKind, Use};
use crate::spelling::one_line;
use crate::training::checkpoint;

/// Which trained network is measured.
#[derive(Args)]
#[command(next_help_heading = "Trained network")]
pub struct TrainedFlags {
    /// Checkpoint or run folder: its network and settings, on the first test samples of its data set, instead of a new network on random
    /// images.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Folder or archive of that data set, where it is not where it was [default: the checkpoint's].
    #[arg(long, value_name = "PATH", requires = "checkpoint", alias = "data_dir", value_parser = settings::text_path())]
    data_dir: Option<PathBuf>,
}

impl TrainedFlags {
    /// The checkpoint that was named.
    pub fn file(&self) -> Option<PathBuf> {
        self.checkpoint.as_deref().map(settings::checkpoint_file)
    }

    /// All combinations of the lists with what they are measured on; also starts the threads that they are measured with.
    ///
    /// # Errors
    /// As [`axes::settings`]; [`Error::Config`] for a flag that contradicts the checkpoint; what is wrong with its file or data.
    pub fn settings(&self, global: &Global, axes: &Axes, mut more: Table, batch: u32) -> anyhow::Result<Vec<Setting>> {
        let Some(path) = self.file() else {
            let all = axes::settings(global, axes, more, batch)?;
            use_threads(all.first().map_or(0, |setting| setting.config.threads))?;
            return Ok(all);
        };
        refuse_network(axes)?;
        checkpoint::described(&path)?;
        if let Some(folder) = &self.data_dir {
            more.insert("data_dir".into(), folder.display().to_string().into());
        }
        let configs = axes::configs(global, axes, more, batch, |layers| settings::of_checkpoint(&path, layers))?;
        let flags = settings::table(&axes.layers)?;
        for config in &configs {
            settings::refuse_untrained(&flags, config, &[])?;
            refuse_other_neurons(config, &path)?;
            settings::refuse_other_readout(config, &path)?;
        }
        use_threads(configs.first().map_or(0, |config| config.threads))?;
        let devices = axes::devices(global, axes)?;
        let shown = shown(global, &path, &configs, &devices)?;
        let spiking = configs.iter().find(|config| config.neuron != NeuronKind::Relu);
        spiking.map_or(Ok(()), |config| settings::tell_unchosen(global, &path, config))?;
        let setting = |device: &Device, config: &Config, (shape, trained): &([usize; 3], Arc<Trained>)| Setting {
            config: config.clone(),
            shape: *shape,
            device: device.clone(),
            trained: Some(Arc::clone(trained)),
        };
        let on = |device| configs.iter().zip(&shown).map(|(config, shown)| setting(device, config, shown)).collect::<Vec<_>>();
        Ok(devices.iter().flat_map(on).collect())
    }
}

/// Which checkpoint was measured, for the header.
#[derive(Serialize)]
pub struct Of {
    pub checkpoint: Option<PathBuf>,
}

/// The data set whose samples a case is shown; none for random images.
pub fn dataset(case: &Case) -> Option<String> {
    case.trained.as_ref().map(|trained| trained.dataset.clone())
}

/// What tables say of a trained network.
pub fn note(case: Option<&Case>) -> Option<String> {
    let trained = case?.trained.as_ref()?;
    let (path, dataset) = (one_line(trained.path.display()), one_line(&trained.dataset));
    Some(format!("the network is that of {path}, the images are the first test samples of {dataset}"))
}

/// Refuses flags that say which network it is.
fn refuse_network(axes: &Axes) -> Result<()> {
    let layers = settings::table(&axes.layers)?;
    let given = [
        ("model", axes.model.is_some()),
        ("widths", layers.contains_key("widths")),
        ("blocks", layers.contains_key("blocks")),
        ("image", axes.image.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::config(flag, format!("network and images are those of the checkpoint; leave --{flag} out"))),
    }
}

/// Refuses neurons that the network was not trained with, by a flag or a file: they fire at other rates, or not at all.
fn refuse_other_neurons(config: &Config, path: &Path) -> Result<()> {
    let own = settings::of_checkpoint(path, Vec::new())?;
    let named = [
        ("neuron", own.neuron.name().to_string(), config.neuron.name().to_string()),
        ("alpha", own.alpha.to_string(), config.alpha.to_string()),
        ("tau", own.tau.to_string(), config.tau.to_string()),
    ];
    match named.into_iter().find(|(_, own, asked)| own != asked) {
        None => Ok(()),
        Some((name, own, asked)) => {
            let problem = format!("{asked} is not that of {}, {own}, and a trained network is measured as it is", one_line(path.display()));
            Err(Error::config(name, format!("{problem}; leave it out")))
        }
    }
}

/// Shape and samples that each configuration is measured on; a network that the file does not fit is refused here, before the first case.
fn shown(global: &Global, path: &Path, configs: &[Config], devices: &[Device]) -> Result<Vec<([usize; 3], Arc<Trained>)>> {
    let most = configs.iter().map(|config| config.batch).max().unwrap_or(1);
    // Of recordings, samples are others for another T.
    let mut opened: Vec<(Option<usize>, ([usize; 3], Arc<Trained>))> = Vec::new();
    let mut fitting: Vec<NeuronKind> = Vec::new();
    let mut all = Vec::new();
    for config in configs {
        let known = opened.iter().find(|(steps, _)| steps.is_none_or(|steps| steps == config.time_steps));
        let shown = match known {
            Some((_, shown)) => shown.clone(),
            None => {
                let dataset = Arc::new(cli::dataset::ready(global, config)?);
                check_memory(configs, devices, &dataset)?;
                settings::refuse_idle_seed(global, &dataset)?;
                let shown = (dataset.shape, Arc::new(Trained::first(path, &dataset, most)?));
                opened.push((dataset.has_frames().then_some(config.time_steps), shown.clone()));
                shown
            }
        };
        if !fitting.contains(&config.neuron) {
            checkpoint::load(path, &mut config.network(shown.0, shown.1.classes)?, None)?;
            fitting.push(config.neuron);
        }
        all.push(shown);
    }
    Ok(all)
}

/// Refuses what the memory does not suffice for before any sample is read; what training takes besides is looked at later.
fn check_memory(configs: &[Config], devices: &[Device], dataset: &Dataset) -> Result<()> {
    let (shape, classes) = (dataset.shape, dataset.classes.len());
    let pairs = devices.iter().flat_map(|device| configs.iter().map(move |config| (device, config)));
    for (device, config) in pairs {
        let frames = if dataset.has_frames() { config.time_steps } else { dataset.frames };
        config.check_memory(Use::Evaluate, shape, classes, [config.batch, frames], device)?;
    }
    Ok(())
}
