//! `dsr check`: whether a device computes what the CPU does. What a user runs first on a new GPU.

mod devices;

use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use crate::check::{self, Check, Outcome, Size};
use crate::device::driver::{self, Listed};
use crate::device::machine::{Machine, machine};
use crate::device::{Device, Products, kernels};

use super::info::{built, described, listed};
use super::records::Records;
use super::{DONE, Global, Output, Unused, say, say_lines, settings, use_threads};

/// Compares a device with the CPU: every op, whole networks, training steps.
///
/// One line each, below its op and what is compared, with the share of the tolerance that was used; the first fault ends it, with exit code 1. Run it
/// first on a new GPU. With --device cpu each instruction set of the processor is compared with plain Rust.
#[derive(Args)]
pub struct CheckArgs {
    /// How much is checked.
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    /// Collectives between several devices, a process each: cuda:0,1, cuda:0-3, all.
    #[arg(long, value_name = "DEVICES", value_parser = super::devices::parse)]
    devices: Option<super::devices::Devices>,
    /// This process is one of those, of how many.
    #[arg(long, value_name = "RANK/SIZE", value_parser = super::devices::parse_rank, hide = true)]
    rank: Option<super::devices::Rank>,
}

/// Checks as asked, and says how it went.
///
/// # Errors
/// The first fault, or what the device refused to do, with the op and its shape.
pub fn run(global: &Global, args: &CheckArgs) -> anyhow::Result<u8> {
    global.refuse("check", &[Unused::Config])?;
    let seed = settings::checked_seed(global.seed.unwrap_or(0))?;
    match (&args.devices, args.rank) {
        (_, Some(rank)) => return devices::run_rank(global, args.size, seed, rank),
        (Some(wanted), None) => return devices::run(global, args.size, seed, wanted),
        (None, None) => {}
    }
    let device = global.open_device()?;
    use_threads(global.threads.map_or(0, usize::from))?;
    let report = Report { about: machine(), gpu: gpu(&device)?, seed, size: args.size, checks: check::checks(&device, args.size), device };
    let is_text = global.output == Output::Text;
    if is_text {
        say_lines(&report.headlines().join("\n"));
    }
    let begin = Instant::now();
    let (mut rows, mut problem, mut heading) = (Vec::new(), None, String::new());
    for check in &report.checks {
        let begin = Instant::now();
        let result = check.run(report.seed);
        let outcome = result.as_ref().ok().filter(|outcome| outcome.fault.is_none());
        if is_text {
            let own = format!("{}, {}", check.op, check.compared);
            if own != heading {
                say_lines(&own);
                heading = own;
            }
            say_lines(&report.line(check, outcome));
        }
        rows.push(row(check, &result, begin.elapsed().as_secs_f64()));
        if outcome.is_none() {
            let what =
                result.map_or_else(|error| error.to_string(), |outcome| outcome.fault.map_or(String::new(), |fault| fault.to_string()));
            problem = Some(format!("{}, {}: {what}", check.op, check.shape));
            break;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    match (problem, is_text) {
        (None, true) => say_lines(&report.verdict(seconds)),
        (None, false) => report.print(global.output, rows, seconds)?,
        (Some(problem), true) => anyhow::bail!(problem),
        (Some(problem), false) => {
            report.print(global.output, rows, seconds)?;
            anyhow::bail!(problem)
        }
    }
    Ok(DONE)
}

/// What is said beside the lines.
struct Report {
    about: Machine,
    device: Device,
    /// The device as its driver lists it, and the version of that driver.
    gpu: Option<(usize, Listed, String)>,
    seed: u64,
    size: Size,
    checks: Vec<Check>,
}

fn gpu(device: &Device) -> crate::error::Result<Option<(usize, Listed, String)>> {
    let Device::Cuda(gpu) = device else { return Ok(None) };
    let listed = driver::devices()?.swap_remove(gpu.ordinal());
    Ok(Some((gpu.ordinal(), listed, driver::dotted(driver::version()?))))
}

impl Report {
    /// The build, the device, and what the lines are.
    fn headlines(&self) -> [String; 4] {
        let Machine { version, commit, build, target, cpu, isa, threads, .. } = &self.about;
        let commit = commit.map_or(String::new(), |commit| format!(", commit {commit}"));
        let cpu = format!("{cpu}, {isa}, {threads} threads");
        let (device, build_of_kernels) = match &self.gpu {
            Some((ordinal, listed, driver)) => {
                let products = self.products().map_or(String::new(), |products| format!(", {} products of spikes", products.name()));
                let early = if self.launches_early() { ", early launches" } else { "" };
                let device = format!("device: {}, driver for CUDA {driver}{products}{early}", described(*ordinal, listed));
                (device, format!(", kernels: {}", built()))
            }
            None => ("device: the CPU; its instruction sets are compared with plain Rust".into(), String::new()),
        };
        [
            format!("dsr {version} ({build}, {target}{commit}){build_of_kernels}"),
            device,
            format!("compared on: {cpu}; seed {}, {} checks", self.seed, self.checks.len()),
            "op, what is compared; below it: shape, share of the tolerance that was used".into(),
        ]
    }

    fn launches_early(&self) -> bool {
        matches!(&self.device, Device::Cuda(gpu) if gpu.launches_early())
    }

    fn products(&self) -> Option<Products> {
        if let Device::Cuda(gpu) = &self.device { Some(gpu.products()) } else { None }
    }

    /// One check; without an outcome it is a fault.
    fn line(&self, check: &Check, outcome: Option<&Outcome>) -> String {
        let width = self.checks.iter().map(|check| check.shape.len()).max().unwrap_or(0);
        line(&check.shape, width, outcome.map(|outcome| outcome.used))
    }

    fn verdict(&self, seconds: f64) -> String {
        let count = self.checks.len();
        match (&self.gpu, count) {
            (Some(_), _) => format!("{count} checks passed in {seconds:.1} s: {} may be used", self.device),
            (None, 0) => "nothing to compare: this processor has no instruction set beside plain Rust".into(),
            (None, _) => format!("{count} checks passed in {seconds:.1} s: the same bits on each instruction set of the CPU"),
        }
    }

    /// In one of the forms that programs read.
    fn print(&self, output: Output, rows: Vec<Value>, seconds: f64) -> anyhow::Result<()> {
        if output == Output::Json {
            say(&self.json(rows, seconds).to_string());
            return Ok(());
        }
        let Machine { version, commit, build, cpu, isa, .. } = &self.about;
        let about = json!({
            "device": self.device.to_string(), "seed": self.seed, "size": self.size, "planned": self.checks.len(),
            "version": version, "commit": commit, "build": build, "cpu": cpu, "isa": isa,
        });
        print_rows(output, rows, &about)
    }

    fn json(&self, rows: Vec<Value>, seconds: f64) -> Value {
        let passed = rows.iter().filter(|row| row["ok"] == true).count();
        let fault = rows.last().filter(|row| row["ok"] == false);
        let gpu = self.gpu.as_ref().map(|(ordinal, gpu, driver)| {
            json!({
                "index": ordinal, "driver": driver, "listed": listed(gpu), "products": self.products(),
                "launches_early": self.launches_early(), "nvcc": kernels::NVCC, "targets": kernels::TARGETS,
            })
        });
        json!({
            "header": self.about,
            "device": self.device.to_string(),
            "cuda": gpu,
            "seed": self.seed,
            "size": self.size,
            "planned": self.checks.len(),
            "passed": passed,
            "ok": fault.is_none(),
            "fault": fault,
            "seconds": seconds,
            "checks": rows,
        })
    }
}

/// A shape and the share of the tolerance that was used; none is a fault.
fn line(shape: &str, width: usize, used: Option<f64>) -> String {
    let share = match used {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(used) if used < 0.001 => format!("{used:.0e}"),
        Some(used) => format!("{used:.3}"),
    };
    format!("  {shape:width$}  {share:>5}  {}", if used.is_some() { "ok" } else { "FAULT" })
}

/// Rows as a table, each with what is about all of them.
fn print_rows(output: Output, rows: Vec<Value>, about: &Value) -> anyhow::Result<()> {
    let with_about = |mut row: Value| {
        if let (Some(row), Some(about)) = (row.as_object_mut(), about.as_object()) {
            row.extend(about.clone());
        }
        row
    };
    let rows: Vec<Value> = rows.into_iter().map(with_about).collect();
    say(Records::of_objects(&rows).shown(output)?.trim_end());
    Ok(())
}

fn row(check: &Check, result: &crate::error::Result<Outcome>, seconds: f64) -> Value {
    let outcome = result.as_ref().ok();
    json!({
        "op": check.op,
        "shape": check.shape,
        "compared": check.compared.to_string(),
        "ok": outcome.is_some_and(|outcome| outcome.fault.is_none()),
        "used": outcome.map(|outcome| outcome.used),
        "values": outcome.map(|outcome| outcome.values),
        "fault": outcome.and_then(|outcome| outcome.fault.as_ref()),
        "problem": result.as_ref().err().map(ToString::to_string),
        "seconds": seconds,
    })
}
