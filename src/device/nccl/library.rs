//! NVIDIA's library of collectives, opened at run time: where it is looked for, which versions will do, its calls.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use libloading::Library;

use super::Id;
use crate::error::{Error, Result};

/// Names of the library: that of the system's packages and of NVIDIA's wheel, and the one that a linker takes.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// The setting that names another file.
const SETTING: &str = "DSR_NCCL";

/// The oldest version with `ncclCommInitRankConfig`, by which no call waits for other ranks. Graphs can record collectives since
/// 2.9.6, and `ncclGetLastError` came with 2.13.
const OLDEST: c_int = 21_400;

/// What a user who has no library, or an old one, should do.
const REMEDY: &str = "install NVIDIA's package libnccl2 (as RPM: libnccl) or `pip install nvidia-nccl-cu13`, and \
                      put the folder of libnccl.so.2 into LD_LIBRARY_PATH, or its path into DSR_NCCL";

/// A communicator of NCCL; null is none.
pub(super) type Comm = *mut c_void;
/// A stream of the driver.
pub(super) type Stream = *mut c_void;
/// An `ncclResult_t`.
pub(super) type Status = c_int;

pub(super) const SUCCESS: Status = 0;
pub(super) const IN_PROGRESS: Status = 7;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;

/// `ncclConfig_t` as it was in 2.14. NCCL takes as many bytes as `size` says, and its own choices for what came later.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    /// Padding in 2.14, a field later; the number is what NCCL has for "not set".
    unset: c_int,
}

impl Config {
    /// Calls return at once; `ncclCommGetAsyncError` says when they are done.
    pub fn not_blocking() -> Config {
        Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: OLDEST as c_uint, blocking: 0, unset: c_int::MIN }
    }
}

/// The calls that are made, by their names without `nccl`.
pub(super) struct Calls {
    get_unique_id: unsafe extern "C" fn(*mut Id) -> Status,
    get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
    get_last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    pub comm_init_rank_config: unsafe extern "C" fn(*mut Comm, c_int, Id, c_int, *mut Config) -> Status,
    pub comm_get_async_error: unsafe extern "C" fn(Comm, *mut Status) -> Status,
    pub comm_finalize: unsafe extern "C" fn(Comm) -> Status,
    pub comm_destroy: unsafe extern "C" fn(Comm) -> Status,
    pub comm_abort: unsafe extern "C" fn(Comm) -> Status,
    pub group_start: unsafe extern "C" fn() -> Status,
    pub group_end: unsafe extern "C" fn() -> Status,
    pub all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status,
    pub all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> Status,
    pub broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status,
    pub send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> Status,
    pub recv: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> Status,
}

/// The library of this process.
pub struct Nccl {
    pub(super) calls: Calls,
    version: c_int,
    /// As it was asked for.
    name: String,
}

/// Opens the library, once; it stays open, since its threads do.
///
/// # Errors
/// [`Error::Device`] if there is none, or if it is too old; [`Error::Config`] if `DSR_NCCL` names something else.
pub fn load() -> Result<&'static Nccl> {
    static LOADED: OnceLock<Nccl> = OnceLock::new();
    if let Some(nccl) = LOADED.get() {
        return Ok(nccl);
    }
    let (name, library) = open()?;
    let nccl = bind(name, library)?;
    Ok(LOADED.get_or_init(|| nccl))
}

fn open() -> Result<(String, Library)> {
    // SAFETY: the initialisers of the library are trusted as those of the driver are.
    let open = |name: &str| unsafe { Library::new(name) };
    if let Some(path) = std::env::var(SETTING).ok().filter(|path| !path.is_empty()) {
        let library = open(&path).map_err(|e| Error::config(SETTING, format!("this library cannot be opened: {}", reason(&e))))?;
        return Ok((path, library));
    }
    let mut problems = Vec::new();
    for name in NAMES {
        match open(name) {
            Ok(library) => return Ok((name.into(), library)),
            Err(problem) => problems.push(reason(&problem)),
        }
    }
    Err(failure(format!("no NCCL was found, which several GPUs need ({}): {REMEDY}", problems.join("; "))))
}

/// What the loader says.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Finds every call, and refuses what is too old.
fn bind(name: String, library: Library) -> Result<Nccl> {
    // Never closed: threads of NCCL may run its code until the process ends.
    let library = ManuallyDrop::new(library);
    let missing = |symbol: &CStr| failure(format!("{name} has no {}: {OLDEST_SAYS}; {REMEDY}", symbol.to_string_lossy()));
    // SAFETY, for each: the call has this type in NVIDIA's nccl.h since it exists.
    let get_version: unsafe extern "C" fn(*mut c_int) -> Status = unsafe { find(&library, c"ncclGetVersion", missing) }?;
    let mut version = 0;
    // SAFETY: writes one number.
    if unsafe { get_version(&mut version) } != SUCCESS {
        return Err(failure(format!("{name} does not say its version; {REMEDY}")));
    }
    if version < OLDEST {
        return Err(failure(format!("{name} is NCCL {}: {OLDEST_SAYS}; {REMEDY}", dotted(version))));
    }
    // SAFETY: as above, for every one of them.
    let calls = unsafe {
        Calls {
            get_unique_id: find(&library, c"ncclGetUniqueId", missing)?,
            get_error_string: find(&library, c"ncclGetErrorString", missing)?,
            get_last_error: find(&library, c"ncclGetLastError", missing)?,
            comm_init_rank_config: find(&library, c"ncclCommInitRankConfig", missing)?,
            comm_get_async_error: find(&library, c"ncclCommGetAsyncError", missing)?,
            comm_finalize: find(&library, c"ncclCommFinalize", missing)?,
            comm_destroy: find(&library, c"ncclCommDestroy", missing)?,
            comm_abort: find(&library, c"ncclCommAbort", missing)?,
            group_start: find(&library, c"ncclGroupStart", missing)?,
            group_end: find(&library, c"ncclGroupEnd", missing)?,
            all_reduce: find(&library, c"ncclAllReduce", missing)?,
            all_gather: find(&library, c"ncclAllGather", missing)?,
            broadcast: find(&library, c"ncclBroadcast", missing)?,
            send: find(&library, c"ncclSend", missing)?,
            recv: find(&library, c"ncclRecv", missing)?,
        }
    };
    Ok(Nccl { calls, version, name })
}

const OLDEST_SAYS: &str = "2.14 or newer is needed, for calls that return while other ranks have not come";

/// # Safety
/// The symbol is a function of type `F`.
unsafe fn find<F: Copy>(library: &Library, symbol: &CStr, missing: impl Fn(&CStr) -> Error) -> Result<F> {
    // SAFETY: the caller says so.
    unsafe { library.get::<F>(symbol) }.map(|found| *found).map_err(|_| missing(symbol))
}

impl Nccl {
    /// As `2.27.3`.
    pub fn version(&self) -> String {
        dotted(self.version)
    }

    /// The name by which it was found, or the path that the setting gives.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A status in words, with what NCCL has to say beside it.
    pub(super) fn explain(&self, status: Status, comm: Comm) -> String {
        // SAFETY: the texts are static, or last until the next error of the library.
        let text = |text: *const c_char| if text.is_null() { "".into() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy() };
        // SAFETY: any number is a status, and the communicator may be none.
        let (meaning, last) = unsafe { (text((self.calls.get_error_string)(status)), text((self.calls.get_last_error)(comm))) };
        let last = last.trim().replace('\n', " ");
        let hint = if last.is_empty() { "NCCL_DEBUG=WARN says more".into() } else { last };
        format!("{meaning} (NCCL status {status}): {hint}")
    }

    pub(super) fn unique_id(&self) -> Result<Id> {
        let mut id = Id([0; 128]);
        // SAFETY: writes the 128 bytes of an id.
        match unsafe { (self.calls.get_unique_id)(&mut id) } {
            SUCCESS => Ok(id),
            status => Err(failure(format!("no place where ranks can meet: {}", self.explain(status, std::ptr::null_mut())))),
        }
    }
}

/// 2.27.3 for 22703; 2.8.4 for 2804, as it was counted before 2.9.
fn dotted(version: c_int) -> String {
    let per_major = if version < 10_000 { 1000 } else { 10_000 };
    format!("{}.{}.{}", version / per_major, version % per_major / 100, version % 100)
}

pub(super) fn failure(problem: impl Into<String>) -> Error {
    Error::device("nccl", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_dotted() {
        for (version, text) in [(22_703, "2.27.3"), (21_400, "2.14.0"), (20_906, "2.9.6"), (2804, "2.8.4")] {
            assert_eq!(dotted(version), text);
        }
    }

    /// NCCL reads the first number as the size, and then the fields by their place in `nccl.h` of 2.14.
    #[test]
    fn the_config_is_that_of_nccl_2_14() {
        assert_eq!(size_of::<Config>(), 24);
        assert_eq!(std::mem::offset_of!(Config, magic), 8);
        assert_eq!(std::mem::offset_of!(Config, version), 12);
        assert_eq!(std::mem::offset_of!(Config, blocking), 16);
        assert_eq!(size_of::<Id>(), 128);
    }
}
