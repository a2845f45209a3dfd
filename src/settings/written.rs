//! Settings as TOML: what is written and what goes without saying, how it is read back, and what a resumed run may change.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::Config;
use super::config::{COLOUR, GAMMA, MILESTONES, PEAK_SHARE};
use crate::data::Size;
use crate::error::{Error, Result};
use crate::spelling::unknown;

/// Settings that are not written where they are these.
fn unwritten() -> [(&'static str, String); 24] {
    [
        ("readout", "\"spikes\"".into()),
        ("schedule", "\"cosine\"".into()),
        ("milestones", format!("{MILESTONES:?}")),
        ("gamma", GAMMA.to_string()),
        ("peak_share", PEAK_SHARE.to_string()),
        ("decay_on", "\"all\"".into()),
        ("freeze_thresholds", "false".into()),
        ("auto_augment", "\"off\"".into()),
        ("cutout", "0".into()),
        ("mixup", "0.0".into()),
        ("label_smoothing", "0.0".into()),
        ("slices", "1".into()),
        ("sync_batch_norm", "\"all\"".into()),
        ("channels", COLOUR.to_string()),
        ("image_fit", "\"crop\"".into()),
        ("layout", "\"auto\"".into()),
        ("mean", "[]".into()),
        ("std", "[]".into()),
        ("flip_x", "false".into()),
        ("flip_y", "false".into()),
        ("transpose", "false".into()),
        ("event_roll", "0".into()),
        ("event_rotate", "0.0".into()),
        ("event_drop", "0.0".into()),
    ]
}

/// Settings that a resumed run may change: they are not part of what is computed up to the checkpoint. With another `lr` the run is no
/// longer a function of one configuration; `dsr train` says so.
const FREE_ON_RESUME: [&str; 5] = ["epochs", "lr", "data_dir", "cache_dir", "threads"];

impl Config {
    /// As a TOML table.
    ///
    /// # Errors
    /// [`Error::Config`] for a value that TOML cannot hold.
    pub fn to_table(&self) -> Result<Table> {
        Table::try_from(self).map_err(|e| Error::config("configuration", e.to_string()))
    }

    /// As the text of a TOML file.
    ///
    /// # Errors
    /// [`Error::Config`] for a value that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("configuration", e.to_string()))
    }

    /// The same with what is not written where it is the usual: read over a recipe, it gives these settings whatever the recipe says.
    ///
    /// # Errors
    /// As [`Config::to_toml`].
    pub fn to_complete_toml(&self) -> Result<String> {
        let (written, mut text) = (self.to_table()?, self.to_toml()?);
        for (key, usual) in self.left_out().iter().filter(|(key, _)| !written.contains_key(*key)) {
            text.push_str(&format!("{key} = {usual}\n"));
        }
        Ok(text)
    }

    /// The same as a table.
    ///
    /// # Errors
    /// As [`Config::to_toml`].
    pub fn to_complete_table(&self) -> Result<Table> {
        toml::from_str(&self.to_complete_toml()?).map_err(|e| Error::config("configuration", e.to_string()))
    }

    /// What stands for each setting that is not written; thresholds of some layers are then those of all.
    fn left_out(&self) -> Vec<(&'static str, String)> {
        let vth = format!("{:?}", self.vth);
        let off = ["ema", "clip_norm", "val_share", "frame_ms"].map(|key| (key, "0.0".to_string()));
        let none = ["sensor", "frame_size"].map(|key| (key, "\"0x0\"".to_string()));
        unwritten().into_iter().chain([("vth_pooled", vth.clone()), ("vth_logits", vth)]).chain(off).chain(none).collect()
    }

    /// Settings that say what is so without them are left out, so that one run has one configuration.
    pub(super) fn normal(self) -> Self {
        let unless = |value: Option<f64>, usual: f64| value.filter(|&value| value != usual);
        Config {
            vth_pooled: unless(self.vth_pooled, self.vth),
            vth_logits: unless(self.vth_logits, self.vth),
            ema: unless(self.ema, 0.0),
            clip_norm: unless(self.clip_norm, 0.0),
            val_share: unless(self.val_share, 0.0),
            frame_ms: unless(self.frame_ms, 0.0),
            sensor: self.sensor.filter(|size| *size != Size([0, 0])),
            frame_size: self.frame_size.filter(|size| *size != Size([0, 0])),
            ..self
        }
    }

    /// From a TOML table; `origin` says in errors where it came from.
    ///
    /// # Errors
    /// [`Error::Config`] naming an unknown key or a value of the wrong type.
    pub fn from_table(table: Table, origin: &str) -> Result<Config> {
        table.clone().try_into().map_err(|e: toml::de::Error| {
            // Each on its own, so that it is known whose problem serde tells.
            let of_setting = |(key, value): (&String, &Value)| {
                let alone = Table::from_iter([(key.clone(), value.clone())]);
                Some(in_words(key, value, alone.try_into::<Config>().err()?.message()))
            };
            Error::config(origin, table.iter().find_map(of_setting).unwrap_or_else(|| e.message().into()))
        })
    }

    /// Refuses to continue a run of `self` with `wanted` if that would be another run.
    ///
    /// # Errors
    /// [`Error::Config`] naming every setting that differs.
    pub fn check_resume(&self, wanted: &Config) -> Result<()> {
        let (ours, theirs) = (self.to_table()?, wanted.to_table()?);
        let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let differs = |key: &&String| !FREE_ON_RESUME.contains(&key.as_str()) && ours.get(*key) != theirs.get(*key);
        let usual = unwritten();
        let unwritten = |key: &str| usual.iter().find(|(name, _)| *name == key).map_or("nothing".into(), |(_, value)| value.clone());
        let show = |table: &Table, key: &str| table.get(key).map_or_else(|| unwritten(key), Value::to_string);
        let list = |key: &String| format!("{} {} (asked for: {})", key.replace('_', "-"), show(&ours, key), show(&theirs, key));
        let differences: Vec<String> = keys.into_iter().filter(differs).map(list).collect();
        if differences.is_empty() {
            return Ok(());
        }
        let problem = "drop these flags, or start a new run with --init-from";
        Err(Error::config("resume", format!("the checkpoint was trained with {}; {problem}", differences.join(", "))))
    }
}

/// What serde says of a setting; of a name that is none of those it expects, the nearest of them.
fn in_words(key: &str, value: &Value, problem: &str) -> String {
    // unknown field `a`, expected one of `b`, `c`: what was given may have quotes and ends of lines in it, what is expected has none.
    let expected = |what: &str, given: &str| problem.strip_prefix(&format!("unknown {what} `{given}`, expected "));
    if let Some(list) = expected("field", key) {
        return unknown("setting", key, &names(list));
    }
    let name = value.as_str().unwrap_or_default();
    let problem = expected("variant", name).map_or(problem.into(), |list| unknown("name", name, &names(list)));
    format!("{key}: {problem}")
}

/// Names in quotes, of which a list consists.
fn names(list: &str) -> Vec<&str> {
    list.split('`').skip(1).step_by(2).collect()
}
