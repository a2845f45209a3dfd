//! Which nvcc compiles the kernels, and for which targets.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compute capabilities with machine code, as far as the compiler knows them. Devices of the same kind that came later compile
/// the PTX of 8.0 when the program starts. No suffix: code for 10.0 runs on 10.3, too, and code for 10.0a does not.
const TARGETS: [&str; 6] = ["80", "86", "89", "90", "100", "120"];
/// The first release whose machine code the drivers from R525 on take.
const OLDEST: (u32, u32) = (12, 0);

/// The flags for a file: one for what sm_90a alone has is compiled for that in the place of sm_90. Such code runs on 9.0 and on nothing
/// later, which finds that of its own target, or PTX, beside it.
pub fn flags_for(source: &super::Source, flags: &[String]) -> Vec<String> {
    let of_hopper = |flag: &String| flag.replace("arch=compute_90,code=sm_90", "arch=compute_90a,code=sm_90a");
    if source.is_of_hopper { flags.iter().map(of_hopper).collect() } else { flags.to_vec() }
}

pub struct Nvcc {
    pub path: PathBuf,
    /// For example `13.0.88`.
    pub version: String,
    /// Without `sm_`.
    pub targets: Vec<String>,
}

/// The first usable nvcc of: `$NVCC`, the project's own toolchain, `$CUDA_HOME`, `$CUDA_PATH`, /usr/local/cuda, `$PATH`.
pub fn find() -> Result<Option<Nvcc>, String> {
    let required = env::var("REQUIRE_NVCC").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    let named = env::var("NVCC").unwrap_or_default();
    if named == "none" && !required {
        return Ok(None);
    }
    let mut problems = Vec::new();
    let places = if named == "none" {
        problems.push("NVCC=none turns it off".into());
        Vec::new()
    } else if named.is_empty() {
        usual_places()
    } else {
        vec![PathBuf::from(named)]
    };
    for path in places {
        match version(&path).and_then(|version| Ok((version, targets(&path)?))) {
            Ok((version, targets)) => {
                println!("cargo::rerun-if-changed={}", path.display());
                return Ok(Some(Nvcc { path, version, targets }));
            }
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    let (major, minor) = OLDEST;
    let found = if problems.is_empty() { String::new() } else { format!(" ({})", problems.join("; ")) };
    let what = format!("no nvcc {major}.{minor} or newer was found{found}");
    let remedy = "scripts/install_cuda_toolchain.sh installs one into this folder, without root";
    if required {
        return Err(format!("REQUIRE_NVCC is set, but {what}; {remedy}"));
    }
    println!("cargo::warning={what}: building without CUDA kernels; {remedy}; NVCC=none silences this");
    Ok(None)
}

fn usual_places() -> Vec<PathBuf> {
    let own = Path::new(".cuda-toolchain/nvidia/cu13").to_path_buf();
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let folders = [own].into_iter().chain(named).chain([PathBuf::from("/usr/local/cuda")]).map(|folder| folder.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    folders.chain(env::split_paths(&path)).map(|folder| folder.join(&name)).filter(|file| file.is_file()).collect()
}

/// Version of an nvcc that is new enough.
fn version(path: &Path) -> Result<String, String> {
    let text = said(path, "--version")?;
    let version = text.lines().find_map(|line| line.split_once(", V")).map(|(_, version)| version.trim().to_string());
    let version = version.ok_or("its --version names no version")?;
    let mut numbers = version.split('.').map_while(|word| word.parse().ok());
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release < OLDEST { Err(format!("{version} is too old")) } else { Ok(version) }
}

/// What `DSR_CUDA_ARCHS` asks for, or those of [`TARGETS`] that this nvcc knows.
fn targets(path: &Path) -> Result<Vec<String>, String> {
    if let Ok(list) = env::var("DSR_CUDA_ARCHS") {
        return Ok(list.split([' ', ',']).filter(|word| !word.is_empty()).map(String::from).collect());
    }
    let known = said(path, "--list-gpu-code")?;
    let is_known = |target: &&str| known.split_whitespace().any(|code| code.strip_prefix("sm_") == Some(*target));
    let targets: Vec<String> = TARGETS.iter().filter(|target| is_known(target)).map(ToString::to_string).collect();
    if targets.is_empty() { Err("its --list-gpu-code has none of the targets".into()) } else { Ok(targets) }
}

fn said(path: &Path, flag: &str) -> Result<String, String> {
    let output = Command::new(path).arg(flag).output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
