//! Graphs: work of the compute stream that is recorded once and launched as a whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::{CudaGraph, sys};

use super::driver::explain;
use super::gpu::Gpu;
use super::loaded::Loaded;
use crate::error::{Error, Result};

/// Something that a graph uses and keeps as long as it lives.
pub(super) trait Used: Send + Sync {
    /// A graph has it from now on. Who has to give up before the graph's owner does takes what is recorded out of it.
    fn is_used_by(&self, graph: Weak<Recording>);
}

pub(super) type Kept = Arc<dyn Used>;

/// What is recorded; none once it was given up.
pub(super) type Recording = Mutex<Option<Recorded>>;

impl Gpu {
    /// Records what `body` puts on the compute stream, without doing it.
    ///
    /// # Errors
    /// Those of `body`, and [`Error::Device`] if it did what cannot be recorded, such as waiting or allocating.
    pub fn capture(&self, body: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.compute.begin_capture(mode).map_err(|e| self.failed("starting to capture a graph", e))?;
        *self.kept() = Some(Vec::new());
        let done = body();
        let kept = self.kept().take().unwrap_or_default();
        // Ended in any case: a stream that is still capturing does no work.
        let captured = self.compute.end_capture(sys::CUgraphInstantiate_flags(0));
        done?;
        let graph = captured.map_err(|e| self.failed("capturing a graph", e))?;
        let graph = graph.ok_or_else(|| self.error("capturing a graph gave none".into()))?;
        let recorded = Arc::new(Mutex::new(Some(Recorded(graph))));
        kept.iter().for_each(|used| used.is_used_by(Arc::downgrade(&recorded)));
        Ok(Graph { recorded, device: format!("{self:?}"), _loaded: self.loaded.clone(), _kept: kept })
    }

    /// If a graph is recorded, it keeps this from now on; once is enough.
    pub(super) fn keep_with_graph<T: Used + 'static>(&self, used: &Arc<T>) {
        if let Some(kept) = self.kept().as_mut()
            && !kept.iter().any(|other| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(used)))
        {
            kept.push(used.clone());
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that was recorded once and is launched as a whole.
///
/// The addresses of its buffers are part of it: they must outlive it.
pub struct Graph {
    recorded: Arc<Recording>,
    device: String,
    /// Its kernels stay loaded as long as it can be launched.
    _loaded: Arc<HashMap<&'static str, Loaded>>,
    /// Given back after the graph is destroyed, as the order of these fields has it.
    _kept: Vec<Kept>,
}

pub(super) struct Recorded(CudaGraph);

// SAFETY: a graph belongs to a context and to no thread; the mutex keeps its users apart.
unsafe impl Send for Recorded {}

impl Graph {
    /// Puts the recorded work on the compute stream.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses.
    pub fn launch(&self) -> Result<()> {
        let graph = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let given_up = || Error::device(&self.device, "a graph was given up with the collectives that it has");
        graph
            .as_ref()
            .ok_or_else(given_up)?
            .0
            .launch()
            .map_err(|e| Error::device(&self.device, format!("launching a graph failed: {}", explain(e))))
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "graph on {}", self.device)
    }
}
