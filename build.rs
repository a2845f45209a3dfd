//! Compiles `kernels/*.cu` with nvcc, one fatbin and one PTX a file, and writes what `src/device/kernels.rs` includes.
//!
//! Without nvcc everything else is built all the same: the tests run the kernels on the driver stand-in.
//! `NVCC` names the compiler, `none` turns it off; `REQUIRE_NVCC=1` makes a missing one an error;
//! `DSR_CUDA_ARCHS="80 90"` compiles for fewer targets, which saves time while a kernel is written.
//! `DSR_COMMIT` names the commit that results state; without it git is asked, and a build without git has none.

#[path = "build/fallback.rs"]
mod fallback;
#[path = "build/limits.rs"]
mod limits;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::cmp::Reverse;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nvcc::Nvcc;

/// What the program is made of, beside kernels and its packages.
const SOURCES: [&str; 6] = ["src", "recipes", "build", "build.rs", "Cargo.toml", "Cargo.lock"];

/// A kernel as its file declares it: `KERNEL(name, block)`, or `DEPENDENT_KERNEL(name, block)` for one that waits for the kernel before it.
struct Kernel {
    name: String,
    block: u32,
    waits: bool,
}

struct Source {
    path: PathBuf,
    stem: String,
    /// In bytes.
    length: usize,
    kernels: Vec<Kernel>,
    /// Whether it is made for what sm_90a has alone.
    is_of_hopper: bool,
}

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Version of the compiler, for the head of every measurement.
fn rustc_version() -> String {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(compiler).arg("--version").output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    said.ok().and_then(|text| text.split_whitespace().nth(1).map(String::from)).unwrap_or_else(|| "unknown".into())
}

/// The commit of this build: what `DSR_COMMIT` says, or what git says of this folder; none in a package or without git.
fn commit() -> Option<String> {
    if let Ok(named) = env::var("DSR_COMMIT") {
        return Some(named).filter(|name| !name.is_empty());
    }
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").arg("--no-optional-locks").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    // Not the repository that a package happens to lie in.
    let top = fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    if top != env::current_dir().and_then(fs::canonicalize).ok()? {
        return None;
    }
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    // The log of HEAD is there where a branch has no file of its own.
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // What makes a tree dirty where it matters to a result.
    SOURCES.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { hash } else { format!("{hash}-dirty") })
}

fn build() -> Result<(), String> {
    for variable in ["DSR_COMMIT", "NVCC", "REQUIRE_NVCC", "DSR_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rustc-env=DSR_RUSTC={}", rustc_version());
    if let Some(commit) = commit() {
        println!("cargo::rustc-env=DSR_BUILT_FROM={commit}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this by cargo")?);
    let sources = read_sources(Path::new("kernels"))?;
    let nvcc = nvcc::find()?;
    match &nvcc {
        Some(nvcc) => compile_all(nvcc, &sources, &out)?,
        None => write_placeholders(&sources, &out)?,
    }
    write(&out.join("kernels.rs"), &rust_of(&sources, nvcc.as_ref()))?;
    let rows: Result<Vec<String>, String> = sources.iter().map(|source| read(&out.join(format!("{}.limits", source.stem)))).collect();
    write(&out.join("limits.rs"), &format!("&[\n{}]\n", rows?.concat()))
}

/// All kernel files by name, each with its kernels.
fn read_sources(folder: &Path) -> Result<Vec<Source>, String> {
    let includes: Result<String, String> = files(&folder.join("include"), "cuh")?.iter().map(|path| read(path)).collect();
    let (includes, mut sources) = (includes?, Vec::new());
    for path in files(folder, "cu")? {
        let text = read(&path)?;
        let kernels = declared(&text, &includes).map_err(|problem| format!("{}: {problem}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_of_hopper = text.contains("__CUDA_ARCH_FEAT_SM90_ALL");
        sources.push(Source { path, stem, length: text.len(), kernels, is_of_hopper });
    }
    let mut names: Vec<&str> = sources.iter().flat_map(|s| &s.kernels).map(|k| k.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("kernels: two kernels are called {}", pair[0])),
        None => Ok(sources),
    }
}

/// The `KERNEL(name, block)` and `DEPENDENT_KERNEL(name, block)` lines of a file; the block may be named by a constant of the file or of an include.
fn declared(text: &str, includes: &str) -> Result<Vec<Kernel>, String> {
    let mut kernels = Vec::new();
    for line in text.lines() {
        let waits = line.trim().strip_prefix("DEPENDENT_");
        let Some(inside) = waits.unwrap_or(line.trim()).strip_prefix("KERNEL(").and_then(|rest| rest.split(')').next()) else { continue };
        let (name, block) = inside.split_once(',').ok_or_else(|| format!("KERNEL({inside}): expected KERNEL(name, block)"))?;
        let (name, block) = (name.trim(), block.trim());
        let threads = product(block, text).or_else(|| product(block, includes));
        let threads = threads
            .filter(|n| (1..=1024).contains(n))
            .ok_or_else(|| format!("KERNEL({name}, {block}): the block is not a number in 1..=1024"))?;
        if !text.contains(&format!("{name}(")) {
            return Err(format!("KERNEL({name}, {block}): the file has no function of this name"));
        }
        kernels.push(Kernel { name: name.into(), block: threads, waits: waits.is_some() });
    }
    Ok(kernels)
}

/// Value of a product of numbers and of `constexpr int NAME = …;` of the text.
fn product(expression: &str, text: &str) -> Option<u32> {
    let factor = |word: &str| {
        let word = word.trim();
        word.parse().ok().or_else(|| {
            let value = text.split_once(&format!("constexpr int {word} = "))?.1.split(';').next()?;
            if value.contains(word) { None } else { product(value, text) }
        })
    };
    expression.split('*').try_fold(1u32, |all, word| all.checked_mul(factor(word)?))
}

/// Compiles every file whose text, includes or flags are not those of its fatbin; as many at once as there are cores, and the longest
/// first: the one that takes as long as all others together would else be the last, and keep one core busy.
fn compile_all(nvcc: &Nvcc, sources: &[Source], out: &Path) -> Result<(), String> {
    let mut flags: Vec<String> = common_flags()?.into_iter().chain(["-fatbin", "-Xptxas=-v"].map(String::from)).collect();
    for target in &nvcc.targets {
        flags.push(format!("-gencode=arch=compute_{target},code=sm_{target}"));
    }
    flags.push("-gencode=arch=compute_80,code=compute_80".into());
    let mut shared = DefaultHasher::new();
    for text in
        [include_str!("build.rs"), include_str!("build/limits.rs"), include_str!("build/fallback.rs"), include_str!("build/nvcc.rs")]
    {
        shared.write(text.as_bytes());
    }
    shared.write(nvcc.version.as_bytes());
    flags.iter().for_each(|flag| shared.write(flag.as_bytes()));
    for path in files(Path::new("kernels/include"), "cuh")? {
        shared.write(read(&path)?.as_bytes());
    }

    let mut sources: Vec<&Source> = sources.iter().collect();
    sources.sort_by_key(|source| Reverse(source.length));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = Vec::new();
        while let Some(&source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            failures.extend(compile(nvcc, source, &nvcc::flags_for(source, &flags), shared.clone(), out).err());
        }
        failures
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|_| vec!["a compiling thread panicked".into()])).collect()
    });
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// Flags of every way in which nvcc compiles the kernels.
fn common_flags() -> Result<Vec<String>, String> {
    Ok(read(Path::new("kernels/nvcc.flags"))?.split_whitespace().map(String::from).collect())
}

fn compile(nvcc: &Nvcc, source: &Source, flags: &[String], mut hash: DefaultHasher, out: &Path) -> Result<(), String> {
    hash.write(read(&source.path)?.as_bytes());
    let hash = format!("{:016x}", hash.finish());
    let (image, stamp) = (out.join(format!("{}.fatbin", source.stem)), out.join(format!("{}.hash", source.stem)));
    if image.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == hash) {
        return Ok(());
    }
    let _ = fs::remove_file(&stamp);
    let output = Command::new(&nvcc.path).args(flags).arg("-o").arg(&image).arg(&source.path).output();
    let output = output.map_err(|e| format!("{}: {e}", nvcc.path.display()))?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        return Err(format!("{}: nvcc {} failed ({}):\n{printed}{messages}", source.path.display(), nvcc.version, output.status));
    }
    let is_warning = |line: &&str| !(line.trim().is_empty() || line.starts_with("ptxas info") || line.contains("bytes stack frame"));
    messages.lines().filter(is_warning).for_each(|line| println!("cargo::warning={line}"));
    write(&out.join(format!("{}.limits", source.stem)), &limits::of(nvcc, source, &messages, &image)?)?;
    write(&out.join(format!("{}.ptx", source.stem)), &(fallback::ptx(nvcc, source, out)? + "\0"))?;
    write(&stamp, &hash)
}

/// What stands in the place of the images without nvcc; a driver takes it for PTX text, and refuses it.
fn write_placeholders(sources: &[Source], out: &Path) -> Result<(), String> {
    for source in sources {
        let _ = fs::remove_file(out.join(format!("{}.hash", source.stem)));
        write(&out.join(format!("{}.fatbin", source.stem)), "built without nvcc\0")?;
        write(&out.join(format!("{}.ptx", source.stem)), ".version 7.0 // built without nvcc\0")?;
        write(&out.join(format!("{}.limits", source.stem)), "")?;
    }
    Ok(())
}

/// Rust text: a constant a kernel, and the images.
fn rust_of(sources: &[Source], nvcc: Option<&Nvcc>) -> String {
    let [mut constants, mut all, mut images] = [const { String::new() }; 3];
    for Source { stem, kernels, .. } in sources {
        for Kernel { name, block, waits } in kernels {
            let constant = name.to_uppercase();
            let fields = format!("name: {name:?}, file: {stem:?}, block: {block}, waits: {waits}");
            let _ = writeln!(constants, "pub const {constant}: Kernel = Kernel {{ {fields} }};");
            let _ = write!(all, "{constant}, ");
        }
        let included = |kind| format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.{kind}\"))");
        let _ = write!(images, "Image {{ file: {stem:?}, code: {}, ptx: {} }}, ", included("fatbin"), included("ptx"));
    }
    let version = nvcc.map(|nvcc| &nvcc.version);
    let targets: Vec<String> = nvcc.into_iter().flat_map(|nvcc| &nvcc.targets).map(|target| format!("sm_{target}")).collect();
    format!(
        "{constants}\n/// Every kernel.\npub const ALL: &[Kernel] = &[{all}];\n\
         /// What to load into a device, by file.\npub const IMAGES: &[Image] = &[{images}];\n\
         /// Version of the nvcc that compiled the images; without one they are empty.\npub const NVCC: Option<&str> = {version:?};\n\
         /// What the images have machine code for.\npub const TARGETS: &[&str] = &{targets:?};\n"
    )
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
