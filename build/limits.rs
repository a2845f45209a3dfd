//! What ptxas says of each kernel, and what the machine code shows.

use std::env;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::Source;
use super::nvcc::Nvcc;

/// What a kernel takes of a target's resources.
#[derive(Default)]
struct Limits {
    kernel: String,
    target: String,
    registers: u32,
    spill_bytes: u32,
    local_bytes: u32,
    shared_bytes: u32,
}

/// Rust text: a row for each kernel of a file and target, from what ptxas says of it and, for the spike convolutions and for kernels that
/// wait for the one before them, the code.
pub fn of(nvcc: &Nvcc, source: &Source, messages: &str, image: &Path) -> Result<String, String> {
    let of_spikes = source.kernels.iter().any(|kernel| kernel.name.starts_with("spike_conv"));
    let waiting = |name: &str| source.kernels.iter().any(|kernel| kernel.waits && kernel.name == name);
    let is_read = of_spikes || source.kernels.iter().any(|kernel| kernel.waits);
    let code = if is_read { disassembled(nvcc, image)? } else { None };
    let mut rows = String::new();
    for limits in resources(messages) {
        let Limits { kernel, target, registers, spill_bytes, local_bytes, shared_bytes } = limits;
        let loops = code.as_ref().filter(|_| of_spikes).map(|code| Loops::of(code, &kernel, &target)).unwrap_or_default();
        let before_wait = code.as_ref().filter(|_| waiting(&kernel)).and_then(|code| before_wait(code, &kernel, &target));
        let target = if target == "sm_90a" { "sm_90".into() } else { target }; // in its place, see nvcc.rs
        let _ = writeln!(
            rows,
            "Limits {{ kernel: {kernel:?}, target: {target:?}, registers: {registers}, spill_bytes: {spill_bytes}, \
             local_bytes: {local_bytes}, shared_bytes: {shared_bytes}, products: {:?}, stage_instructions: {:?}, \
             step_instructions: {:?}, training_step_instructions: {:?}, before_wait: {before_wait:?} }},",
            loops.products, loops.stage, loops.step, loops.training_step
        );
    }
    Ok(rows)
}

/// Reads `ptxas -v`: "Compiling entry function 'NAME' for 'sm_80'", then lines of numbers before "bytes …" or "registers".
fn resources(messages: &str) -> Vec<Limits> {
    let mut all: Vec<Limits> = Vec::new();
    for line in messages.lines() {
        if let Some((_, names)) = line.split_once("Compiling entry function '") {
            let mut quoted = names.split('\'');
            let (kernel, target) = (quoted.next().unwrap_or_default().into(), quoted.nth(1).unwrap_or_default().into());
            all.push(Limits { kernel, target, ..Limits::default() });
        }
        let Some(limits) = all.last_mut() else { continue };
        for fact in line.rsplit(" : ").next().unwrap_or_default().split(',') {
            let number = fact.split(' ').find_map(|word| word.parse().ok()).unwrap_or(0u32);
            if fact.contains("registers") {
                limits.registers = number;
            } else if fact.contains("bytes spill") {
                limits.spill_bytes += number;
            } else if fact.contains("stack") {
                limits.local_bytes = limits.local_bytes.max(number);
            } else if fact.contains("bytes smem") {
                limits.shared_bytes = number;
            }
        }
    }
    all
}

/// The machine code of an image as text; none where the toolkit has no cuobjdump beside nvcc.
fn disassembled(nvcc: &Nvcc, image: &Path) -> Result<Option<String>, String> {
    let tool = nvcc.path.with_file_name(format!("cuobjdump{}", env::consts::EXE_SUFFIX));
    if !tool.is_file() {
        return Ok(None);
    }
    let output = Command::new(&tool).arg("-sass").arg(image).output().map_err(|e| format!("{}: {e}", tool.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = || format!("{}: {}", tool.display(), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(Some(text)) } else { Err(complaint()) }
}

/// What the machine code of a spike convolution shows.
#[derive(Default)]
struct Loops {
    /// Instructions of the tensor cores: of integers, or, in kernels called `*_bf16`, of bf16.
    products: Option<usize>,
    /// Instructions of the longest way through the loop over stages that reads bits and copies those of both K steps at once, as it does
    /// where the channels in are a multiple of 64.
    stage: Option<usize>,
    /// Instructions per step of a warp's neurons in evaluation, rounded up, in the shortest loop. A step has a ballot, and two additions or
    /// multiplications of floats that are no fused ones.
    step: Option<usize>,
    /// The same in training, with the sum of the currents and a count: four of them.
    training_step: Option<usize>,
}

impl Loops {
    fn of(code: &str, kernel: &str, target: &str) -> Loops {
        let instructions = instructions(code, kernel, target);
        let in_bf16 = kernel.ends_with("_bf16");
        let is_product = |text: &str| if in_bf16 { text.contains("HMMA") } else { text.contains("IMMA") || text.contains("IGMMA") };
        let count = |range: &(usize, usize), is: &dyn Fn(&str) -> bool| {
            instructions.iter().filter(|(at, text)| (range.0..=range.1).contains(at) && is(text)).count()
        };
        let all: Vec<(usize, usize)> = instructions.iter().filter_map(|(at, text)| loop_that_ends(*at, text)).collect();
        let is_inner = |range: &&(usize, usize)| !all.iter().any(|other| other != *range && other.0 >= range.0 && other.1 <= range.1);
        let inner: Vec<&(usize, usize)> = all.iter().filter(is_inner).collect();
        let steps = |range: &(usize, usize)| count(range, &|text| text.contains("VOTE"));
        let plain = |range: &(usize, usize)| count(range, &|text| text.contains("FADD") || text.contains("FMUL"));
        let shortest = |plain_of_step: usize| {
            let of_kind = inner.iter().filter(|range| steps(range) > 0 && plain(range) == plain_of_step * steps(range));
            of_kind.map(|range| count(range, &|_| true).div_ceil(steps(range))).min()
        };
        let body = |range: &(usize, usize)| {
            let within = |at| instructions.partition_point(|&(address, _)| address < at);
            &instructions[within(range.0)..=within(range.1)]
        };
        let multiplies = |range: &&&(usize, usize)| count(range, &is_product) > 0;
        let copies_both = |text: &str| text.contains("LDGSTS.E.64");
        Loops {
            products: Some(instructions.iter().filter(|(_, text)| is_product(text)).count()),
            stage: inner.iter().filter(multiplies).filter_map(|range| longest_way(body(range), &copies_both)).max(),
            step: shortest(2),
            training_step: shortest(4),
        }
    }
}

/// Instructions of the longest way through a loop's body, within which branches lead forwards only, that comes by one of some instructions.
fn longest_way(body: &[(usize, &str)], is_one: &dyn Fn(&str) -> bool) -> Option<usize> {
    // Most instructions before each, without and with one of those.
    let mut before = vec![[None::<usize>; 2]; body.len() + 1];
    before[0] = [Some(0), None];
    for (i, &(_, text)) in body.iter().enumerate() {
        let [without, with] = before[i];
        let behind = if is_one(text) { [None, without.max(with)] } else { [without, with] }.map(|most| most.map(|most| most + 1));
        let jump = branch(text).and_then(|to| body.iter().position(|&(at, _)| at == to)).filter(|&to| to > i);
        let goes_on = !text.trim_start().starts_with("BRA 0x") || i + 1 == body.len();
        for next in jump.into_iter().chain(goes_on.then_some(i + 1)) {
            before[next] = [0, 1].map(|kind| before[next][kind].max(behind[kind]));
        }
    }
    before[body.len()][1]
}

/// Instructions of a kernel that may touch global memory and stand before its wait for the kernel before it; none where there is no wait.
fn before_wait(code: &str, kernel: &str, target: &str) -> Option<usize> {
    const TOUCHES: [&str; 9] = ["LDG", "LD.", "LDGSTS", "STG", "ST.", "ATOM", "RED", "UBLKCP", "UBLKPF"];
    let instructions = instructions(code, kernel, target);
    let wait = instructions.iter().position(|(_, text)| text.contains("ACQBULK"))?;
    let touches = |text: &str| text.split_whitespace().any(|word| TOUCHES.iter().any(|touch| word.starts_with(touch)));
    Some(instructions[..wait].iter().filter(|(_, text)| touches(text)).count())
}

/// Address and text of each instruction of a kernel's code for a target.
fn instructions<'a>(code: &'a str, kernel: &str, target: &str) -> Vec<(usize, &'a str)> {
    let (mut arch, mut function, mut found) = ("", "", Vec::new());
    for line in code.lines() {
        if let Some((_, name)) = line.split_once("arch = ") {
            (arch, function) = (name.trim(), "");
        } else if let Some((_, name)) = line.split_once("Function : ") {
            function = name.trim();
        } else if arch == target
            && function == kernel
            && let Some((address, text)) = line.trim_start().strip_prefix("/*").and_then(|rest| rest.split_once("*/"))
            && let (Ok(address), Some((text, _))) = (usize::from_str_radix(address, 16), text.split_once(';'))
        {
            found.push((address, text));
        }
    }
    found
}

/// First and last address of the loop that a branch backwards closes.
fn loop_that_ends(at: usize, text: &str) -> Option<(usize, usize)> {
    branch(text).filter(|&to| to < at).map(|to| (to, at))
}

/// Where a branch leads.
fn branch(text: &str) -> Option<usize> {
    let (_, target) = text.split_once("BRA").and_then(|(_, rest)| rest.split_once("0x"))?;
    let digits: String = target.chars().take_while(char::is_ascii_hexdigit).collect();
    usize::from_str_radix(&digits, 16).ok()
}
