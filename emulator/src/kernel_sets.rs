//! Sets of kernel libraries: the text of the kernels or what nvcc makes of it, as it is or with a check compiled in.
//!
//! The set of the text without a check is made by `build.rs`. Each other one has a folder of its own beside it, is made when a test
//! asks for it, and made again when something that it is made of has changed.

use std::cmp::Reverse;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use crate::compile::{self, Kind, files};
use crate::{nvcc, ptx};

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The `.cu` text, compiled by the C++ compiler.
    Text,
    /// The PTX that nvcc makes of it for this architecture, as `80`.
    Ptx(String),
}

/// What is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    None,
    /// Races in shared memory.
    Races,
    /// Global memory within a launch.
    Watch,
}

/// What the environment asks for.
///
/// # Errors
/// A value that is none of those that there are, or checks that do not go together.
pub fn wanted() -> Result<(Engine, Check), String> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_on = |name: &str| variable(name) == "1";
    let engine = match variable("DSR_STANDIN_ENGINE").as_str() {
        "" | "text" => Engine::Text,
        "ptx" => {
            let named = variable("DSR_STANDIN_PTX_ARCH");
            let is_known = named.starts_with(|c: char| c.is_ascii_digit()) && named.chars().all(|c| c.is_ascii_alphanumeric());
            match named.as_str() {
                "" => Engine::Ptx("80".into()),
                _ if is_known => Engine::Ptx(named),
                _ => return Err(format!("DSR_STANDIN_PTX_ARCH={named} is no architecture, as 80 or 120")),
            }
        }
        other => return Err(format!("DSR_STANDIN_ENGINE={other} is none of text, ptx")),
    };
    match (is_on("DSR_STANDIN_RACES"), is_on("DSR_STANDIN_WATCH")) {
        (true, true) => Err("DSR_STANDIN_RACES and DSR_STANDIN_WATCH: one at a time".into()),
        (false, true) if engine == Engine::Text => {
            Err("DSR_STANDIN_WATCH needs DSR_STANDIN_ENGINE=ptx: ld.global.nc is in PTX only".into())
        }
        (true, false) => Ok((engine, Check::Races)),
        (false, true) => Ok((engine, Check::Watch)),
        (false, false) => Ok((engine, Check::None)),
    }
}

/// Its folder beside the driver library; `src/registry.cpp` makes the same name.
fn folder_name(engine: &Engine, check: Check) -> String {
    let of_engine = match engine {
        Engine::Text => "kernels".to_string(),
        Engine::Ptx(architecture) => format!("kernels-ptx-{architecture}"),
    };
    let of_check = match check {
        Check::None => "",
        Check::Races => "-races",
        Check::Watch => "-watch",
    };
    of_engine + of_check
}

/// Makes what is missing or stale of the set, beside the driver in `driver`, of the project in `root`. Processes take turns.
///
/// # Errors
/// No nvcc, or what a compiler or the translator says.
pub fn make(engine: &Engine, check: Check, root: &Path, driver: &Path) -> Result<(), String> {
    if (engine, check) == (&Engine::Text, Check::None) {
        return Ok(());
    }
    let (kernels, folder) = (root.join("kernels"), driver.join(folder_name(engine, check)));
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let lock = folder.join("lock");
    let turn = fs::File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(|e| format!("{}: {e}", lock.display()))?;
    let made_of = made_of(engine, check, root)?;
    let mut sources = files(&kernels, "cu");
    // The longest first: it takes as long as the others together, and as the last would keep one core busy.
    sources.sort_by_key(|source| Reverse(fs::metadata(source).map_or(0, |about| about.len())));
    compile::two_at_a_time(&sources, |source| {
        let text = fs::read(source).map_err(|e| format!("{}: {e}", source.display()))?;
        let mut hash = made_of.clone();
        hash.write(&text);
        let hash = format!("{:016x}", hash.finish());
        let library = folder.join(source.file_name().unwrap_or_default()).with_extension("so");
        let stamp = library.with_extension("hash");
        if library.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == hash) {
            return Ok(());
        }
        library_of((engine, check), root, &kernels, source, driver, &library)?;
        fs::write(&stamp, hash).map_err(|e| format!("{}: {e}", stamp.display()))
    })?;
    for library in files(&folder, "so") {
        if !sources.iter().any(|source| source.file_stem() == library.file_stem()) {
            fs::remove_file(&library).map_err(|e| format!("{}: {e}", library.display()))?;
        }
    }
    drop(turn);
    Ok(())
}

/// Of everything that all libraries of a set are made of.
fn made_of(engine: &Engine, check: Check, root: &Path) -> Result<DefaultHasher, String> {
    let mut hash = DefaultHasher::new();
    hash.write(env!("STANDIN_TEXT").as_bytes());
    hash.write(env!("STANDIN_CXX").as_bytes());
    hash.write(kind(engine, check).flags().concat().as_bytes());
    let kernels = root.join("kernels");
    for header in files(&kernels.join("include"), "cuh") {
        hash.write(&fs::read(&header).map_err(|e| format!("{}: {e}", header.display()))?);
    }
    if let Engine::Ptx(architecture) = engine {
        hash.write(architecture.as_bytes());
        hash.write(nvcc::flags(&kernels)?.concat().as_bytes());
        hash.write(nvcc::version(&nvcc::find(root)?)?.as_bytes());
    }
    Ok(hash)
}

fn kind(engine: &Engine, check: Check) -> Kind {
    match (engine, check) {
        (Engine::Text, Check::None | Check::Watch) => Kind::KernelText,
        (Engine::Text, Check::Races) => Kind::KernelTextRaces,
        (Engine::Ptx(_), Check::None) => Kind::Translated,
        (Engine::Ptx(_), Check::Races) => Kind::TranslatedRaces,
        (Engine::Ptx(_), Check::Watch) => Kind::TranslatedWatch,
    }
}

/// Makes the library of one kernel file; `kernels` has the headers and nvcc's flags, and what lies between goes beside the library.
///
/// # Errors
/// No nvcc, or what a compiler or the translator says.
pub fn library_of(
    (engine, check): (&Engine, Check),
    root: &Path,
    kernels: &Path,
    source: &Path,
    driver: &Path,
    library: &Path,
) -> Result<(), String> {
    let translated = library.with_extension("cpp");
    let unit: &Path = match engine {
        Engine::Text => source,
        Engine::Ptx(architecture) => {
            let text = library.with_extension("ptx");
            nvcc::ptx(&nvcc::find(root)?, kernels, architecture, source, &text)?;
            translate(&text, &translated)?;
            &translated
        }
    };
    let (object, includes) = (library.with_extension("o"), [root.join("emulator/src"), kernels.to_path_buf()]);
    compile::compile(env!("STANDIN_CXX"), kind(engine, check), &includes, unit, &object)?;
    compile::link(env!("STANDIN_CXX"), &[&object, &driver.join("libcuda.so.1")], library, &["-Wl,-z,defs"])
}

fn translate(from: &PathBuf, to: &PathBuf) -> Result<(), String> {
    let text = fs::read_to_string(from).map_err(|e| format!("{}: {e}", from.display()))?;
    let made = ptx::translate(&text, &from.to_string_lossy())?;
    fs::write(to, made).map_err(|e| format!("{}: {e}", to.display()))
}
