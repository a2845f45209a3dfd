//! How calls get at the engine of a network, and what they leave of it for those that come after.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};

use dsr::{Network as Engine, Optimizer as Rule};
use pyo3::prelude::*;

use crate::errors::raised;
use crate::lent::gpu_of;
use crate::network::Network;
use crate::optimizer::Optimizer;
use crate::threads;

impl Network {
    /// The engine, at once: for what takes no time.
    pub fn engine(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Engine>> {
        threads::locked(py, &self.engine)
    }

    /// Work on the engine by all threads, while the interpreter goes on.
    pub fn work<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Engine) -> dsr::Result<T> + Send) -> PyResult<T> {
        let pool = threads::pool()?;
        py.detach(|| {
            // Taken before the pool is entered: a thread of the pool that waits for a lock may be the one that would let go of it.
            let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let engine = &mut *engine;
            pool.install(|| settled(engine, work))
        })
        .map_err(raised)
    }

    /// The same with the state and the learning rate of an optimiser of this network.
    pub fn work_with<T: Send>(
        &self,
        py: Python<'_>,
        optimizer: &Optimizer,
        work: impl FnOnce(&mut Engine, &mut Rule, f32) -> dsr::Result<T> + Send,
    ) -> PyResult<T> {
        optimizer.check(self)?;
        let pool = threads::pool()?;
        py.detach(|| {
            // Both before the pool is entered, as above.
            let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state = optimizer.state();
            let (engine, (rule, lr)) = (&mut *engine, &mut *state);
            pool.install(|| settled(engine, |engine| work(engine, rule, *lr as f32)))
        })
        .map_err(raised)
    }
}

/// Work that leaves nothing at work where it fails, so that others may free what they have lent for it.
pub fn settled<T>(engine: &mut Engine, work: impl FnOnce(&mut Engine) -> dsr::Result<T>) -> dsr::Result<T> {
    let done = work(engine);
    if let (Err(_), Some(gpu)) = (&done, gpu_of(engine)) {
        let _ = gpu.synchronize(); // a device that fails now works no more
    }
    done
}

/// Changes of a network, and the forward pass in training mode that waits for its backward. Written with the engine locked.
#[derive(Default)]
pub struct Changes {
    /// So far.
    counted: AtomicU64,
    /// The number of the pass that the engine has all of that backward needs; 0 for none.
    pending: AtomicU64,
}

impl Changes {
    /// How many there were.
    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    /// Counts one, and says its number; a pass that waited is then gone.
    pub fn count(&self) -> u64 {
        self.end_pass();
        self.counted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// From now on this pass, which is the last change, waits.
    pub fn begin_pass(&self, number: u64) {
        self.pending.store(number, Ordering::Relaxed);
    }

    /// A pass that waited is gone, though nothing is changed.
    pub fn end_pass(&self) {
        self.pending.store(0, Ordering::Relaxed);
    }

    /// Whether this pass waits; after this none of its number does.
    pub fn take_pass(&self, number: u64) -> bool {
        number > 0 && self.pending.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
