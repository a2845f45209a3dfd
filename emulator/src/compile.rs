//! The C++ compiler: its flags for each kind of unit, and calls of it. Also a module of `build.rs`, so it knows nothing of this crate.
#![allow(dead_code)] // each of the two makes units of some kinds only

use std::path::{Path, PathBuf};
use std::process::Command;

/// What every unit gets. No contraction: a multiply-add is fused where the source says so, and only there.
const COMMON: &[&str] =
    &["-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden", "-g1", "-Wall", "-Wextra"];

/// What a unit is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The driver itself, and NCCL.
    Driver,
    /// A `.cu` file.
    KernelText,
    /// A `.cu` file that reports each access to memory to the race check.
    KernelTextRaces,
    /// C++ that was made of PTX.
    Translated,
    /// The same, with each access to shared memory reported to the race check.
    TranslatedRaces,
    /// The same, with each access to global memory reported to the watch.
    TranslatedWatch,
}

/// Checks that the compiler puts into kernels, whose handlers are in `src/faults.cpp`. The device language has no warnings of its
/// own for unsigned indices and `#pragma unroll`.
const KERNEL: &[&str] = &[
    "-O2",
    "-fsanitize=alignment,bounds,shift-exponent,float-cast-overflow,signed-integer-overflow",
    "-fno-sanitize-recover=all",
    "-Wno-unknown-pragmas",
    "-Wno-sign-compare",
    "-x",
    "c++",
];

/// PTX wraps integers, and says nothing of what is signed. Registers of a branch may be set and not read. nvcc has optimised already:
/// with -O2 g++ takes 98 s for the largest file in place of 18 s, and the tests then take no less time.
const TRANSLATED: &[&str] = &[
    "-Og",
    "-fwrapv",
    "-fsanitize=alignment",
    "-fno-sanitize-recover=all",
    "-Wno-unused-label",
    "-Wno-unused-but-set-variable",
    "-Wno-maybe-uninitialized",
];

/// How the driver library is linked.
pub const DRIVER_LINK: &[&str] = &["-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", "-lpthread", "-ldl"];

/// How the library of collectives is linked.
pub const NCCL_LINK: &[&str] = &["-Wl,-soname,libnccl.so.2", "-Wl,-z,defs", "-lpthread", "-ldl"];

impl Kind {
    pub fn flags(self) -> Vec<&'static str> {
        let (own, check): (&[&str], &[&str]) = match self {
            Kind::Driver => (&["-O2", "-fwrapv"], &[]),
            Kind::KernelText => (KERNEL, &[]),
            Kind::KernelTextRaces => (KERNEL, &["-fsanitize=thread"]),
            Kind::Translated => (TRANSLATED, &[]),
            Kind::TranslatedRaces => (TRANSLATED, &["-DPTX_RACES"]),
            Kind::TranslatedWatch => (TRANSLATED, &["-DPTX_WATCH"]),
        };
        [COMMON, own, check].concat()
    }
}

/// Makes an object of a source, with the flags of its kind.
///
/// # Errors
/// The compiler's command and words.
pub fn compile(compiler: &str, kind: Kind, includes: &[PathBuf], source: &Path, object: &Path) -> Result<(), String> {
    let mut command = Command::new(compiler);
    command.args(kind.flags());
    for include in includes {
        command.arg("-I").arg(include);
    }
    run(command.arg("-c").arg(source).arg("-o").arg(object))
}

/// Makes a library of objects and libraries. Under another name first: a process that runs may have the old one open.
///
/// # Errors
/// As [`compile`], or that the library cannot be put in its place.
pub fn link(compiler: &str, inputs: &[&Path], library: &Path, flags: &[&str]) -> Result<(), String> {
    let fresh = library.with_extension("new");
    run(Command::new(compiler).arg("-shared").args(inputs).args(flags).arg("-o").arg(&fresh))?;
    std::fs::rename(&fresh, library).map_err(|e| format!("{}: {e}", library.display()))
}

/// Runs a compiler; what it prints is shown when it fails.
///
/// # Errors
/// The command and its words.
pub fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => Err(format!("{command:?}: {e}")),
    }
}

/// Does the work for each item, two at a time; the first error.
///
/// # Errors
/// That of the work.
pub fn two_at_a_time<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<(), String> + Sync) -> Result<(), String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let serve = || {
        while let Some(item) = items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            work(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(serve);
        let own = serve();
        own.and(other.join().unwrap_or_else(|_| Err("a compiling thread panicked".into())))
    })
}

/// The files of a folder with this extension, by name; none where there is no folder.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}
