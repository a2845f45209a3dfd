//! The command line: one file a subcommand, and what all of them share.

pub mod bench;
pub mod calibrate;
pub mod check;
pub mod classify;
mod confusion;
pub mod data;
pub mod dataset;
mod devices;
pub mod eval;
pub mod export;
pub mod info;
mod notes;
mod numbers;
mod outputs;
mod plan;
mod ported;
mod processes;
pub mod profile;
mod progress;
mod ranks;
pub mod recipe;
mod records;
pub mod settings;
mod stop;
mod tables;
pub mod train;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::Context;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::device::{Device, Gpu, driver, threads};
use crate::error::Error;
use crate::settings::Config;
use crate::spelling::{escaped, is_plain, one_line};

/// Done.
const DONE: u8 = 0;
/// Failed, or interrupted before the end.
const FAILED: u8 = 1;
/// The command line or a setting is wrong.
const USAGE: u8 = 2;

/// Trains and measures spiking neural networks by differentiation on spike representation (DSR).
#[derive(Parser)]
#[command(name = "dsr", version, arg_required_else_help = true, max_term_width = 80)]
#[command(after_help = "Exit code: 0 done, 1 failed or interrupted, 2 wrong flag or setting.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::TrainArgs>),
    Eval(Box<eval::EvalArgs>),
    Classify(classify::ClassifyArgs),
    Calibrate(Box<calibrate::CalibrateArgs>),
    Export(export::ExportArgs),
    Bench(bench::BenchArgs),
    Profile(Box<profile::ProfileArgs>),
    Data(Box<data::DataArgs>),
    Recipe(recipe::RecipeArgs),
    Info(info::InfoArgs),
    Check(check::CheckArgs),
}

/// Flags of every subcommand.
#[derive(Args, Clone)]
pub struct Global {
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, global = true, default_value = "auto", value_parser = parse_device, help_heading = "Global")]
    device: Wanted,
    /// Threads, up to 1024; results do not depend on it [default: one per core].
    #[arg(long, global = true, value_name = "N", help_heading = "Global")]
    threads: Option<NonZeroUsize>,
    /// Seed of everything random [default: 0].
    #[arg(long, global = true, value_name = "N", visible_alias = "manualSeed", alias = "manual-seed", help_heading = "Global")]
    seed: Option<u64>,
    /// Settings from a TOML file; flags win over it.
    #[arg(long, global = true, value_name = "FILE.toml", help_heading = "Global")]
    config: Option<PathBuf>,
    /// Results only: no line per epoch, no progress.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global")]
    quiet: bool,
    /// Say more on stderr: the settings (benchmarks have them in their results).
    #[arg(short, long, global = true, help_heading = "Global")]
    verbose: bool,
    /// Output format of the results on stdout.
    #[arg(short, long, global = true, value_enum, default_value = "text", help_heading = "Global")]
    output: Output,
    /// Seconds between two lines of progress where stderr is no terminal; for tests.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60, hide = true)]
    progress_every: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One object on one line.
    Json,
    /// A Markdown table.
    Md,
    /// A table for spreadsheets.
    Csv,
}

/// Where to compute, as the user asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Auto,
    Cpu,
    /// By number; without one the first, or that of the rank.
    Cuda(Option<usize>),
}

fn parse_device(text: &str) -> Result<Wanted, String> {
    let number = match text {
        "auto" => return Ok(Wanted::Auto),
        "cpu" => return Ok(Wanted::Cpu),
        "cuda" => return Ok(Wanted::Cuda(None)),
        other => other.strip_prefix("cuda:").unwrap_or_default(),
    };
    number.parse().map(|number| Wanted::Cuda(Some(number))).map_err(|_| "give auto, cpu, cuda or cuda:N".into())
}

/// A global flag that a command may have no use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unused {
    /// A device by name; the CPU is what such commands use.
    Device,
    Threads,
    Seed,
    Config,
}

impl Global {
    /// Refuses flags that a command has no use for, so that nobody waits for their effect.
    ///
    /// # Errors
    /// [`Error::Config`] naming the flag and the command.
    fn refuse(&self, command: &str, unused: &[Unused]) -> crate::error::Result<()> {
        for flag in unused {
            let (name, is_given) = match flag {
                Unused::Device => ("device", matches!(self.device, Wanted::Cuda(_))),
                Unused::Threads => ("threads", self.threads.is_some()),
                Unused::Seed => ("seed", self.seed.is_some()),
                Unused::Config => ("config", self.config.is_some()),
            };
            if is_given {
                return Err(Error::config(name, format!("dsr {command} has no use for it; leave --{name} out")));
            }
        }
        Ok(())
    }

    /// What a command computes with, on stderr, if the user wants to read more.
    fn tell_settings(&self, config: &Config) -> crate::error::Result<()> {
        if self.verbose {
            complain(config.to_complete_toml()?.trim_end());
        }
        Ok(())
    }

    /// Opens the device that the user asked for; `auto` is the first CUDA device, and the CPU where there is none.
    ///
    /// # Errors
    /// [`Error::Device`] if a CUDA device was asked for by name and cannot be used.
    pub fn open_device(&self) -> anyhow::Result<Device> {
        self.open(self.device)
    }

    /// Opens one device, as [`Global::open_device`] does.
    fn open(&self, wanted: Wanted) -> anyhow::Result<Device> {
        if wanted != Wanted::Cpu
            && !self.quiet
            && let Some(note) = driver::note()
        {
            complain(&format!("note: {note}"));
        }
        match wanted {
            Wanted::Cpu => Ok(Device::Cpu),
            Wanted::Cuda(ordinal) => Ok(Device::Cuda(Gpu::open(ordinal.unwrap_or(0))?)),
            // Most machines have no driver, and their users do not want to read that.
            Wanted::Auto if driver::version().is_err() => Ok(Device::Cpu),
            Wanted::Auto => match Gpu::open(0) {
                Ok(gpu) => Ok(Device::Cuda(gpu)),
                // A wrong setting is no missing device.
                Err(wrong @ Error::Config { .. }) => Err(wrong.into()),
                Err(problem) => {
                    if !self.quiet {
                        complain(&format!("note: computing on the CPU: {problem}"));
                    }
                    Ok(Device::Cpu)
                }
            },
        }
    }
}

/// Starts the program again where `LD_LIBRARY_PATH` would find a toolkit's stub of the driver before the driver: the loader has
/// read that variable before `main`.
#[cfg(unix)]
fn start_without_stubs() {
    use std::os::unix::process::CommandExt;
    let Some(path) = std::env::var_os("LD_LIBRARY_PATH").and_then(|path| driver::path_without_stubs(&path)) else { return };
    if let Ok(program) = std::env::current_exe() {
        // Comes back only if it fails, and then the stub says what it is.
        let _ = std::process::Command::new(program).args(std::env::args_os().skip(1)).env("LD_LIBRARY_PATH", path).exec();
    }
}

/// The command line. Help of a command does not list what the command always refuses.
fn parse() -> std::result::Result<Cli, clap::Error> {
    let hide = |eval: clap::Command| eval::REFUSED.iter().fold(eval, |eval, name| eval.mut_arg(name, |arg| arg.hide(true)));
    let mut command = Cli::command().mut_subcommand("eval", hide);
    Cli::from_arg_matches(&command.try_get_matches_from_mut(std::env::args_os())?).map_err(|error| error.format(&mut command))
}

/// The same error, whose tip spells a flag as help does, not as an alias with underscores, and takes no flag for the name of a file.
fn with_plain_tips(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::SuggestedArg) {
        let flag = flag.replace('_', "-");
        error.insert(ContextKind::SuggestedArg, ContextValue::String(flag));
    }
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().contains("as a value, use"));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
    error
}

/// Parses the command line, runs it and says how it went.
pub fn main() -> ExitCode {
    stop::survive_file_limits();
    #[cfg(unix)]
    start_without_stubs();
    stop::end_with_a_line();
    let code = match parse().map_err(with_plain_tips) {
        Ok(cli) => run(cli).unwrap_or_else(|error| {
            complain(&error_line(&error));
            if matches!(error.downcast_ref(), Some(Error::Config { .. })) { USAGE } else { FAILED }
        }),
        // A wrong flag goes to stderr with 2; help goes to stdout with 0.
        Err(error) if error.use_stderr() => {
            let text = error.render().to_string();
            if shown(&text) == text {
                let _ = error.print(); // in colour; nothing can be done about a closed stderr
            } else {
                complain(text.trim_end());
            }
            USAGE
        }
        Err(error) => {
            keep(error.print());
            DONE
        }
    };
    match STDOUT.lock().ok().and_then(|mut failed| failed.take()) {
        None => ExitCode::from(code),
        Some(problem) => {
            complain(&format!("error: standard output: {problem}; what was printed is not complete"));
            ExitCode::from(code.max(FAILED))
        }
    }
}

/// What is said of an error.
fn error_line(error: &anyhow::Error) -> String {
    format!("error: {error:#}").replace('\n', " ")
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let alone = match &cli.command {
        Command::Eval(_) => Some("eval"),
        Command::Classify(_) => Some("classify"),
        Command::Calibrate(_) => Some("calibrate"),
        Command::Bench(_) => Some("bench"),
        Command::Profile(_) => Some("profile"),
        _ => None,
    };
    if !cli.global.quiet {
        alone.and_then(ranks::alone_note).iter().for_each(|note| complain(note));
    }
    match cli.command {
        Command::Train(args) => train::run(&cli.global, *args),
        Command::Eval(args) => eval::run(&cli.global, *args),
        Command::Classify(args) => classify::run(&cli.global, &args),
        Command::Calibrate(args) => calibrate::run(&cli.global, *args),
        Command::Export(args) => export::run(&cli.global, &args),
        Command::Bench(args) => bench::run(&cli.global, args),
        Command::Profile(args) => profile::run(&cli.global, *args),
        Command::Data(args) => data::run(&cli.global, &args).map(|()| DONE),
        Command::Recipe(args) => recipe::run(&cli.global, &args),
        Command::Info(args) => info::run(&cli.global, &args),
        Command::Check(args) => check::run(&cli.global, &args),
    }
}

/// Sizes the thread pool, 0 for one thread a core; once, before the first parallel loop.
///
/// This thread is one of them: handing each loop of a short step to others and being woken by them takes longer than a part of it.
fn use_threads(threads: usize) -> anyhow::Result<()> {
    let threads = threads::checked(threads)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global();
    pool.with_context(|| format!("--threads {threads}: could not be started; try fewer"))
}

/// The first error of a write to stdout, which [`main`] reports: a table that is lost is no reason to lose the run as well.
static STDOUT: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Results on stdout. A reader that has gone away (`dsr train | head`) is no reason to stop, and none to complain.
fn say(text: &str) {
    keep(writeln!(std::io::stdout(), "{}", shown(text)));
}

/// A result for people, in lines that fit a terminal.
fn say_lines(text: &str) {
    say(&tables::fitted(text.trim_end()));
}

/// Keeps the error of a write to stdout, unless its reader has gone away.
fn keep(written: std::io::Result<()>) {
    let Err(problem) = written.and_then(|()| std::io::stdout().flush()) else { return };
    if problem.kind() != std::io::ErrorKind::BrokenPipe
        && let Ok(mut first) = STDOUT.lock()
    {
        first.get_or_insert(problem);
    }
}

/// Everything else, on stderr; a note and a warning are one line each, whatever names are in them.
fn complain(text: &str) {
    let is_one = ["note: ", "warning: "].iter().any(|start| text.starts_with(start));
    let text = if is_one { one_line(text) } else { shown(text) };
    let _ = writeln!(std::io::stderr(), "{}{text}", ranks::prefix());
}

/// A text as a terminal may see it: what names and files hold of control characters, and of characters that turn the direction of
/// writing, is spelled out, in a way that JSON, too, reads as the same character.
fn shown(text: &str) -> String {
    if text.chars().all(is_plain) {
        return text.into();
    }
    text.chars().map(|c| if is_plain(c) { c.to_string() } else { escaped(c) }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_that_moves_a_cursor_is_shown() {
        let cases = [
            ("plain ä \u{1f600}\n\tline", "plain ä \u{1f600}\n\tline"),
            ("\u{1b}[2J\u{7f}\u{9b}1m\r", "\\u001b[2J\\u007f\\u009b1m\\u000d"),
            ("abc\u{202e}fdp", "abc\\u202efdp"),
        ];
        for (text, expected) in cases {
            assert_eq!(super::shown(text), expected);
        }
        assert_eq!(serde_json::from_str::<String>("\"\\u009b\"").unwrap(), "\u{9b}");
    }
}
