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

/// Rust text: a row for each kernel of a file and target, from what ptxas says of it and, for the spike convolutions, the code.
pub fn of(nvcc: &Nvcc, source: &Source, messages: &str, image: &Path) -> Result<String, String> {
    let of_spikes = source.kernels.iter().any(|kernel| kernel.name.starts_with("spike_conv"));
    let code = if of_spikes { disassembled(nvcc, image)? } else { None };
    let mut rows = String::new();
    for limits in resources(messages) {
        let Limits { kernel, target, registers, spill_bytes, local_bytes, shared_bytes } = limits;
        let products = code.as_ref().map(|code| integer_products(code, &kernel, &target));
        let _ = writeln!(
            rows,
            "Limits {{ kernel: {kernel:?}, target: {target:?}, registers: {registers}, spill_bytes: {spill_bytes}, \
             local_bytes: {local_bytes}, shared_bytes: {shared_bytes}, integer_products: {products:?} }},"
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

/// Instructions of the integer tensor cores in a kernel's code for a target.
fn integer_products(code: &str, kernel: &str, target: &str) -> usize {
    let (mut arch, mut function, mut count) = ("", "", 0);
    for line in code.lines() {
        if let Some((_, name)) = line.split_once("arch = ") {
            (arch, function) = (name.trim(), "");
        } else if let Some((_, name)) = line.split_once("Function : ") {
            function = name.trim();
        } else if arch == target && function == kernel && (line.contains("IMMA") || line.contains("IGMMA")) {
            count += 1;
        }
    }
    count
}
