//! `dsr bench kernels`: every op at every layer shape of a network.

use clap::{ArgAction, Args};
use serde::Serialize;
use toml::Table as Settings;

use super::axes::{self, Axes, Setting};
use super::baseline::BaselineFlags;
use super::latency::LimitFlags;
use super::report::{Entry, Report};
use crate::bench::kernels::{Bound, Cache, KnownPeaks, Measured, OPS, Plan, copy_bytes_per_s, on_cpu, on_cuda};
use crate::bench::times::{Limits, Times};
use crate::bench::{Work, peaks};
use crate::cli::progress::Progress;
use crate::cli::settings::check_spiking;
use crate::cli::tables::{Table, four_digits, milli, percent};
use crate::cli::{Global, stop, use_threads};
use crate::device::Device;
use crate::device::machine::machine;
use crate::error::{Error, Result};
use crate::settings::Use;
use crate::spelling::{instead, one_line};

const SCHEMA: &str = "dsr-bench-kernels";
/// Seconds that each peak is measured for.
const PEAK_SECONDS: f64 = 0.5;

/// Times every op at every layer shape of a network, alone, and holds it against what the machine can do at most.
///
/// The peaks are measured in the same run: a large matrix product, a large copy, integer additions in the first cache. A share is that
/// of the peak which bounds the op. On the CPU each op runs with warm caches (what the run before has left) and cold ones (overwritten
/// before each run). On a CUDA device kernels are timed by marks in the stream; ops that cannot be launched alone come without a time.
///
/// Spikes are random, with the share --rate of them set; layers of the same shape are measured once.
#[derive(Args)]
#[command(allow_negative_numbers = true, args_override_self = true)]
pub struct KernelsArgs {
    #[command(flatten)]
    axes: Axes,
    /// Share of neurons that fire at a step.
    #[arg(long, value_name = "X", default_value_t = 0.08, help_heading = "Measurement")]
    rate: f64,
    /// States of the caches (CPU).
    #[arg(long, value_enum, value_name = "CACHE,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, default_value = "warm,cold")]
    #[arg(help_heading = "Measurement")]
    cache: Vec<Cache>,
    /// Only ops whose name has one of these parts, such as spike_conv,gradient.
    #[arg(long, value_name = "PART,…", value_delimiter = ',', action = ArgAction::Set, num_args = 1, help_heading = "Measurement")]
    op: Vec<String>,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    baseline: BaselineFlags,
}

#[derive(Serialize)]
struct RunPlan {
    seed: u64,
    warmup: usize,
    repeats: usize,
    seconds: f64,
    rate: f64,
    /// Measured peaks of the CPU, operations and bytes a second; none where no case ran there.
    peak_gemm_flop_per_s: Option<f64>,
    peak_memory_bytes_per_s: Option<f64>,
    peak_adds_i32_per_s: Option<f64>,
    peak_adds_i16_per_s: Option<f64>,
    /// Measured peak of a copy on the CUDA device; none where no case ran there.
    peak_cuda_memory_bytes_per_s: Option<f64>,
}

#[derive(Clone, PartialEq, Serialize)]
struct Key {
    op: &'static str,
    shape: String,
    weight_bits: Option<u8>,
    cache: Cache,
    device: String,
    model: String,
    neuron: &'static str,
    time_steps: usize,
    batch: usize,
    rate: f64,
}

#[derive(Serialize)]
struct Results {
    /// Layers or connections of the network with this shape.
    layers: usize,
    /// Of one run: operations if every source fired, operations that were carried out, bytes that had to be moved.
    dense_operations: u64,
    operations: u64,
    bytes: u64,
    dense_gops_per_s: Option<f64>,
    gops_per_s: Option<f64>,
    gb_per_s: Option<f64>,
    bound: Bound,
    share_of_peak: Option<f64>,
    /// Why there is no time.
    not_measured: Option<&'static str>,
}

/// Measures all combinations.
pub fn run(global: &Global, args: &KernelsArgs) -> anyhow::Result<u8> {
    let limits = args.limits.limits(20, 1.0)?;
    if !(0.0..=1.0).contains(&args.rate) {
        return Err(Error::config("rate", format!("{} is not in 0..=1", args.rate)).into());
    }
    if let Some(part) = args.op.iter().find(|part| !OPS.iter().any(|name| name.contains(part.as_str()))) {
        return Err(Error::config("op", format!("no op has '{}' in its name; {}", one_line(part), instead(part, &OPS))).into());
    }
    let mut settings = axes::settings(global, &args.axes, Settings::new(), 8)?;
    // Widths of weights are an axis of the ops that read them, not of the others.
    let mut widths: Vec<u8> = settings.iter().map(|setting| setting.config.weight_bits).collect();
    widths.dedup();
    widths.sort_unstable();
    widths.dedup();
    widths.reverse();
    if args.axes.weight_bits.is_none() {
        widths = vec![16, 8];
    }
    settings.dedup_by(|a, b| {
        let plain = |s: &Setting| crate::settings::Config { weight_bits: 16, ..s.config.clone() };
        plain(a) == plain(b) && a.shape == b.shape && a.device.to_string() == b.device.to_string()
    });
    for setting in &settings {
        let (case, config) = (setting.case(Work::Infer), &setting.config);
        case.check()?;
        case.check_memory(Use::Ops)?;
        check_spiking(config, "kernel of spikes")?;
    }
    use_threads(settings.first().map_or(0, |setting| setting.config.threads))?;
    let machine = machine();
    let mut plan = RunPlan {
        seed: settings.first().map_or(0, |setting| setting.config.seed),
        warmup: limits.warmup,
        repeats: limits.repeats,
        seconds: limits.seconds,
        rate: args.rate,
        peak_gemm_flop_per_s: None,
        peak_memory_bytes_per_s: None,
        peak_adds_i32_per_s: None,
        peak_adds_i16_per_s: None,
        peak_cuda_memory_bytes_per_s: None,
    };
    let against = args.baseline.open(SCHEMA, &machine, &plan)?;
    let mut known = KnownPeaks::default();
    let progress = Progress::new(global, settings.len());
    let mut entries = Vec::new();
    for (index, setting) in settings.iter().enumerate() {
        if !axes::goes_on(&progress, index, settings.len()) {
            break;
        }
        let of_device = measure_peaks(&setting.device, &mut known, &mut plan)?;
        measure(args, setting, &widths, &limits, &of_device, &mut entries)?;
    }
    drop(progress);
    if entries.is_empty() && !stop::is_asked() {
        let problem = format!("{} is not in this network, or not alone on this device; give another part of a name", args.op.join(","));
        return Err(Error::config("op", problem).into());
    }
    let notes = vec![
        format!("ms per run: of n runs after {} warm-up runs; share: of the peak that bounds the op", limits.warmup),
        peaks_in_words(&plan),
        "Gop/s: operations that were carried out; dense: what a dense evaluation needs; layers: that have it".into(),
    ];
    let tables = tables(&entries);
    Report { schema: SCHEMA, machine, plan, entries, notes, tables }.print(global, against)
}

fn peaks_in_words(plan: &RunPlan) -> String {
    let peaks = [
        ("gemm", plan.peak_gemm_flop_per_s, "GFLOP/s"),
        ("mem", plan.peak_memory_bytes_per_s, "GB/s"),
        ("add32", plan.peak_adds_i32_per_s, "G/s"),
        ("add16", plan.peak_adds_i16_per_s, "G/s"),
        ("mem of CUDA", plan.peak_cuda_memory_bytes_per_s, "GB/s"),
    ];
    let known = peaks.iter().filter_map(|(name, peak, unit)| Some(format!("{name} {} {unit}", four_digits((*peak)? / 1e9))));
    format!("peaks, measured: {}", known.collect::<Vec<_>>().join(", "))
}

/// The peaks of a device, measured when the first case needs them.
fn measure_peaks(device: &Device, known: &mut KnownPeaks, plan: &mut RunPlan) -> Result<KnownPeaks> {
    match device {
        Device::Cpu => {
            let peaks = match known.cpu {
                Some(peaks) => peaks,
                None => peaks::measure(PEAK_SECONDS)?,
            };
            known.cpu = Some(peaks);
            plan.peak_gemm_flop_per_s = Some(peaks.gemm_flop_per_s);
            plan.peak_memory_bytes_per_s = Some(peaks.memory_bytes_per_s);
            plan.peak_adds_i32_per_s = Some(peaks.adds_i32_per_s);
            plan.peak_adds_i16_per_s = Some(peaks.adds_i16_per_s);
            Ok(KnownPeaks { cpu: Some(peaks), cuda_bytes_per_s: None })
        }
        Device::Cuda(gpu) => {
            let peak = copy_bytes_per_s(gpu)?;
            plan.peak_cuda_memory_bytes_per_s = Some(peak);
            Ok(KnownPeaks { cpu: None, cuda_bytes_per_s: Some(peak) })
        }
    }
}

/// Measures the ops of one network.
fn measure(
    args: &KernelsArgs,
    setting: &Setting,
    widths: &[u8],
    limits: &Limits,
    peaks: &KnownPeaks,
    entries: &mut Vec<Entry<Key, Results>>,
) -> Result<()> {
    let Setting { config, shape, device, .. } = setting;
    let case = setting.case(Work::Infer);
    let network = config.network(*shape, case.classes())?;
    let plan = Plan {
        network: &network,
        batch: config.batch,
        frames: case.frames(),
        rate: args.rate,
        weight_bits: widths,
        caches: &args.cache,
        only: &args.op,
        limits: *limits,
        seed: config.seed,
    };
    let mut sink = |measured: Measured| {
        entries.push(entry(args, setting, measured, peaks));
        if stop::is_asked() { Err(Error::config("bench", "was told to stop")) } else { Ok(()) }
    };
    let optimizer = config.optimizer(&network);
    let measured = match device {
        Device::Cpu => on_cpu(&plan, optimizer, &mut sink),
        Device::Cuda(gpu) => on_cuda(&plan, gpu, &optimizer, &mut sink),
    };
    if stop::is_asked() { Ok(()) } else { measured }
}

fn entry(args: &KernelsArgs, setting: &Setting, measured: Measured, peaks: &KnownPeaks) -> Entry<Key, Results> {
    let Measured { op, cache, seconds } = measured;
    let times = Times::of(&seconds);
    let giga = |amount: u64| times.median_s.filter(|_| amount > 0).map(|median| amount as f64 / median / 1e9);
    let config = &setting.config;
    Entry {
        times,
        results: Results {
            layers: op.layers,
            dense_operations: op.dense,
            operations: op.operations,
            bytes: op.bytes,
            dense_gops_per_s: giga(op.dense),
            gops_per_s: giga(op.operations),
            gb_per_s: giga(op.bytes),
            bound: op.bound,
            share_of_peak: times.median_s.and_then(|median| op.share(median, peaks)),
            not_measured: times.median_s.is_none().then_some("not measured on cuda"),
        },
        key: Key {
            op: op.name,
            shape: op.shape,
            weight_bits: op.weight_bits,
            cache,
            device: setting.device.to_string(),
            model: config.model_name(),
            neuron: config.neuron.name(),
            time_steps: config.time_steps,
            batch: config.batch,
            rate: args.rate,
        },
        config: config.clone(),
    }
}

/// A table a network and device.
fn tables(entries: &[Entry<Key, Results>]) -> Vec<Table> {
    let title = |key: &Key| {
        let Key { model, device, neuron, time_steps, batch, rate, .. } = key;
        format!("{model}, {neuron}, T = {time_steps}, batch {batch}, rate {rate}, {device}")
    };
    let columns = vec!["op", "shape", "bits", "cache", "layers", "n", "p50 ms", "dense", "Gop/s", "GB/s", "bound", "share"];
    let groups = entries.chunk_by(|a, b| title(&a.key) == title(&b.key));
    groups
        .map(|group| Table { title: title(&group[0].key), columns: columns.clone(), words: 2, rows: group.iter().map(cells).collect() })
        .collect()
}

fn cells(Entry { key, times, results, .. }: &Entry<Key, Results>) -> Vec<String> {
    let bound = match results.bound {
        Bound::Gemm => "gemm",
        Bound::AddsI32 => "add32",
        Bound::AddsI16 => "add16",
        Bound::Memory => "mem",
        Bound::TensorCores => "tensor",
    };
    let tenths =
        |value: Option<f64>| value.map_or("-".into(), |value| if value < 100.0 { format!("{value:.2}") } else { four_digits(value) });
    vec![
        key.op.into(),
        if let Some(why) = results.not_measured { why.into() } else { key.shape.clone() },
        key.weight_bits.map_or("-".into(), |bits| bits.to_string()),
        if key.cache == Cache::Warm { "warm" } else { "cold" }.into(),
        results.layers.to_string(),
        times.n.to_string(),
        milli(times.median_s),
        tenths(results.dense_gops_per_s),
        tenths(results.gops_per_s),
        tenths(results.gb_per_s),
        bound.into(),
        percent(results.share_of_peak),
    ]
}
