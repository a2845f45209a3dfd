//! Compiles the driver (`src/*.cpp`) into `OUT_DIR/driver/libcuda.so.1`, NCCL (`src/nccl/*.cpp`) into `OUT_DIR/nccl/libnccl.so.2`,
//! and each kernel file, with the same `.cu` text that nvcc gets, into `OUT_DIR/driver/kernels/NAME.so`. Two compilers at a time; only
//! what changed.
//!
//! Other sets of kernels (`src/kernel_sets.rs`) are made when a test asks for one.

#[path = "src/compile.rs"]
mod compile;

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;
use std::{env, fs};

use compile::{Kind, files};

struct Unit {
    source: PathBuf,
    object: PathBuf,
    kind: Kind,
}

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let kernels = here.join("../kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let (driver, nccl) = (out.join("driver"), out.join("nccl"));
    for path in [here.join("src"), here.join("tests/kernels"), here.join("build.rs"), kernels.clone()] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rerun-if-env-changed=CXX");
    let compiler = env::var("CXX").unwrap_or_else(|_| "g++".into());
    println!("cargo:rustc-env=STANDIN_DRIVER={}", driver.display());
    println!("cargo:rustc-env=STANDIN_NCCL={}", nccl.display());
    println!("cargo:rustc-env=STANDIN_CXX={compiler}");

    let sources = [here.join("src"), here.join("src/host"), here.join("src/ptx"), here.join("src/ptx/runtime")];
    let of_kind = |extension: &str| -> Vec<PathBuf> { sources.iter().flat_map(|folder| files(folder, extension)).collect() };
    let headers = [
        of_kind("h"),
        files(&here.join("src/nccl"), "h"),
        files(&kernels.join("include"), "cuh"),
        vec![here.join("build.rs"), here.join("src/compile.rs")],
    ]
    .concat();
    println!("cargo:rustc-env=STANDIN_TEXT={:016x}", hash(&[of_kind("h"), of_kind("rs")].concat())?);

    let runs = Command::new(&compiler).arg("--version").output();
    if !runs.is_ok_and(|output| output.status.success()) {
        return Err(format!("the driver stand-in needs a C++ compiler, and `{compiler}` does not run (install g++, or set CXX)"));
    }
    let own = units(of_kind("cpp"), &driver.join("objects"), Kind::Driver)?;
    let loaded = units(files(&kernels, "cu"), &driver.join("kernels"), Kind::KernelText)?;
    let mut planted = units(files(&here.join("tests/kernels"), "cu"), &driver.join("planted"), Kind::KernelText)?;
    for unit in planted.iter_mut().filter(|unit| unit.source.ends_with("racy.cu")) {
        unit.kind = Kind::KernelTextRaces;
    }
    let collectives = units(files(&here.join("src/nccl"), "cpp"), &nccl.join("objects"), Kind::Driver)?;
    let newest = headers.iter().map(|path| changed(path)).max().unwrap_or(SystemTime::UNIX_EPOCH);
    let all = own.iter().chain(&loaded).chain(&planted).chain(&collectives);
    let stale: Vec<&Unit> = all.filter(|unit| changed(&unit.object) <= changed(&unit.source).max(newest)).collect();
    let includes = [here.join("src"), kernels.clone()];
    compile::two_at_a_time(&stale, |unit| compile::compile(&compiler, unit.kind, &includes, &unit.source, &unit.object))?;

    let library = driver.join("libcuda.so.1");
    let objects: Vec<&Path> = own.iter().map(|unit| unit.object.as_path()).collect();
    link(&compiler, &objects, &library, compile::DRIVER_LINK)?;
    // Programs look for libcuda.so first; here that is this one, too, and not one of the system.
    let second_name = driver.join("libcuda.so");
    let _ = fs::remove_file(&second_name);
    std::os::unix::fs::symlink("libcuda.so.1", &second_name).map_err(|e| format!("{}: {e}", second_name.display()))?;
    let objects: Vec<&Path> = collectives.iter().map(|unit| unit.object.as_path()).collect();
    link(&compiler, &objects, &nccl.join("libnccl.so.2"), compile::NCCL_LINK)?;
    for unit in loaded.iter().chain(&planted) {
        link(&compiler, &[&unit.object, &library], &unit.object.with_extension("so"), &["-Wl,-z,defs"])?;
    }
    remove_stale(&driver.join("kernels"), &loaded);
    Ok(())
}

/// Links again when an input is newer.
fn link(compiler: &str, inputs: &[&Path], output: &Path, flags: &[&str]) -> Result<(), String> {
    let newest = inputs.iter().map(|path| changed(path)).max().unwrap_or(SystemTime::UNIX_EPOCH);
    if changed(output) > newest { Ok(()) } else { compile::link(compiler, inputs, output, flags) }
}

fn units(sources: Vec<PathBuf>, into: &Path, kind: Kind) -> Result<Vec<Unit>, String> {
    fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let object = |source: &Path| into.join(source.file_name().unwrap_or_default()).with_extension("o");
    Ok(sources.into_iter().map(|source| Unit { object: object(&source), source, kind }).collect())
}

/// Of the text that other sets of kernels are made with.
fn hash(paths: &[PathBuf]) -> Result<u64, String> {
    let mut hash = DefaultHasher::new();
    for path in paths {
        hash.write(&fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(hash.finish())
}

/// When a file was changed; long ago for one that is not there.
fn changed(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The driver loads every library in this folder, so those of removed or renamed kernel files must go.
fn remove_stale(folder: &Path, units: &[Unit]) {
    for library in files(folder, "so") {
        if !units.iter().any(|unit| unit.object.with_extension("so") == library) {
            let _ = fs::remove_file(library);
        }
    }
}
