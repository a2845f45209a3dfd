//! Files that a command may be given by mistake, and some that are right.

use std::fs;
use std::path::Path;
use std::process::Command;

use dsr::Config;
use dsr::checkpoint::{self, About, Progress};

/// The smallest settings that make a network of 8×8 images, as TOML.
pub const TINY: &str = "dataset = 'digits-8x8'\nwidths = [4]\nblocks = [1]\ntime_steps = 2\nepochs = 1\nbatch = 300\ncrop_pad = 1\n";

/// Writes a checkpoint of a tiny untrained network that says it was trained with these settings.
pub fn checkpoint_with(path: &Path, settings: &str) {
    let config: Config = toml::from_str(TINY).unwrap();
    let config = Config { model: "preact-resnet".into(), ..config };
    let network = config.network([8, 8, 1], 10).unwrap();
    checkpoint::save(
        path,
        &network,
        &config.optimizer(&network),
        &Progress::default(),
        About { config_toml: settings, ..About::default() },
    )
    .unwrap();
}

/// A pipe that nobody writes into.
pub fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A safetensors file whose header promises so many bytes, which the file has as a hole.
pub fn hollow(path: &Path, bytes: u64) {
    let header = format!("{{\"conv1.weight\":{{\"dtype\":\"U8\",\"shape\":[{bytes}],\"data_offsets\":[0,{bytes}]}}}}");
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(8 + header.len() as u64 + bytes).unwrap();
}
