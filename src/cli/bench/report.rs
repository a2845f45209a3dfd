//! What every benchmark prints, in every form: machine, versions, settings, cases, and the comparison with an earlier result.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bench::baseline::{Against, Comparison, Verdict};
use crate::bench::times::Times;
use crate::cli::tables::{Table, four_digits, wrapped};
use crate::cli::{DONE, FAILED, Global, Output, complain, say};
use crate::device::machine::Machine;
use crate::device::{driver, kernels};
use crate::error::{Error, Result};
use crate::settings::Config;
use crate::spelling::one_line;

/// Version of the JSON, as `docs/bench.schema.json` describes it.
pub const VERSION: u32 = 1;

/// One case: what is measured, how long it took, what else is known.
pub struct Entry<K, R> {
    /// The fields by which the case is found again in another result.
    pub key: K,
    pub times: Times,
    pub results: R,
    pub config: Config,
}

/// A result.
pub struct Report<K, R, P> {
    /// `dsr-bench-throughput` and so on.
    pub schema: &'static str,
    pub machine: Machine,
    /// How it was measured: seed, warm-up, limits.
    pub plan: P,
    pub entries: Vec<Entry<K, R>>,
    /// What tables state in words: what the numbers are.
    pub notes: Vec<String>,
    pub tables: Vec<Table>,
}

/// Versions beside that of the program.
#[derive(Serialize)]
struct Versions {
    /// Of the CUDA driver, where there is one.
    cuda_driver: Option<String>,
    /// Of the compiler of the kernels, where they were built.
    nvcc: Option<&'static str>,
}

impl Versions {
    fn here() -> Self {
        Versions { cuda_driver: driver::version().ok().map(driver::dotted), nvcc: kernels::NVCC }
    }
}

#[derive(Serialize)]
struct ConfigColumn {
    config: String,
}

#[derive(Serialize, Default)]
struct BaselineColumns {
    baseline_median_s: Option<f64>,
    change: Option<f64>,
    verdict: Option<Verdict>,
}

/// The named values of a struct, or of all structs of a tuple.
fn fields(value: &impl Serialize) -> Result<Map<String, Value>> {
    let value = serde_json::to_value(value).map_err(|e| Error::shape("a result", "what JSON can hold", e.to_string()))?;
    let mut all = Map::new();
    for part in if let Value::Array(parts) = value { parts } else { vec![value] } {
        match part {
            Value::Object(map) => all.extend(map),
            other => return Err(Error::shape("a result", "named fields", other)),
        }
    }
    Ok(all)
}

/// The header of a result as JSON.
pub fn header(machine: &Machine, plan: &impl Serialize) -> Result<Value> {
    let mut header = fields(machine)?;
    header.extend(fields(&Versions::here())?);
    header.extend(fields(plan)?);
    Ok(Value::Object(header))
}

impl<K: Serialize, R: Serialize, P: Serialize> Report<K, R, P> {
    /// Prints the result in the form that was asked for; [`FAILED`] if a case has become slower than in the baseline.
    pub fn print(&self, global: &Global, against: Option<Against>) -> anyhow::Result<u8> {
        let cases = self.entries.iter().map(Entry::json).collect::<Result<Vec<Value>>>()?;
        let comparison = match &against {
            Some(against) => Some(against.compare(&cases, &self.key()?)),
            None => None,
        };
        match global.output {
            Output::Json => {
                let mut document = json!({
                    "schema": { "name": self.schema, "version": VERSION },
                    "header": header(&self.machine, &self.plan)?,
                    "cases": cases,
                });
                if let Some(comparison) = &comparison {
                    document["comparison"] = serde_json::to_value(comparison)?;
                }
                say(&document.to_string());
            }
            Output::Csv => say(self.csv(comparison.as_ref())?.trim_end()),
            Output::Text => {
                let mut parts = vec![self.headlines().join("\n")];
                for table in &self.tables {
                    parts.push(table.text()?);
                }
                parts.push(self.settings()?);
                if let Some(comparison) = &comparison {
                    parts.extend([table(comparison).text()?, not_compared(comparison)]);
                }
                say(joined(&parts).trim_end());
            }
            Output::Md => {
                let mut parts = vec![self.headlines().join("  \n")];
                for table in &self.tables {
                    parts.push(table.markdown()?);
                }
                parts.push(self.settings()?);
                if let Some(comparison) = &comparison {
                    parts.extend([table(comparison).markdown()?, not_compared(comparison)]);
                }
                say(joined(&parts).trim_end());
            }
        }
        let Some(comparison) = comparison else { return Ok(DONE) };
        if global.output == Output::Csv {
            left_out(&comparison).iter().for_each(|line| complain(line));
        }
        Ok(verdict(&comparison))
    }

    /// Names of the fields of the key.
    fn key(&self) -> Result<Vec<String>> {
        self.entries.first().map_or(Ok(Vec::new()), |entry| Ok(fields(&entry.key)?.keys().cloned().collect()))
    }

    /// Version, machine and what the numbers are, in lines.
    fn headlines(&self) -> Vec<String> {
        let Machine { version, commit, rustc, build, target, cpu, isa, cores, threads, load } = &self.machine;
        let commit = commit.map_or(String::new(), |commit| format!(", commit {commit}"));
        let Versions { cuda_driver, nvcc } = Versions::here();
        let driver = cuda_driver.map_or(String::new(), |version| format!(", CUDA driver {version}"));
        let nvcc = nvcc.map_or(String::new(), |version| format!(", nvcc {version}"));
        let load = load.map_or(String::new(), |load| format!(", load {load} before"));
        let mut lines = vec![
            format!("dsr {version} ({build}, {target}{commit}), rustc {rustc}{driver}{nvcc}"),
            format!("{cpu}, {isa}, {threads} threads of {cores} cores{load}"),
        ];
        lines.extend(self.notes.iter().map(|note| wrapped(note.split(' ').map(String::from))));
        lines
    }

    /// The settings that all cases share.
    fn settings(&self) -> Result<String> {
        let tables = self.entries.iter().map(|entry| fields(&entry.config)).collect::<Result<Vec<_>>>()?;
        let Some((first, others)) = tables.split_first() else { return Ok(String::new()) };
        let shared = first.iter().filter(|(key, value)| others.iter().all(|other| other.get(*key) == Some(*value)));
        let words = shared.map(|(key, value)| format!("{key}={}", value.to_string().replace('"', "")));
        Ok(wrapped(std::iter::once("settings of all cases:".into()).chain(words)))
    }

    /// A line a case, with the header in every line.
    fn csv(&self, comparison: Option<&Comparison>) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let versions = Versions::here();
        for (index, Entry { key, times, results, config }) in self.entries.iter().enumerate() {
            let config = ConfigColumn { config: serde_json::to_string(config)? };
            let case = (key, times, results, config);
            let header = (&self.machine, &versions, &self.plan);
            match comparison {
                None => writer.serialize((case, header))?,
                Some(comparison) => {
                    let found = comparison.compared.iter().find(|compared| compared.index == index);
                    let columns = found.map_or_else(BaselineColumns::default, |compared| BaselineColumns {
                        baseline_median_s: Some(compared.old_median_s),
                        change: Some(compared.change),
                        verdict: Some(compared.verdict),
                    });
                    writer.serialize((case, columns, header))?;
                }
            }
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}

impl<K: Serialize, R: Serialize> Entry<K, R> {
    fn json(&self) -> Result<Value> {
        let mut case = fields(&self.key)?;
        case.extend(fields(&self.times)?);
        case.extend(fields(&self.results)?);
        case.insert("config".into(), Value::Object(fields(&self.config)?));
        Ok(Value::Object(case))
    }
}

/// Parts with an empty line between them.
fn joined(parts: &[String]) -> String {
    parts.iter().map(|part| part.trim_end()).collect::<Vec<_>>().join("\n\n")
}

/// Cases that were not compared, in lines.
fn left_out(comparison: &Comparison) -> Vec<String> {
    let lists = [
        ("only in the baseline", &comparison.only_in_baseline),
        ("only here", &comparison.only_here),
        ("other settings", &comparison.other_settings),
    ];
    lists.iter().flat_map(|(title, cases)| cases.iter().map(move |case| format!("{title}: {case}"))).collect()
}

/// Fields that tell the cases of a comparison apart even if there is but one.
const TELLING: [&str; 8] = ["op", "shape", "mode", "dataset", "split", "model", "time_steps", "batch"];

/// The comparison as a table.
fn table(comparison: &Comparison) -> Table {
    let names: Vec<Vec<&str>> = comparison.compared.iter().map(|compared| compared.case.split(", ").collect()).collect();
    let in_all = |word: &str| names.iter().all(|name| name.contains(&word));
    let field = |word: &str| word.split_once(' ').map_or((word.to_string(), ""), |(key, value)| (key.to_string(), value)).0;
    // What all cases have in common needs no place in the table; words need no name, numbers do.
    let own = |name: &[&str]| {
        let differs = |word: &&&str| if names.len() > 1 { !in_all(word) } else { TELLING.contains(&field(word).as_str()) };
        let short = |word: &&str| match word.split_once(' ') {
            Some((_, value)) if value.parse::<f64>().is_err() => value.to_string(),
            _ => word.to_string(),
        };
        name.iter().filter(differs).map(short).collect::<Vec<_>>().join(", ")
    };
    let rows = comparison.compared.iter().zip(&names).map(|(compared, name)| {
        let verdict = match compared.verdict {
            Verdict::Same => "same",
            Verdict::Faster => "faster",
            Verdict::Slower => "SLOWER",
        };
        let ms = |seconds: f64| four_digits(1e3 * seconds);
        let change = format!("{:+.1}%", 100.0 * compared.change);
        vec![own(name), ms(compared.old_median_s), ms(compared.new_median_s), change, ms(compared.spread_s), verdict.into()]
    });
    let commit = comparison.commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}"));
    let (path, percent) = (one_line(comparison.baseline.display()), 100.0 * comparison.fail_over);
    let title = format!("Medians against {path}{commit}; slower: by more than {percent}% and than the spread");
    let columns = vec!["case", "old ms", "new ms", "change", "spread", "verdict"];
    Table { title, columns, words: 1, rows: rows.collect() }
}

/// Cases that were not compared, as a paragraph each.
fn not_compared(comparison: &Comparison) -> String {
    let lines = left_out(comparison).into_iter().map(|line| wrapped(format!("- {line}").split(' ').map(String::from)));
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { String::new() } else { format!("Not compared:\n\n{}", lines.join("\n")) }
}

/// Says on stderr whether something has become slower.
fn verdict(comparison: &Comparison) -> u8 {
    let slower = comparison.slower();
    if slower == 0 {
        return DONE;
    }
    let Comparison { compared, baseline, fail_over, .. } = comparison;
    let (of, path, percent) = (compared.len(), one_line(baseline.display()), 100.0 * fail_over);
    complain(&format!("error: {slower} of {of} cases are slower than in {path}, by more than {percent}% and than the spread"));
    FAILED
}
