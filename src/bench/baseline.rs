//! Compares the cases of a benchmark with those of an earlier one.
//!
//! The rule: a case has become slower if its median has grown by more than the allowed share of the old median and by more than
//! either run's distance between the quartiles. A case that has become faster is called so by the same rule.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::regular_file;

/// Bytes that an earlier result may have.
const MOST_BYTES: u64 = 1 << 28;

/// What has to be equal on both sides for times to be compared.
const MACHINE: [&str; 5] = ["cpu", "isa", "threads", "build", "target"];

/// An earlier result.
#[derive(Clone, Debug)]
pub struct Baseline {
    path: PathBuf,
    document: Value,
}

/// How a case has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Same,
    Faster,
    Slower,
}

/// A case that both sides have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Index of the case among the new ones.
    #[serde(skip)]
    pub index: usize,
    /// What the case is: its key's values in a line.
    pub case: String,
    pub old_median_s: f64,
    pub new_median_s: f64,
    /// New median over old one, minus 1.
    pub change: f64,
    /// The larger distance between the quartiles, seconds.
    pub spread_s: f64,
    pub verdict: Verdict,
}

/// Both sides beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The earlier file.
    pub baseline: PathBuf,
    /// Its commit, where it says one.
    pub commit: Option<String>,
    /// Allowed share.
    pub fail_over: f64,
    pub compared: Vec<Compared>,
    /// Cases with the same name whose settings differ: they are not compared.
    pub other_settings: Vec<String>,
    pub only_in_baseline: Vec<String>,
    pub only_here: Vec<String>,
}

impl Comparison {
    /// Number of cases that have become slower.
    pub fn slower(&self) -> usize {
        self.compared.iter().filter(|case| case.verdict == Verdict::Slower).count()
    }
}

impl Baseline {
    /// Reads the JSON that the same command has printed.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be read, or is the result of something else.
    pub fn read(path: &Path, schema: &str, version: u32) -> Result<Baseline> {
        let bytes = regular_file::read(path, MOST_BYTES)?;
        let document: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::file(path, format!("is no JSON ({e}); give what the same command printed with -o json")))?;
        let found = &document["schema"];
        if found["name"] != schema || found["version"] != version {
            let got = if found.is_object() { found.to_string() } else { "no schema".into() };
            return Err(Error::file(
                path,
                format!("has {got}, not {schema} version {version}; give what the same command printed with -o json"),
            ));
        }
        for part in ["header", "cases"] {
            if !(document[part].is_object() || document[part].is_array()) {
                return Err(Error::file(path, format!("has no {part}; give what the same command printed with -o json")));
            }
        }
        Ok(Baseline { path: path.to_path_buf(), document })
    }

    /// Refuses another machine or build.
    ///
    /// # Errors
    /// [`Error::File`] naming everything that differs.
    pub fn check_machine(&self, header: &Value) -> Result<()> {
        let old = &self.document["header"];
        let differing = MACHINE.iter().filter(|key| old[**key] != header[**key]);
        let list: Vec<String> = differing.map(|key| format!("{key} {} (here: {})", old[*key], header[*key])).collect();
        if list.is_empty() {
            return Ok(());
        }
        Err(Error::file(
            &self.path,
            format!("was measured with {}; measure a baseline here, or compare anyway with --force", list.join(", ")),
        ))
    }

    /// Compares case by case; `key` names the fields that say what a case is.
    pub fn compare(&self, cases: &[Value], key: &[String], fail_over: f64) -> Comparison {
        let none = Vec::new();
        let old = self.document["cases"].as_array().unwrap_or(&none);
        let name = |case: &Value| name_of(case, key);
        let mut comparison = Comparison {
            baseline: self.path.clone(),
            commit: self.document["header"]["commit"].as_str().map(String::from),
            fail_over,
            compared: Vec::new(),
            other_settings: Vec::new(),
            only_in_baseline: Vec::new(),
            only_here: Vec::new(),
        };
        let is_here = |case: &&Value| cases.iter().any(|new| name(new) == name(case));
        comparison.only_in_baseline = old.iter().filter(|case| !is_here(case)).map(name).collect();
        for (index, new) in cases.iter().enumerate() {
            let Some(before) = old.iter().find(|case| name(case) == name(new)) else {
                comparison.only_here.push(name(new));
                continue;
            };
            let differing = other_settings(&before["config"], &new["config"]);
            if !differing.is_empty() {
                comparison.other_settings.push(format!("{}: {}", name(new), differing.join(", ")));
                continue;
            }
            // A case that could not be measured has no times.
            comparison.compared.extend(compared(index, name(new), before, new, fail_over));
        }
        comparison
    }
}

/// An earlier result and the share by which a median may grow, ready to be compared with.
pub struct Against {
    pub baseline: Baseline,
    pub fail_over: f64,
}

impl Against {
    /// Compares the cases; `key` names the fields that say what a case is.
    pub fn compare(&self, cases: &[Value], key: &[String]) -> Comparison {
        self.baseline.compare(cases, key, self.fail_over)
    }
}

fn name_of(case: &Value, key: &[String]) -> String {
    let shown = key.iter().filter(|key| !case[key.as_str()].is_null());
    let value = |key: &String| case[key.as_str()].as_str().map_or_else(|| case[key.as_str()].to_string(), String::from);
    shown.map(|key| format!("{key} {}", value(key))).collect::<Vec<_>>().join(", ")
}

/// Settings that are not the same: their names with both values.
fn other_settings(old: &Value, new: &Value) -> Vec<String> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
    let differs = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    differs.map(|key| format!("{key} {} (here: {})", show(old.get(key)), show(new.get(key)))).collect()
}

/// Applies the rule; `None` where a side has no median.
fn compared(index: usize, case: String, old: &Value, new: &Value, fail_over: f64) -> Option<Compared> {
    let (old_median_s, new_median_s) = (old["median_s"].as_f64()?, new["median_s"].as_f64()?);
    let between_quartiles = |case: &Value| Some(case["p75_s"].as_f64()? - case["p25_s"].as_f64()?);
    let spread_s = between_quartiles(old).unwrap_or(0.0).max(between_quartiles(new).unwrap_or(0.0));
    let (grown, least) = (new_median_s - old_median_s, (fail_over * old_median_s).max(spread_s));
    let verdict = match () {
        () if grown > least => Verdict::Slower,
        () if -grown > least => Verdict::Faster,
        () => Verdict::Same,
    };
    Some(Compared { index, case, old_median_s, new_median_s, change: grown / old_median_s, spread_s, verdict })
}
