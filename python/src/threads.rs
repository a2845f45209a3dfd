//! The threads that compute: one pool for all networks of the process, apart from the interpreter's own threads.
//!
//! A call hands its whole work to the pool, so it costs one handover, and any number of Python threads may call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use dsr::device::threads;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::raised;

struct Pool {
    threads: Arc<rayon::ThreadPool>,
    /// The process that started them: they do not survive a fork.
    process: u32,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

const FORKED: &str = "dsr: this process was forked from one in which dsr had computed already, and the threads that compute are not in \
                      it: start processes with multiprocessing's 'spawn' or 'forkserver', or fork before the first call";

/// The pool; one thread a core unless [`set_threads`] has said otherwise.
///
/// # Errors
/// `RuntimeError` in a process that was forked from one with a pool.
pub fn pool() -> PyResult<Arc<rayon::ThreadPool>> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    match &*pool {
        Some(Pool { process, .. }) if *process != std::process::id() => Err(PyRuntimeError::new_err(FORKED)),
        Some(Pool { threads, .. }) => Ok(Arc::clone(threads)),
        None => start(&mut pool, 0),
    }
}

/// Work by all threads, while the interpreter goes on.
pub fn work<T: Send>(py: Python<'_>, work: impl FnOnce() -> dsr::Result<T> + Send) -> PyResult<T> {
    let pool = pool()?;
    py.detach(|| pool.install(work)).map_err(raised)
}

/// What a lock guards, for what takes no time. Another thread may hold it for long, and need the interpreter to come to an end.
pub fn locked<'a, T>(py: Python<'_>, guarded: &'a Mutex<T>) -> PyResult<MutexGuard<'a, T>> {
    refuse_forked()?;
    loop {
        match guarded.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                py.detach(|| std::thread::sleep(Duration::from_micros(200)));
                py.check_signals()?;
            }
        }
    }
}

/// Refuses a process that was forked from one with a pool, whose locks may be held by threads that are not there.
pub fn refuse_forked() -> PyResult<()> {
    match &*POOL.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(Pool { process, .. }) if *process != std::process::id() => Err(PyRuntimeError::new_err(FORKED)),
        _ => Ok(()),
    }
}

fn start(pool: &mut Option<Pool>, wanted: usize) -> PyResult<Arc<rayon::ThreadPool>> {
    let threads = Arc::new(threads::pool(wanted).map_err(raised)?);
    *pool = Some(Pool { threads: Arc::clone(&threads), process: std::process::id() });
    Ok(threads)
}

/// Takes this many threads from now on; calls that are at work keep theirs. Results do not depend on it.
///
/// Parameters
/// ----------
/// threads : int
///     Number of threads, up to 1024; 0 for one per core, which is the default.
///
/// Raises
/// ------
/// ValueError
///     For a number that is too large.
#[pyfunction]
pub fn set_threads(threads: usize) -> PyResult<()> {
    refuse_forked()?;
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    start(&mut pool, threads).map(drop)
}

/// The number of threads that compute.
#[pyfunction]
pub fn get_threads() -> PyResult<usize> {
    Ok(pool()?.current_num_threads())
}
