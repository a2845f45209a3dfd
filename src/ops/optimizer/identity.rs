//! Which optimiser is which: a device has the state of one, and must not take it for that of another.

use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A number that no other optimiser of the process has; a clone gets one of its own, since its state goes its own way.
#[derive(Debug)]
pub struct Identity(u64);

impl Identity {
    pub(crate) fn number(&self) -> u64 {
        self.0
    }
}

impl Default for Identity {
    fn default() -> Self {
        Identity(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Identity::default()
    }
}
