//! The nvcc that makes PTX: looked for in the places where the build of the product looks, and called with that build's flags.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compile;

/// The first that is there of: `$NVCC`, the project's own toolchain, `$CUDA_HOME`, `$CUDA_PATH`, /usr/local/cuda, `$PATH`.
///
/// # Errors
/// That there is none, and what to do.
pub fn find(root: &Path) -> Result<PathBuf, String> {
    let remedy = "scripts/install_cuda_toolchain.sh installs one into this folder, without root";
    match std::env::var("NVCC").unwrap_or_default().as_str() {
        "" => {}
        "none" => return Err(format!("kernels as nvcc compiles them need nvcc, and NVCC=none turns it off; {remedy}")),
        named => return Ok(named.into()),
    }
    let own = root.join(".cuda-toolchain/nvidia/cu13");
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let folders = [own].into_iter().chain(named).chain([PathBuf::from("/usr/local/cuda")]).map(|folder| folder.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = folders.chain(std::env::split_paths(&path)).map(|folder| folder.join("nvcc"));
    places.find(|file| file.is_file()).ok_or_else(|| format!("kernels as nvcc compiles them need nvcc, and there is none; {remedy}"))
}

/// What `nvcc --version` says.
///
/// # Errors
/// That it does not run.
pub fn version(nvcc: &Path) -> Result<String, String> {
    let output = Command::new(nvcc).arg("--version").output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The flags of `kernels/nvcc.flags`, which the build of the product takes, too.
///
/// # Errors
/// That the file cannot be read.
pub fn flags(kernels: &Path) -> Result<Vec<String>, String> {
    let path = kernels.join("nvcc.flags");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.split_whitespace().map(String::from).collect())
}

/// Makes PTX for a virtual architecture, as `80`, of a kernel file in `kernels`, which has its headers.
///
/// # Errors
/// What nvcc says.
pub fn ptx(nvcc: &Path, kernels: &Path, architecture: &str, source: &Path, to: &Path) -> Result<(), String> {
    let target = format!("-arch=compute_{architecture}");
    let mut command = Command::new(nvcc);
    command.args(flags(kernels)?).arg("-I").arg(kernels).args(["-ptx", &target, "-o"]);
    compile::run(command.arg(to).arg(source))
}
