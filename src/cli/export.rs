//! `dsr export`: a trained network for other programs.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::error::Error;
use crate::settings::NeuronKind;
use crate::spelling::one_line;
use crate::training::checkpoint::{self, About};

use super::records::Records;
use super::{DONE, Global, Output, Unused, outputs, say, say_lines, settings};

/// Writes a network for other programs, as PyTorch's state_dict in safetensors, with the numbers that were measured.
///
/// Weights are rounded as the forward pass rounds them (q·2^-e, exact in F32), so a network of the same definition has the same spikes.
/// Nothing that only training needs is in the file.
#[derive(Args)]
pub struct ExportArgs {
    /// Checkpoint or run folder (its best checkpoint).
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// File to write [default: exported.safetensors beside the checkpoint, exported-ema.safetensors with --ema].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Writes the moving average of the weights that a run with --ema keeps, instead of the weights.
    #[arg(long)]
    ema: bool,
    /// Put batch norms into weights and biases (F64).
    #[arg(long, alias = "fold_norms")]
    fold_norms: bool,
}

/// Exports as asked.
///
/// # Errors
/// One line that says what is wrong with the checkpoint or the file to write.
pub fn run(global: &Global, args: &ExportArgs) -> anyhow::Result<u8> {
    global.refuse("export", &[Unused::Config, Unused::Seed, Unused::Device])?;
    let path = settings::checkpoint_file(&args.checkpoint);
    let out =
        args.out.clone().unwrap_or_else(|| path.with_file_name(if args.ema { "exported-ema.safetensors" } else { "exported.safetensors" }));
    if checkpoint::progress(&out).is_ok() {
        return Err(Error::file(out, "is a checkpoint: choose another --out").into());
    }
    outputs::check_network("out", &out, "export", checkpoint::is_exported)?;
    let (config, card, mut network) = checkpoint::open(&path)?;
    if args.ema {
        checkpoint::load_average(&path, &mut network)?;
    }
    let config_toml = config.to_toml()?;
    let unchosen = checkpoint::unchosen(&path)?;
    let about = About { config_toml: &config_toml, data: Some(&card), unchosen: &unchosen, ..About::default() };
    checkpoint::export(&out, &network, args.fold_norms, about)?;
    settings::tell_unchosen(global, &path, &config)?;
    let shown = out.display().to_string();
    let object = json!({ "exported": shown, "checkpoint": path.display().to_string(), "norms_folded": args.fold_norms });
    match global.output {
        Output::Json => say(&object.to_string()),
        Output::Csv | Output::Md => say(Records::of_objects(&[object]).shown(global.output)?.trim_end()),
        Output::Text => {
            let weights = match config.neuron {
                NeuronKind::Relu => "of an ANN".to_string(),
                kind => {
                    format!("rounded to {} bits, {} neurons, T = {}", config.weight_bits, kind.name().to_uppercase(), config.time_steps)
                }
            };
            let averaged = if args.ema { "averaged " } else { "" };
            say_lines(&format!(
                "wrote {}: {averaged}weights {weights}, batch norms {}",
                one_line(&shown),
                if args.fold_norms { "folded" } else { "kept" }
            ));
        }
    }
    Ok(DONE)
}
