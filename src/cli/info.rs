//! `dsr info`: what this build and machine have.

use std::sync::Arc;
use std::thread::available_parallelism;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::bench::kernels::copy_bytes_per_s;
use crate::bench::peaks::{self, Peaks};
use crate::data;
use crate::device::driver::{self, Listed};
use crate::device::limits::{self, Limits};
use crate::device::machine::{self, Machine};
use crate::device::{Device, Gpu, Isa, kernels};
use crate::error::Result;
use crate::settings::{models, recipes};

use super::records::Records;
use super::tables::{LINE, Table};
use super::{DONE, Global, Output, Unused, Wanted, say, say_lines};

/// Shows build and hardware information.
#[derive(Args)]
pub struct InfoArgs {
    /// Registers, spills, shared memory and occupancy of every CUDA kernel on every target of this build.
    #[arg(long)]
    kernels: bool,
    /// Measures what this processor (and the device of --device) can do at most; takes some seconds.
    #[arg(long, conflicts_with = "kernels")]
    peaks: bool,
}

/// Prints version, processor, CUDA devices, data sets, networks and recipes, or a table of the kernels.
///
/// # Errors
/// [`crate::error::Error::Config`] for a flag without an effect here; [`crate::error::Error::Device`] if `--device` names a CUDA device that cannot be used.
pub fn run(global: &Global, args: &InfoArgs) -> anyhow::Result<u8> {
    global.refuse("info", &[Unused::Config, Unused::Seed])?;
    if args.kernels {
        global.refuse("info --kernels", &[Unused::Device, Unused::Threads])?;
    }
    match (args.kernels, global.output) {
        (true, Output::Json) => say(&json!({ "nvcc": kernels::NVCC, "kernels": kernel_rows() }).to_string()),
        (true, Output::Text) => say_lines(&kernel_table()?),
        (true, output) => say(Records::like(&kernel_row(&NO_LIMITS, None), &kernel_rows()).shown(output)?.trim_end()),
        (false, output) => machine(global, args.peaks, output)?,
    }
    Ok(DONE)
}

/// Features that this binary was built with.
fn build_features() -> Vec<&'static str> {
    let features = [("cuda-kernels", kernels::NVCC.is_some()), ("debug-assertions", cfg!(debug_assertions))];
    features.iter().filter(|feature| feature.1).map(|feature| feature.0).collect()
}

fn machine(global: &Global, peaks: bool, output: Output) -> anyhow::Result<()> {
    // A device that is asked for by name is opened: the shortest way to see whether it can be used.
    let opened = match global.device {
        Wanted::Cuda(_) => match global.open_device()? {
            Device::Cuda(gpu) => Some(gpu),
            Device::Cpu => None,
        },
        Wanted::Auto | Wanted::Cpu => None,
    };
    let (driver, gpus) = (driver::version().ok().map(driver::dotted), driver::devices());
    let isa = |isa: &Isa| format!("{isa:?}").to_lowercase();
    let sets: Vec<String> = Isa::available().iter().map(isa).collect();
    let threads = global.threads.or(available_parallelism().ok()).map_or(1, usize::from);
    super::use_threads(threads)?;
    let Machine { version, commit, rustc, build, target, cpu, cores, .. } = machine::machine();
    let measured = if peaks { Some(Measured::here(opened.as_ref())?) } else { None };
    let mut devices = vec!["cpu".to_string()];
    devices.extend((0..gpus.as_ref().map_or(0, Vec::len)).map(|index| format!("cuda:{index}")));
    if output == Output::Json {
        let mut info = json!({
            "version": version,
            "commit": commit,
            "rustc": rustc,
            "build": build,
            "build_features": build_features(),
            "target": target,
            "devices": devices,
            "cpu": cpu,
            "cores": cores,
            "instruction_sets": sets,
            "instruction_set": isa(&Isa::detect()),
            "cpu_features": cpu_features(),
            "threads": threads,
            "cuda": {
                "driver": driver,
                "devices": gpus.as_ref().map_or(Vec::new(), |gpus| gpus.iter().map(listed).collect()),
                "problem": gpus.as_ref().err().map(ToString::to_string),
                "opened": opened.as_ref().map(|gpu| gpu.ordinal()),
                "products": opened.as_ref().map(|gpu| gpu.products()),
                "launches_early": opened.as_ref().map(|gpu| gpu.launches_early()),
                "nvcc": kernels::NVCC,
                "kernels": kernels::ALL.len(),
                "targets": kernels::TARGETS,
            },
            "datasets": data::names(),
            "models": models::names(),
            "recipes": recipes::names(),
        });
        if let Some(measured) = &measured {
            info["peaks"] = serde_json::to_value(measured)?;
        }
        say(&info.to_string());
        return Ok(());
    }
    let commit = commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    let mut rows = vec![
        ("version", format!("{version} ({build}, {target}{commit}), rustc {rustc}")),
        ("build features", if build_features().is_empty() { "none".into() } else { build_features().join(", ") }),
        ("devices", devices.join(", ")),
        ("processor", format!("{cpu}, {cores} cores")),
        ("CPU features", cpu_features().join(" ")),
        ("instruction set", format!("{} (of {})", isa(&Isa::detect()), sets.join(", "))),
        ("threads", threads.to_string()),
        ("CUDA driver", driver.unwrap_or_else(|| "none".into())),
    ];
    match gpus {
        Ok(gpus) => rows.extend(gpus.iter().enumerate().map(|(index, gpu)| ("CUDA device", described(index, gpu)))),
        Err(problem) => rows.push(("CUDA device", format!("none: {problem}"))),
    }
    if let Some(gpu) = opened {
        let early = if gpu.launches_early() { ", early launches" } else { "" };
        rows.push(("opened", format!("{gpu:?}, every kernel is loaded, {} products of spikes{early}", gpu.products().name())));
    }
    rows.extend([
        ("CUDA kernels", built()),
        ("data sets", data::names().join(", ")),
        ("networks", models::names().join(", ")),
        ("recipes", recipes::names().join(", ")),
    ]);
    if let Some(measured) = &measured {
        rows.extend(measured.rows());
    }
    if output == Output::Text {
        rows.iter().for_each(|(name, value)| say(&row(name, value)));
        return Ok(());
    }
    let mut records = Records::new(["what", "value"]);
    rows.into_iter().for_each(|(name, value)| records.push(vec![name.into(), value]));
    say(records.shown(output)?.trim_end());
    Ok(())
}

/// Peaks of this machine, measured.
#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    cpu: Peaks,
    /// Bytes read and written by a copy on the opened CUDA device.
    cuda_memory_bytes_per_s: Option<f64>,
}

impl Measured {
    fn here(gpu: Option<&Arc<Gpu>>) -> Result<Self> {
        const SECONDS: f64 = 0.5;
        Ok(Measured { cpu: peaks::measure(SECONDS)?, cuda_memory_bytes_per_s: gpu.map(copy_bytes_per_s).transpose()? })
    }

    /// For people.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let Peaks { gemm_flop_per_s, memory_bytes_per_s, adds_i32_per_s, adds_i16_per_s, runs } = self.cpu;
        let giga = |value: f64, unit: &str, what: &str| format!("{:.1} {unit} ({what}; best of {runs} runs or more)", value / 1e9);
        let mut rows = vec![
            ("peak, gemm", giga(gemm_flop_per_s, "GFLOP/s", "f32 matrix product")),
            ("peak, memory", giga(memory_bytes_per_s, "GB/s", "large buffers, read and written")),
            ("peak, add32", giga(adds_i32_per_s, "G/s", "32-bit additions in the first cache")),
            ("peak, add16", giga(adds_i16_per_s, "G/s", "16-bit additions in the first cache")),
        ];
        if let Some(bytes) = self.cuda_memory_bytes_per_s {
            rows.push(("peak, CUDA", format!("{:.1} GB/s (copy on the device, read and written)", bytes / 1e9)));
        }
        rows
    }
}

pub(super) fn described(index: usize, gpu: &Listed) -> String {
    let (major, minor) = gpu.capability;
    let gib = gpu.memory as f64 / f64::from(1 << 30);
    format!("cuda:{index} {}, compute capability {major}.{minor}, {gib:.1} GiB, {} multiprocessors", gpu.name, gpu.multiprocessors)
}

pub(super) fn listed(gpu: &Listed) -> Value {
    let (major, minor) = gpu.capability;
    json!({
        "name": gpu.name,
        "capability": format!("{major}.{minor}"),
        "memory_bytes": gpu.memory,
        "multiprocessors": gpu.multiprocessors,
    })
}

/// How the kernels of this binary were built.
pub(super) fn built() -> String {
    match kernels::NVCC {
        Some(nvcc) => format!("{} by nvcc {nvcc} for {}", kernels::ALL.len(), kernels::TARGETS.join(", ")),
        None => "none: this binary was built without nvcc".into(),
    }
}

/// An object for each kernel and target.
fn kernel_rows() -> Vec<Value> {
    let rows_of = |kernel: &'static kernels::Kernel| {
        let of_kernel = limits::ALL.iter().filter(|limits| limits.kernel == kernel.name);
        of_kernel.map(|limits| kernel_row(limits, limits.occupancy(kernel.block)))
    };
    kernels::ALL.iter().flat_map(rows_of).collect()
}

fn kernel_row(limits: &Limits, occupancy: Option<f64>) -> Value {
    json!({
        "kernel": limits.kernel,
        "target": limits.target,
        "registers": limits.registers,
        "spill_bytes": limits.spill_bytes,
        "local_bytes": limits.local_bytes,
        "shared_bytes": limits.shared_bytes,
        "stage_instructions": limits.stage_instructions,
        "step_instructions": limits.step_instructions,
        "training_step_instructions": limits.training_step_instructions,
        "occupancy": occupancy,
    })
}

/// Of no kernel: its object has the columns of a table without rows.
const NO_LIMITS: Limits = Limits {
    kernel: "",
    target: "",
    registers: 0,
    spill_bytes: 0,
    local_bytes: 0,
    shared_bytes: 0,
    products: None,
    stage_instructions: None,
    step_instructions: None,
    training_step_instructions: None,
    before_wait: None,
};

/// A line of `dsr info`; a long value goes on below.
fn row(name: &str, value: &str) -> String {
    const BEGIN: usize = 17;
    let mut lines = vec![format!("{name:16}")];
    for word in value.split(' ') {
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        if used >= BEGIN && used + 1 + word.chars().count() > LINE {
            lines.push(format!("{:BEGIN$}{word}", ""));
        } else {
            lines[last] += &format!(" {word}");
        }
    }
    lines.join("\n")
}

/// A line a kernel, with registers and occupancy for each target, and a line for each kernel that uses local memory.
fn kernel_table() -> std::result::Result<String, std::fmt::Error> {
    if limits::ALL.is_empty() {
        return Ok(format!("CUDA kernels: {}", built()));
    }
    let mut rows = Vec::new();
    let mut faults = Vec::new();
    for kernel in kernels::ALL {
        let found: Vec<Option<&Limits>> = kernels::TARGETS.iter().map(|target| Limits::of(kernel, target)).collect();
        let cells = found.iter().map(|limits| limits.map_or("-".into(), |limits| cell(limits, kernel.block)));
        let shared = found.iter().flatten().map(|limits| limits.shared_bytes).max().unwrap_or(0);
        rows.push([kernel.name.to_string(), kernel.block.to_string(), shared.to_string()].into_iter().chain(cells).collect());
        for limits in found.iter().flatten().filter(|limits| limits.spill_bytes + limits.local_bytes > 0) {
            let Limits { kernel, target, spill_bytes, local_bytes, .. } = limits;
            faults.push(format!("{kernel} on {target}: {local_bytes} bytes of local memory, {spill_bytes} bytes of spills"));
        }
    }
    let table = Table {
        title: "Registers of a thread and occupancy without dynamic shared memory, by target.".into(),
        columns: ["kernel", "block", "shared"].into_iter().chain(kernels::TARGETS.iter().copied()).collect(),
        words: 1,
        rows,
    };
    let last = if faults.is_empty() { "No kernel spills registers or uses local memory.".into() } else { faults.join("\n") };
    Ok(table.text()? + &loop_table().text()? + &last)
}

/// Instructions in the loops of the spike convolutions, as their machine code has them: what predictions are made of.
fn loop_table() -> Table {
    let cell = |limits: Option<&Limits>| {
        let counts = limits.map(|limits| [limits.stage_instructions, limits.step_instructions, limits.training_step_instructions]);
        let text = |counts: [Option<u32>; 3]| counts.into_iter().flatten().map(|count| count.to_string()).collect::<Vec<_>>().join("/");
        counts.map_or("-".into(), text)
    };
    let has_loops = |kernel: &&kernels::Kernel| limits::ALL.iter().any(|l| l.kernel == kernel.name && l.stage_instructions.is_some());
    let row = |kernel: &kernels::Kernel| {
        let cells = kernels::TARGETS.iter().map(|target| cell(Limits::of(kernel, target)));
        [kernel.name.to_string()].into_iter().chain(cells).collect()
    };
    Table {
        title: "Instructions of a warp for a stage of two K steps, a step of its neurons, and one in training.".into(),
        columns: ["kernel"].into_iter().chain(kernels::TARGETS.iter().copied()).collect(),
        words: 1,
        rows: kernels::ALL.iter().filter(has_loops).map(row).collect(),
    }
}

fn cell(limits: &Limits, block: u32) -> String {
    let occupancy = limits.occupancy(block).map_or("?".into(), |share| format!("{:.0}%", 100.0 * share));
    format!("{} {occupancy:>4}", limits.registers)
}

/// Features of this processor that the inner loops use or may come to use.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("popcnt", is_x86_feature_detected!("popcnt")),
            ("bmi2", is_x86_feature_detected!("bmi2")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512vbmi2", is_x86_feature_detected!("avx512vbmi2")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ];
        features.iter().filter(|f| f.1).map(|f| f.0).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
