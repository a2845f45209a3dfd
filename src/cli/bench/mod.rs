//! `dsr bench`: speed on this machine, as tables, JSON or CSV, and beside an earlier result.

mod axes;
mod baseline;
mod data;
mod decision;
mod kernels;
mod latency;
mod report;
mod throughput;
mod trained;

use clap::{Args, Subcommand};

use super::{FAILED, Global, complain, stop};

/// Measures speed on this machine: networks, latency, single ops, the loader.
///
/// Ctrl-C (SIGTERM, SIGHUP, SIGUSR1) finishes the case, prints the cases that are done and exits with 1.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Throughput(Box<throughput::ThroughputArgs>),
    Latency(Box<latency::LatencyArgs>),
    Decision(Box<decision::DecisionArgs>),
    Kernels(Box<kernels::KernelsArgs>),
    Data(Box<data::DataArgs>),
}

/// Measures as asked.
///
/// # Errors
/// One line that says what is wrong with a setting; all of them are checked before the first case is measured.
pub fn run(global: &Global, args: BenchArgs) -> anyhow::Result<u8> {
    stop::catch("this case")?;
    let code = match args.command {
        Command::Throughput(args) => throughput::run(global, &args),
        Command::Latency(args) => latency::run(global, &args),
        Command::Decision(args) => decision::run(global, &args),
        Command::Kernels(args) => kernels::run(global, &args),
        Command::Data(args) => data::run(global, &args),
    }?;
    if !stop::is_asked() {
        return Ok(code);
    }
    complain("stopped: these are the cases that were done");
    Ok(FAILED)
}
