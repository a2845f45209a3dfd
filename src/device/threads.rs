//! The threads of the CPU.

use std::thread::available_parallelism;

use super::room::{Bytes, Room};
use crate::error::{Error, Result};

/// Threads: more than any machine has cores.
pub const MAX_THREADS: usize = 1024;
/// Addresses of a thread: its stack, and its own buffers of a matrix product.
const THREAD_BYTES: u64 = 4 << 20;

/// The number of threads to start where `threads` are asked for: 0 asks for one a core.
///
/// # Errors
/// [`Error::Config`] for more than [`MAX_THREADS`]; what [`Room::check`] says where there is no room for them.
pub fn checked(threads: usize) -> Result<usize> {
    if threads > MAX_THREADS {
        return Err(Error::config("threads", format!("{threads} is above {MAX_THREADS}")));
    }
    // Not left to the pool, which takes any number from the environment.
    let threads = if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads };
    let reserved = threads as u64 * THREAD_BYTES;
    Room::now().check(Bytes { written: 0, reserved }, &format!("starting {threads} threads"), "lower --threads")?;
    Ok(threads)
}

/// Threads for work that is handed over as a whole ([`rayon::ThreadPool::install`]): several callers may share them, and whoever has no
/// say over the threads of a process, such as a module in an interpreter, takes these.
///
/// # Errors
/// As [`checked`], and [`Error::Config`] where the system gives no more threads.
pub fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let threads = checked(threads)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("dsr-{index}")).build();
    pool.map_err(|e| Error::config("threads", format!("{threads} could not be started ({e}); try fewer")))
}
