//! The kernels as PTX that any driver from CUDA 11.0 on compiles: what a driver runs that is older than the machine code.
//!
//! The kernels use nothing of PTX that came after 7.0, the first version with the instructions of compute capability 8.0; nvcc
//! writes its own version into the file all the same, and a pragma that tells newer assemblers about unused bytes.
//! `scripts/check_fallback.sh` has older assemblers compile it.

use std::path::Path;
use std::process::Command;

use super::Source;
use super::nvcc::Nvcc;

/// The first version of PTX for compute capability 8.0.
const VERSION: &str = ".version 7.0";

/// PTX of a kernel file for compute capability 8.0. Without line numbers, which would need a newer version.
pub fn ptx(nvcc: &Nvcc, source: &Source, out: &Path) -> Result<String, String> {
    let path = out.join(format!("{}.newest.ptx", source.stem));
    let mut command = Command::new(&nvcc.path);
    command.args(super::common_flags()?.iter().filter(|flag| *flag != "-lineinfo"));
    command.args(["-ptx", "-arch=compute_80", "-o"]).arg(&path).arg(&source.path);
    let output = command.output().map_err(|e| format!("{}: {e}", nvcc.path.display()))?;
    if !output.status.success() {
        return Err(format!("{}: nvcc -ptx failed:\n{}", source.path.display(), String::from_utf8_lossy(&output.stderr)));
    }
    let text = super::read(&path)?;
    let line = |line: &str| if line.starts_with(".version ") { VERSION.to_string() } else { line.to_string() };
    let lines = text.lines().filter(|line| !line.contains(".pragma \"used_bytes_mask")).map(line);
    Ok(lines.map(|line| line + "\n").collect())
}
