//! `dsr check --devices`: collectives between several devices against the host, and training steps that they share against one device;
//! each device has a process of its own.
//!
//! The first process starts the others with `--rank`, reads a row for each check from all of them, and ends them together.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};

use super::{line, print_rows, row};
use crate::check::collectives::{PATIENCE, checks};
use crate::check::{Check, Size, shared_step};
use crate::cli::devices::{Devices, Rank, free_address, resolved, this_program};
use crate::cli::{DONE, Global, Output, Unused, complain, say, say_lines, use_threads};
use crate::device::Device;
use crate::device::machine::{Machine, machine};
use crate::device::nccl::{self, Communicator, Id};
use crate::error::Error;

/// One of the processes: prints what it is, and then a row for each check, a JSON object a line.
///
/// # Errors
/// What the device or NCCL refused to do. A fault is a row, and an end.
pub fn run_rank(global: &Global, size: Size, seed: u64, Rank { rank, size: ranks }: Rank) -> anyhow::Result<u8> {
    let Device::Cuda(gpu) = global.open_device()? else { return Err(Error::config("rank", "needs --device cuda:N").into()) };
    use_threads(1)?;
    let communicator = Arc::new(Communicator::new(&gpu, rank, ranks, Id::of_environment()?, PATIENCE)?);
    let checks: Vec<Check> = checks(&communicator, size).into_iter().chain(shared_step::checks(&communicator)).collect();
    let planned: Vec<Value> = checks.iter().map(|c| json!({ "op": c.op, "shape": c.shape, "compared": c.compared.to_string() })).collect();
    say(&json!({ "device": format!("{gpu:?}"), "planned": planned }).to_string());
    for check in checks {
        let begin = Instant::now();
        let result = check.run(seed);
        say(&row(&check, &result, begin.elapsed().as_secs_f64()).to_string());
        result?;
    }
    Ok(DONE)
}

/// What a process says, and how it ended.
enum Said {
    Line(Value),
    End { succeeded: bool, stderr: String },
}

/// The processes; those that are left are ended with this.
struct Ranks {
    children: Vec<Child>,
    said: Receiver<(usize, Said)>,
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already is no error.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process for each device, compares what they say, and says how it went.
///
/// # Errors
/// No NCCL, no such device, and the first fault of any rank.
pub fn run(global: &Global, size: Size, seed: u64, wanted: &Devices) -> anyhow::Result<u8> {
    global.refuse("check --devices", &[Unused::Device, Unused::Threads])?;
    let devices = resolved(wanted)?;
    let library = nccl::load()?;
    let names: Vec<String> = devices.iter().map(|(device, name)| format!("cuda:{device} {name}")).collect();
    let devices: Vec<usize> = devices.into_iter().map(|(device, _)| device).collect();
    let (about, is_text) = (machine(), global.output == Output::Text);
    if is_text {
        let Machine { version, build, target, .. } = &about;
        say_lines(&format!("dsr {version} ({build}, {target})"));
        say_lines(&format!("devices: {}; a process each, NCCL {} ({})", names.join(", "), library.version(), library.name()));
        say_lines(&format!("compared on: the host; seed {seed}"));
        say_lines("op, what is compared; below it: shape, share of the tolerance that was used");
    }
    let begin = Instant::now();
    let mut ranks = start(&devices, size, seed)?;
    let (rows, problem) = compare(&mut ranks, &devices, is_text);
    drop(ranks);
    let seconds = begin.elapsed().as_secs_f64();
    let (passed, rows) = (rows.iter().filter(|row| row["ok"] == true).count(), rows);
    match global.output {
        Output::Text if problem.is_none() => {
            say_lines(&format!("{passed} checks passed in {seconds:.1} s: {} may be used together", names.join(", ")));
        }
        Output::Text => {}
        Output::Json => {
            let fault = rows.iter().find(|row| row["ok"] == false);
            say(&json!({
                "header": about, "devices": names, "nccl": library.version(), "seed": seed, "size": size, "passed": passed,
                "ok": problem.is_none(), "fault": fault, "problem": problem, "seconds": seconds, "checks": rows,
            })
            .to_string());
        }
        output => {
            let Machine { version, commit, build, .. } = &about;
            let about = json!({
                "devices": names.join(", "), "nccl": library.version(), "seed": seed, "size": size, "version": version,
                "commit": commit, "build": build,
            });
            print_rows(output, rows, &about)?;
        }
    }
    problem.map_or(Ok(DONE), |problem| Err(anyhow::anyhow!(problem)))
}

/// A process for each device, and one thread that listens to each.
fn start(devices: &[usize], size: Size, seed: u64) -> anyhow::Result<Ranks> {
    let meeting = free_address()?;
    let program = this_program()?;
    let (sender, said) = channel();
    let mut ranks = Ranks { children: Vec::new(), said };
    for (rank, device) in devices.iter().enumerate() {
        let mut command = Command::new(&program);
        let size = match size {
            Size::Small => "small",
            Size::Full => "full",
        };
        command.args(["check", "--quiet", "--size", size, "--seed", &seed.to_string(), "--device", &format!("cuda:{device}")]);
        command.args(["--rank", &format!("{rank}/{}", devices.len())]).env(nccl::MEETING, &meeting);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("a process for cuda:{device} could not be started"))?;
        listen(rank, &mut child, sender.clone());
        ranks.children.push(child);
    }
    Ok(ranks)
}

/// Passes on what a process says, and at last how it ended: it says nothing more when both its outputs are closed.
fn listen(rank: usize, child: &mut Child, sender: Sender<(usize, Said)>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    std::thread::spawn(move || {
        let lines = stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(std::result::Result::ok);
        for value in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
            // Nobody listens any more once a fault is known.
            let _ = sender.send((rank, Said::Line(value)));
        }
        let stderr = errors.join().unwrap_or_default();
        let succeeded = !stderr.lines().any(|line| line.starts_with("error: "));
        let _ = sender.send((rank, Said::End { succeeded, stderr }));
    });
}

/// Rows of all ranks together, and the first problem.
fn compare(ranks: &mut Ranks, devices: &[usize], is_text: bool) -> (Vec<Value>, Option<String>) {
    let mut lines: Vec<Vec<Value>> = vec![Vec::new(); devices.len()];
    let (mut rows, mut heading) = (Vec::new(), String::new());
    let mut running = devices.len();
    while running > 0 {
        let Ok((rank, said)) = ranks.said.recv() else { break };
        let of = format!("rank {rank} (cuda:{})", devices[rank]);
        match said {
            Said::Line(line) => lines[rank].push(line),
            Said::End { succeeded, stderr } => {
                running -= 1;
                let is_whole =
                    lines[rank].first().is_some_and(|first| first["planned"].as_array().map(Vec::len) == Some(lines[rank].len() - 1));
                let (errors, others): (Vec<&str>, Vec<&str>) = stderr.lines().partition(|line| line.starts_with("error: "));
                others.iter().for_each(|line| complain(&format!("{of}: {line}")));
                if !succeeded || !is_whole {
                    let what = errors.first().map_or("ended without a word", |line| line.trim_start_matches("error: "));
                    return (rows, Some(format!("{of}: {what}")));
                }
            }
        }
        // The first line of each is no row.
        while lines.iter().all(|of_rank| of_rank.len() > rows.len() + 1) {
            let of_ranks: Vec<&Value> = lines.iter().map(|of_rank| &of_rank[rows.len() + 1]).collect();
            let (row, problem) = together(&of_ranks, devices);
            if is_text {
                let text = |name: &str| row[name].as_str().unwrap_or_default();
                let own = format!("{}, {}", text("op"), text("compared"));
                if own != heading {
                    say_lines(&own);
                    heading = own;
                }
                let width = lines[0][1..].iter().chain(lines[0][0]["planned"].as_array().into_iter().flatten());
                let width = width.filter_map(|row| row["shape"].as_str()).map(str::len).max().unwrap_or(0);
                say_lines(&line(text("shape"), width, row["used"].as_f64().filter(|_| problem.is_none())));
            }
            rows.push(row);
            if problem.is_some() {
                return (rows, problem);
            }
        }
    }
    (rows, None)
}

/// One row for all ranks, and what is wrong with the first of them that has a fault.
fn together(of_ranks: &[&Value], devices: &[usize]) -> (Value, Option<String>) {
    let mut row = of_ranks[0].clone();
    let of_all = |name: &str| of_ranks.iter().filter_map(|row| row[name].as_f64()).collect::<Vec<f64>>();
    row["used"] = json!(of_all("used").into_iter().reduce(f64::max));
    row["values"] = json!(of_ranks.iter().filter_map(|row| row["values"].as_u64()).sum::<u64>());
    row["seconds"] = json!(of_all("seconds").into_iter().fold(0.0, f64::max));
    let Some(rank) = of_ranks.iter().position(|row| row["ok"] != true) else { return (row, None) };
    let bad = of_ranks[rank];
    for name in ["ok", "fault", "problem"] {
        row[name] = bad[name].clone();
    }
    row["rank"] = json!(rank);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let fault = &bad["fault"];
    let what = if fault.is_object() {
        let [values, expected, got] = ["values", "expected", "got"].map(|name| text(&fault[name]));
        format!("{values} at index {}: expected {expected}, got {got}", fault["index"])
    } else {
        text(&bad["problem"])
    };
    let problem = format!("rank {rank} (cuda:{}): {}, {}: {what}", devices[rank], text(&bad["op"]), text(&bad["shape"]));
    (row, Some(problem))
}
