//! `dsr bench data`: images a second that loaders prepare.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{ArgAction, Args};
use serde::Serialize;
use toml::{Table as Settings, Value};

use super::axes;
use super::baseline::BaselineFlags;
use super::latency::{LimitFlags, LimitPlan};
use super::report::{Entry, Report};
use crate::bench::data::{Pass, images, time_passes};
use crate::bench::times::Times;
use crate::cli::numbers::count;
use crate::cli::progress::Progress;
use crate::cli::settings::{ChangeFlags, ReadingFlags, text_path};
use crate::cli::tables::{Table, four_digits, milli, optional};
use crate::cli::{Global, Unused, dataset, settings, stop, use_threads};
use crate::data;
use crate::device::machine::machine;
use crate::device::room::{Bytes, Room};
use crate::error::Result;
use crate::settings::Config;
use crate::settings::recipes;

const SCHEMA: &str = "dsr-bench-data";
/// Loaders at once.
const MAX_LOADERS: usize = 256;

/// Times whole passes through data sets, without a network.
///
/// A training pass shuffles, crops, mirrors and normalises as the data set's recipe and flags say; a test pass only normalises. A loader has one
/// thread, which is what training has; with --loaders, several of them run at once, each through the whole split.
#[derive(Args)]
#[command(args_override_self = true)]
pub struct DataArgs {
    /// Data sets by name; `dsr info` lists them.
    #[arg(short = 'd', long, value_name = "NAME,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, default_value = recipes::DEFAULT_DATASET)]
    dataset: Vec<String>,
    /// Folder, archive or list of a data set that is not shipped.
    #[arg(long, value_name = "PATH", visible_alias = "path", alias = "data_dir", value_parser = text_path())]
    data_dir: Option<PathBuf>,
    /// Splits.
    #[arg(long, value_enum, value_name = "SPLIT,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, default_value = "train,test")]
    split: Vec<Pass>,
    /// Samples a batch; the recipe's without this.
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, visible_alias = "batch-size")]
    batch: Option<Vec<u32>>,
    /// Loaders at once, each with its thread; up to 256.
    #[arg(long, value_name = "N,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, default_value = "1", value_parser = count::<MAX_LOADERS>)]
    loaders: Vec<usize>,
    /// Frames of a recording, and of arrays with frames; the recipe's without this.
    #[arg(short = 'T', long, value_name = "N", visible_alias = "timesteps", alias = "time_steps")]
    time_steps: Option<usize>,
    // Each has a heading, which holds for all flags behind it.
    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    changes: ChangeFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    baseline: BaselineFlags,
}

#[derive(Clone, PartialEq, Serialize)]
struct Key {
    dataset: String,
    split: Pass,
    image: String,
    batch: usize,
    /// Loaders at once, each with the threads that training gives it.
    loaders: usize,
}

#[derive(Serialize)]
struct Results {
    /// Of one pass of all loaders.
    images: usize,
    images_per_second: Option<f64>,
    ms_per_batch: Option<f64>,
    /// To read and decode the whole set, once.
    load_s: f64,
}

/// Measures all combinations.
pub fn run(global: &Global, args: &DataArgs) -> anyhow::Result<u8> {
    global.refuse("bench data", &[Unused::Device])?;
    let limits = args.limits.limits(100, 5.0)?;
    let batches = args.batch.as_ref().map_or(1, Vec::len);
    axes::check_combinations(&[args.dataset.len(), batches, args.split.len(), args.loaders.len()])?;
    let given = given(args)?;
    let mut plans = Vec::new();
    for name in &args.dataset {
        for batch in args.batch.as_ref().map_or(vec![None], |list| list.iter().copied().map(Some).collect()) {
            let mut flags = given.clone();
            flags.insert("dataset".into(), Value::from(name.as_str()));
            if let Some(batch) = batch {
                flags.insert("batch".into(), i64::from(batch).into());
            }
            let config = settings::fresh(None, settings::layers(global, flags)?)?;
            settings::refuse_foreign(&given, &config)?;
            plans.push(config);
        }
    }
    use_threads(plans.first().map_or(0, |config| config.threads))?;
    let plan = LimitPlan::new(plans.first().map_or(0, |config| config.seed), &limits);
    let machine = machine();
    let against = args.baseline.open(SCHEMA, &machine, &plan)?;
    let mut entries: Vec<Entry<Key, Results>> = Vec::new();
    let progress = Progress::new(global, 0);
    let all = plans.len() * args.split.len() * args.loaders.len();
    for config in plans {
        let begin = Instant::now();
        let dataset = Arc::new(dataset::ready(global, &config)?);
        let load_s = begin.elapsed().as_secs_f64();
        settings::refuse_idle_share(&given, &dataset)?;
        config.augment().check(dataset.shape)?;
        config.augment().check_pictures(&dataset)?;
        data::check_batch(&dataset, config.batch)?;
        let most = args.loaders.iter().copied().max().unwrap_or(1);
        let bytes = [config.batch, dataset.sample_values(), 4].iter().fold(most as u64, |bytes, &n| bytes.saturating_mul(n as u64));
        Room::now().check(Bytes { written: bytes, reserved: 0 }, &format!("{most} loaders with a batch each"), "lower --loaders or -b")?;
        for &split in &args.split {
            for &loaders in &args.loaders {
                if stop::is_asked() {
                    continue;
                }
                progress.at("case", entries.len(), all, "");
                let seconds = time_passes(&dataset, split, &config, loaders, &limits)?;
                let frames = (dataset.frames > 1).then_some(dataset.frames);
                let image = frames.iter().chain(&dataset.shape).map(usize::to_string).collect::<Vec<_>>().join("x");
                entries.push(entry(&config, split, image, loaders, images(&dataset, split), &seconds, load_s));
            }
        }
    }
    drop(progress);
    let notes = vec![
        format!("ms per pass of all loaders through the split: of n passes after {} warm-up passes", limits.warmup),
        "loaders of files read with all threads, others with one; load: the set, once".into(),
    ];
    let columns =
        vec!["data set", "split", "image", "batch", "loaders", "images", "n", "p50", "min", "p95", "img/s", "ms/batch", "load ms"];
    let title = "Loader, without a network".to_string();
    let tables = vec![Table { title, columns, words: 2, rows: entries.iter().map(cells).collect() }];
    Report { schema: SCHEMA, machine, plan, entries, notes, tables }.print(global, against)
}

/// What all cases share of the flags.
fn given(args: &DataArgs) -> Result<Settings> {
    let mut flags = settings::table(&args.reading)?;
    flags.extend(settings::table(&args.changes)?);
    if let Some(path) = &args.data_dir {
        flags.insert("data_dir".into(), path.to_string_lossy().as_ref().into());
    }
    if let Some(time_steps) = args.time_steps {
        flags.insert("time_steps".into(), i64::try_from(time_steps).unwrap_or(i64::MAX).into());
    }
    Ok(flags)
}

fn entry(config: &Config, split: Pass, image: String, loaders: usize, images: usize, seconds: &[f64], load_s: f64) -> Entry<Key, Results> {
    let times = Times::of(seconds);
    let batches = loaders * images.div_ceil(config.batch);
    Entry {
        key: Key { dataset: config.dataset.clone(), split, image, batch: config.batch, loaders },
        times,
        results: Results {
            images: loaders * images,
            images_per_second: times.median_s.map(|median| (loaders * images) as f64 / median),
            ms_per_batch: times.median_s.map(|median| 1e3 * median / batches as f64),
            load_s,
        },
        config: config.clone(),
    }
}

fn cells(Entry { key, times, results, .. }: &Entry<Key, Results>) -> Vec<String> {
    vec![
        key.dataset.clone(),
        if key.split == Pass::Train { "train" } else { "test" }.into(),
        key.image.clone(),
        key.batch.to_string(),
        key.loaders.to_string(),
        results.images.to_string(),
        times.n.to_string(),
        milli(times.median_s),
        milli(times.min_s),
        milli(times.p95_s),
        optional(results.images_per_second),
        optional(results.ms_per_batch),
        four_digits(1e3 * results.load_s),
    ]
}
