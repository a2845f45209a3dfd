//! Compiles `kernels/*.cu` with nvcc, one fatbin a file, and writes what `src/device/kernels.rs` includes.
//!
//! Without nvcc everything else is built all the same: the tests run the kernels on the driver stand-in.
//! `NVCC` names the compiler, `none` turns it off; `REQUIRE_NVCC=1` makes a missing one an error;
//! `DSR_CUDA_ARCHS="80 90a"` compiles for fewer targets, which saves time while a kernel is written.
//! `DSR_COMMIT` names the commit that results state; without it git is asked, and a build without git has none.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Compute capabilities with machine code; newer devices of the same kind compile the PTX of 8.0 when the program starts.
const TARGETS: [&str; 6] = ["80", "86", "89", "90a", "100a", "120"];
/// The first release that knows all targets.
const OLDEST_NVCC: (u32, u32) = (12, 8);

/// What the program is made of, beside kernels and its packages.
const SOURCES: [&str; 5] = ["src", "recipes", "build.rs", "Cargo.toml", "Cargo.lock"];

/// A kernel as its file declares it: `KERNEL(name, block)`.
struct Kernel {
    name: String,
    block: u32,
}

struct Source {
    path: PathBuf,
    stem: String,
    kernels: Vec<Kernel>,
}

struct Nvcc {
    path: PathBuf,
    /// For example `13.0.88`.
    version: String,
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
    let targets = targets();
    let nvcc = find_nvcc()?;
    match &nvcc {
        Some(nvcc) => compile_all(nvcc, &sources, &targets, &out)?,
        None => write_placeholders(&sources, &out)?,
    }
    write(&out.join("kernels.rs"), &rust_of(&sources, &targets, nvcc.as_ref()))?;
    let rows: Result<Vec<String>, String> = sources.iter().map(|source| read(&out.join(format!("{}.limits", source.stem)))).collect();
    write(&out.join("limits.rs"), &format!("&[\n{}]\n", rows?.concat()))
}

/// All kernel files by name, each with its kernels.
fn read_sources(folder: &Path) -> Result<Vec<Source>, String> {
    let includes: Result<String, String> = files(&folder.join("include"), "cuh")?.iter().map(|path| read(path)).collect();
    let (includes, mut sources) = (includes?, Vec::new());
    for path in files(folder, "cu")? {
        let kernels = declared(&read(&path)?, &includes).map_err(|problem| format!("{}: {problem}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        sources.push(Source { path, stem, kernels });
    }
    let mut names: Vec<&str> = sources.iter().flat_map(|s| &s.kernels).map(|k| k.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("kernels: two kernels are called {}", pair[0])),
        None => Ok(sources),
    }
}

/// The `KERNEL(name, block)` lines of a file; the block may be named by a constant of the file or of an include.
fn declared(text: &str, includes: &str) -> Result<Vec<Kernel>, String> {
    let mut kernels = Vec::new();
    for line in text.lines() {
        let Some(inside) = line.trim().strip_prefix("KERNEL(").and_then(|rest| rest.split(')').next()) else { continue };
        let (name, block) = inside.split_once(',').ok_or_else(|| format!("KERNEL({inside}): expected KERNEL(name, block)"))?;
        let (name, block) = (name.trim(), block.trim());
        let threads = product(block, text).or_else(|| product(block, includes));
        let threads = threads
            .filter(|n| (1..=1024).contains(n))
            .ok_or_else(|| format!("KERNEL({name}, {block}): the block is not a number in 1..=1024"))?;
        if !text.contains(&format!("{name}(")) {
            return Err(format!("KERNEL({name}, {block}): the file has no function of this name"));
        }
        kernels.push(Kernel { name: name.into(), block: threads });
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

fn targets() -> Vec<String> {
    match env::var("DSR_CUDA_ARCHS") {
        Ok(list) => list.split([' ', ',']).filter(|word| !word.is_empty()).map(String::from).collect(),
        Err(_) => TARGETS.map(String::from).to_vec(),
    }
}

/// The first usable nvcc of: `$NVCC`, the project's own toolchain, `$CUDA_HOME`, `$CUDA_PATH`, /usr/local/cuda, `$PATH`.
fn find_nvcc() -> Result<Option<Nvcc>, String> {
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
        match version(&path) {
            Ok(version) => {
                println!("cargo::rerun-if-changed={}", path.display());
                return Ok(Some(Nvcc { path, version }));
            }
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    let (major, minor) = OLDEST_NVCC;
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

/// Version of an nvcc that can compile all targets.
fn version(path: &Path) -> Result<String, String> {
    let output = Command::new(path).arg("--version").output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.split_once(", V")).map(|(_, version)| version.trim().to_string());
    let version = version.ok_or("its --version names no version")?;
    let mut numbers = version.split('.').map_while(|word| word.parse().ok());
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release < OLDEST_NVCC { Err(format!("{version} is too old")) } else { Ok(version) }
}

/// Compiles every file whose text, includes or flags are not those of its fatbin; as many at once as there are cores.
fn compile_all(nvcc: &Nvcc, sources: &[Source], targets: &[String], out: &Path) -> Result<(), String> {
    let common = read(Path::new("kernels/nvcc.flags"))?;
    let mut flags: Vec<String> = common.split_whitespace().chain(["-fatbin", "-Xptxas=-v"]).map(String::from).collect();
    for target in targets {
        flags.push(format!("-gencode=arch=compute_{target},code=sm_{target}"));
    }
    flags.push("-gencode=arch=compute_80,code=compute_80".into());
    let mut shared = DefaultHasher::new();
    shared.write(include_str!("build.rs").as_bytes());
    shared.write(nvcc.version.as_bytes());
    flags.iter().for_each(|flag| shared.write(flag.as_bytes()));
    for path in files(Path::new("kernels/include"), "cuh")? {
        shared.write(read(&path)?.as_bytes());
    }

    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = Vec::new();
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            failures.extend(compile(nvcc, source, &flags, shared.clone(), out).err());
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
    write(&out.join(format!("{}.limits", source.stem)), &limits_of(nvcc, source, &messages, &image)?)?;
    write(&stamp, &hash)
}

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
fn limits_of(nvcc: &Nvcc, source: &Source, messages: &str, image: &Path) -> Result<String, String> {
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

/// What stands in the place of a fatbin without nvcc; a driver takes it for PTX text, and refuses it.
fn write_placeholders(sources: &[Source], out: &Path) -> Result<(), String> {
    for source in sources {
        let _ = fs::remove_file(out.join(format!("{}.hash", source.stem)));
        write(&out.join(format!("{}.fatbin", source.stem)), "built without nvcc\0")?;
        write(&out.join(format!("{}.limits", source.stem)), "")?;
    }
    Ok(())
}

/// Rust text: a constant a kernel, and the images.
fn rust_of(sources: &[Source], targets: &[String], nvcc: Option<&Nvcc>) -> String {
    let (mut constants, mut all, mut images) = (String::new(), String::new(), String::new());
    for Source { stem, kernels, .. } in sources {
        for Kernel { name, block } in kernels {
            let constant = name.to_uppercase();
            let _ = writeln!(constants, "pub const {constant}: Kernel = Kernel {{ name: {name:?}, file: {stem:?}, block: {block} }};");
            let _ = write!(all, "{constant}, ");
        }
        let _ = write!(images, "({stem:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.fatbin\"))), ");
    }
    let version = nvcc.map(|nvcc| &nvcc.version);
    let targets: Vec<String> = if nvcc.is_some() { targets.iter().map(|target| format!("sm_{target}")).collect() } else { Vec::new() };
    format!(
        "{constants}\n/// Every kernel.\npub const ALL: &[Kernel] = &[{all}];\n\
         /// What to load into a device, by file.\npub const IMAGES: &[(&str, &[u8])] = &[{images}];\n\
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
