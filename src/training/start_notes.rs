//! What a user should know about parameters that come from a file, a line each.

use std::path::Path;

use super::{Run, checkpoint};
use crate::error::Result;
use crate::settings::recipes;
use crate::settings::{Config, NeuronKind};
use crate::spelling::first_three;

/// Of a run that starts from the parameters in a file; nothing if all is as one expects.
///
/// # Errors
/// As [`checkpoint::config`].
pub fn start_notes(path: &Path, run: &Run) -> Result<Vec<String>> {
    let has_thresholds_of_file = run.config.neuron != NeuronKind::Relu && run.chosen.is_empty();
    let thresholds = if has_thresholds_of_file { [left_note(path, run), unit_note(path, run)?] } else { [None, None] };
    Ok(thresholds.into_iter().chain([head_note(run)]).flatten().collect())
}

/// Of a network in a file that is used as it is, some of whose thresholds nobody has chosen.
///
/// # Errors
/// As [`checkpoint::unchosen`].
pub fn unchosen_note(path: &Path, config: &Config) -> Result<Option<String>> {
    let names = if config.neuron == NeuronKind::Relu { Vec::new() } else { checkpoint::unchosen(path)? };
    let advice = "layers may be silent; dsr train --init-from with --threshold-init auto chooses all";
    Ok((!names.is_empty()).then(|| format!("note: {} holds {}: {advice}", path.display(), unchosen(&names))))
}

fn unchosen(names: &[String]) -> String {
    format!("thresholds that nobody has chosen ({})", first_three(names))
}

/// Which thresholds are not those of the file.
fn left_note(path: &Path, run: &Run) -> Option<String> {
    let started = &run.started;
    let (holds, advice) = match (started.has_thresholds, started.unchosen.is_empty()) {
        (true, true) => return None,
        (false, true) => ("an ANN without thresholds".to_string(), "dsr calibrate measures them"),
        (_, false) => (unchosen(&started.unchosen), "--threshold-init auto chooses all"),
    };
    Some(format!("note: {} holds {holds}: they start as the settings say (--vth); {advice}", path.display()))
}

/// Whether those of the file are in other units.
fn unit_note(path: &Path, run: &Run) -> Result<Option<String>> {
    let config = &run.config;
    let Some(text) = checkpoint::config(path)?.filter(|_| run.started.has_thresholds) else { return Ok(None) };
    let theirs = recipes::trained(path, &text)?;
    let unit = |config: &Config| if config.neuron == NeuronKind::Lif { (config.neuron, config.delta_t) } else { (config.neuron, 1.0) };
    if unit(&theirs) == unit(config) {
        return Ok(None);
    }
    let [ours, theirs] = [config, &theirs].map(|config| match config.neuron {
        NeuronKind::Lif => format!("LIF neurons with delta-t {}", config.delta_t),
        kind => format!("{} neurons", kind.name().to_uppercase()),
    });
    Ok(Some(format!("note: the thresholds in {} are in units of {theirs}, this run has {ours}", path.display())))
}

/// Which parameters of the last layer start anew.
fn head_note(run: &Run) -> Option<String> {
    let new = &run.started.new;
    (!new.is_empty()).then(|| format!("note: the last layer starts anew for {} classes: {}", run.dataset.classes.len(), new.join(", ")))
}
