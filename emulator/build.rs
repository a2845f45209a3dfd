//! Compiles the driver (`src/*.cpp`) into `OUT_DIR/driver/libcuda.so.1`, and each kernel file, with the same `.cu` text that
//! nvcc gets, into `OUT_DIR/driver/kernels/NAME.so`. Two compilers at a time; only what changed.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::time::SystemTime;
use std::{env, fs};

/// What every translation unit gets. No contraction: a multiply-add is fused where the source says so, and only there.
const COMMON: &[&str] =
    &["-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-fPIC", "-fvisibility=hidden", "-g1", "-Wall", "-Wextra"];

/// Checks that the compiler puts into kernels; `src/faults.cpp` has their handlers. The device language has no warnings of its
/// own for unsigned indices and `#pragma unroll`.
const KERNEL: &[&str] = &[
    "-O2",
    "-fsanitize=alignment,bounds,shift-exponent,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-Wno-unknown-pragmas",
    "-Wno-sign-compare",
    "-x",
    "c++",
];

const DRIVER: &[&str] = &["-O2"];

struct Unit {
    source: PathBuf,
    object: PathBuf,
    flags: &'static [&'static str],
    /// Whether each access to memory is reported to the race check.
    report_accesses: bool,
}

struct Build {
    compiler: String,
    includes: Vec<PathBuf>,
    /// When the newest header was changed.
    headers: SystemTime,
}

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let kernels = here.join("../kernels");
    let races = env::var("DSR_STANDIN_RACES").is_ok_and(|value| value == "1");
    let driver = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(if races { "driver-races" } else { "driver" });
    for path in [here.join("src"), here.join("tests/kernels"), here.join("build.rs"), kernels.clone()] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-env-changed=DSR_STANDIN_RACES");
    println!("cargo:rustc-env=STANDIN_DRIVER={}", driver.display());

    let headers = [
        files(&here.join("src"), "h"),
        files(&here.join("src/host"), "h"),
        files(&kernels.join("include"), "cuh"),
        vec![here.join("build.rs")],
    ];
    let build = Build {
        compiler: env::var("CXX").unwrap_or_else(|_| "g++".into()),
        includes: vec![here.join("src"), kernels.clone()],
        headers: headers.iter().flatten().map(|path| changed(path)).max().unwrap_or(SystemTime::UNIX_EPOCH),
    };
    build.check_compiler();
    let own = units(&here.join("src"), "cpp", &driver.join("objects"), DRIVER);
    let mut loaded = units(&kernels, "cu", &driver.join("kernels"), KERNEL);
    let mut planted = units(&here.join("tests/kernels"), "cu", &driver.join("planted"), KERNEL);
    for unit in loaded.iter_mut().chain(&mut planted) {
        unit.report_accesses = races || unit.source.ends_with("racy.cu");
    }
    build.compile(own.iter().chain(&loaded).chain(&planted).collect());

    let library = driver.join("libcuda.so.1");
    let objects: Vec<&Path> = own.iter().map(|unit| unit.object.as_path()).collect();
    build.link(&objects, &library, &["-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", "-lpthread", "-ldl"]);
    // Programs look for libcuda.so first; here that is this one, too, and not one of the system.
    let second_name = driver.join("libcuda.so");
    let _ = fs::remove_file(&second_name);
    std::os::unix::fs::symlink("libcuda.so.1", &second_name).unwrap_or_else(|e| stop(&format!("{}: {e}", second_name.display())));
    for unit in loaded.iter().chain(&planted) {
        build.link(&[&unit.object, &library], &unit.object.with_extension("so"), &["-Wl,-z,defs"]);
    }
    remove_stale(&driver.join("kernels"), &loaded);
}

impl Build {
    fn check_compiler(&self) {
        let runs = Command::new(&self.compiler).arg("--version").output();
        if !runs.is_ok_and(|output| output.status.success()) {
            stop(&format!("the driver stand-in needs a C++ compiler, and `{}` does not run (install g++, or set CXX)", self.compiler));
        }
    }

    fn compile(&self, units: Vec<&Unit>) {
        let stale: Vec<&Unit> = units.into_iter().filter(|unit| changed(&unit.object) <= changed(&unit.source).max(self.headers)).collect();
        let queue = Mutex::new(stale.into_iter());
        let next = || queue.lock().ok().and_then(|mut queue| queue.next());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(unit) = next() {
                        self.compile_one(unit);
                    }
                });
            }
        });
    }

    fn compile_one(&self, unit: &Unit) {
        let mut command = Command::new(&self.compiler);
        command.args(COMMON).args(unit.flags);
        if unit.report_accesses {
            command.arg("-fsanitize=thread");
        }
        for include in &self.includes {
            command.arg("-I").arg(include);
        }
        run(command.arg("-c").arg(&unit.source).arg("-o").arg(&unit.object));
    }

    /// Links again when an input is newer.
    fn link(&self, inputs: &[&Path], output: &Path, flags: &[&str]) {
        let newest = inputs.iter().map(|path| changed(path)).max().unwrap_or(SystemTime::UNIX_EPOCH);
        if changed(output) > newest {
            return;
        }
        // Under another name first: a process that runs may have the old one open.
        let fresh = output.with_extension("new");
        run(Command::new(&self.compiler).arg("-shared").args(inputs).args(flags).arg("-o").arg(&fresh));
        fs::rename(&fresh, output).unwrap_or_else(|e| stop(&format!("{}: {e}", output.display())));
    }
}

/// Runs a compiler; what it prints is shown when it fails.
fn run(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => stop(&format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => stop(&format!("{command:?}: {e}")),
    }
}

fn stop(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1)
}

/// The files of a folder with this extension, by name; none where there is no folder.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

fn units(from: &Path, extension: &str, into: &Path, flags: &'static [&'static str]) -> Vec<Unit> {
    fs::create_dir_all(into).unwrap_or_else(|e| stop(&format!("{}: {e}", into.display())));
    let object = |source: &Path| into.join(source.file_name().unwrap_or_default()).with_extension("o");
    files(from, extension).into_iter().map(|source| Unit { object: object(&source), source, flags, report_accesses: false }).collect()
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
