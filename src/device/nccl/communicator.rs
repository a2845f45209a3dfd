//! A rank among others: its collectives, their order among the work of the device, and how long anybody waits for them.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaStream, DriverError};

use super::library::{Calls, Comm, Config, IN_PROGRESS, Nccl, SUCCESS, SUM, Status, Stream, load};
use super::{Element, Id, Integer};
use crate::device::Gpu;
use crate::device::graph::{Recording, Used};
use crate::device::slice::Slice;
use crate::error::{Error, Result};

/// How long a communicator that is dropped waits for others that still need it.
const LEAVING: Duration = Duration::from_secs(10);

/// One rank of several, with a stream of its own for collectives.
///
/// All ranks issue the same collectives in the same order, with the same sizes; nobody checks that before they hang, so
/// [`Communicator::wait`] has a deadline. A collective of nothing is left out, by every rank.
/// Collectives can be recorded ([`Gpu::capture`]), between [`Communicator::after_compute`] and [`Communicator::before_compute`];
/// the graph then keeps the communicator, since NCCL must not lose it earlier.
pub struct Communicator {
    handle: Arc<Handle>,
}

/// Leaves the others when it is dropped: with the communicator, or with the last graph that recorded a collective.
struct Handle {
    nccl: &'static Nccl,
    gpu: Arc<Gpu>,
    stream: Arc<CudaStream>,
    /// The same device with its kernels on that stream.
    between: Gpu,
    /// Marks: of the compute stream for this one, of this one for the compute stream, of both for the host.
    compute_done: CudaEvent,
    collectives_done: CudaEvent,
    all_done: CudaEvent,
    rank: usize,
    size: usize,
    timeout: Duration,
    state: Mutex<State>,
    /// Those that have its collectives.
    graphs: Mutex<Vec<Weak<Recording>>>,
}

struct State {
    /// Null once it was aborted.
    comm: Comm,
    /// Collectives that were issued or recorded, and the last of them in words.
    issued: u64,
    last: String,
}

// SAFETY: NCCL takes calls on a communicator from any thread, one at a time; the mutex sees to that.
unsafe impl Send for State {}

impl Communicator {
    /// Meets the other `size - 1` ranks, for at most `timeout`; that is also how long a later call waits for NCCL to take it.
    ///
    /// # Errors
    /// Those of [`load`]; [`Error::Config`] for a rank that is none of `size`; [`Error::Device`] if others do not come, or if NCCL
    /// refuses (two ranks on one GPU, the same rank twice, another size).
    pub fn new(gpu: &Arc<Gpu>, rank: usize, size: usize, id: Id, timeout: Duration) -> Result<Communicator> {
        let nccl = load()?;
        let (Ok(rank_number), Ok(size_number)) = (i32::try_from(rank), i32::try_from(size)) else {
            return Err(Error::config("ranks", format!("{size} are more than NCCL takes")));
        };
        if rank >= size {
            return Err(Error::config("rank", format!("{rank} is not below the number of ranks, {size}")));
        }
        let failed = |e| gpu.failed("making a stream for collectives", e);
        let event = || gpu.context.new_event(None).map_err(failed);
        let stream = gpu.context.new_stream().map_err(failed)?;
        let handle = Handle {
            nccl,
            gpu: gpu.clone(),
            between: gpu.on(&stream)?,
            stream,
            compute_done: event()?,
            collectives_done: event()?,
            all_done: event()?,
            rank,
            size,
            timeout,
            state: Mutex::new(State { comm: std::ptr::null_mut(), issued: 0, last: "no collective".into() }),
            graphs: Mutex::new(Vec::new()),
        };
        gpu.bind()?;
        let mut state = handle.lock();
        let (comm, mut config) = (&mut state.comm, Config::not_blocking());
        // SAFETY: `comm` and `config` are valid for the call, which does not keep them; NCCL takes the context of this thread.
        let status = unsafe { (nccl.calls.comm_init_rank_config)(comm, size_number, id, rank_number, &mut config) };
        handle.settle(&mut state, status, "meeting the other ranks")?;
        drop(state);
        Ok(Communicator { handle: Arc::new(handle) })
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.handle.gpu
    }

    /// The device for kernels that run between the collectives, in the order in which both are issued; the compute stream waits for
    /// them as for collectives.
    pub fn between(&self) -> &Gpu {
        &self.handle.between
    }

    pub fn rank(&self) -> usize {
        self.handle.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.handle.size
    }

    /// Collectives that are issued from now on wait for what is on the compute stream so far.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses; so does the next.
    pub fn after_compute(&self) -> Result<()> {
        let Handle { gpu, stream, compute_done, .. } = &*self.handle;
        let waits = compute_done.record(&gpu.compute).and_then(|()| stream.wait(compute_done));
        waits.map_err(|e| gpu.failed("waiting for kernels", e))
    }

    /// What is put on the compute stream from now on waits for the collectives so far.
    pub fn before_compute(&self) -> Result<()> {
        let Handle { gpu, stream, collectives_done, .. } = &*self.handle;
        let waits = collectives_done.record(stream).and_then(|()| gpu.compute.wait(collectives_done));
        waits.map_err(|e| gpu.failed("waiting for collectives", e))
    }

    /// Every rank gets the sums of all ranks' values, in place.
    ///
    /// # Errors
    /// [`Error::Device`] if NCCL or the driver refuses, or after [`Communicator::abort`]; so do the other collectives.
    pub fn all_reduce<T: Integer>(&self, values: Slice<T>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.issue(what::<T>("all-reduce", values.len()), |calls, comm, stream| {
            // SAFETY: the range is device memory, by `Slice`; NCCL may write where it reads from.
            unsafe { (calls.all_reduce)(from(values), to(values), values.len(), T::TYPE, SUM, comm, stream) }
        })
    }

    /// Every rank gets all ranks' values one behind the other, `all[rank * own.len()..]`; `own` may be its part of `all`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if `all` has not one `own` for each rank; as [`Communicator::all_reduce`].
    pub fn all_gather<T: Element>(&self, own: Slice<T>, all: Slice<T>) -> Result<()> {
        if all.len() != own.len() * self.size() {
            return Err(Error::shape("all-gather", own.len() * self.size(), all.len()));
        }
        if own.is_empty() {
            return Ok(());
        }
        self.issue(what::<T>("all-gather", own.len()), |calls, comm, stream| {
            // SAFETY: both ranges are device memory, by `Slice`, and their lengths fit, as was checked.
            unsafe { (calls.all_gather)(from(own), to(all), own.len(), T::TYPE, comm, stream) }
        })
    }

    /// Every rank gets the values of rank `root`, in place.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such rank; as [`Communicator::all_reduce`].
    pub fn broadcast<T: Element>(&self, values: Slice<T>, root: usize) -> Result<()> {
        if root >= self.size() {
            return Err(Error::config("root", format!("{root} is not below the number of ranks, {}", self.size())));
        }
        if values.is_empty() {
            return Ok(());
        }
        self.issue(what::<T>(&format!("broadcast from rank {root}"), values.len()), |calls, comm, stream| {
            // SAFETY: as in `all_reduce`; `root` is below `size`, which is an `i32`.
            unsafe { (calls.broadcast)(from(values), to(values), values.len(), T::TYPE, root as i32, comm, stream) }
        })
    }

    /// Rank r gets `sends[r]` of each rank, in `receives[the rank it comes from]`. Parts of no element are not sent.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if there is not one part for each rank, or if the two own ones differ in length; as
    /// [`Communicator::all_reduce`].
    pub fn all_to_all<T: Element>(&self, sends: &[Slice<T>], receives: &[Slice<T>]) -> Result<()> {
        let (size, own) = (self.size(), self.rank());
        if (sends.len(), receives.len()) != (size, size) {
            return Err(Error::shape("parts of an all-to-all", (size, size), (sends.len(), receives.len())));
        }
        if sends[own].len() != receives[own].len() {
            return Err(Error::shape("the own part of an all-to-all", sends[own].len(), receives[own].len()));
        }
        let sent = sends.iter().map(Slice::len).sum::<usize>();
        if sent + receives.iter().map(Slice::len).sum::<usize>() == 0 {
            return Ok(());
        }
        self.issue(what::<T>("all-to-all", sent), |calls, comm, stream| {
            // SAFETY: the ranges are device memory, by `Slice`; every group that is started is ended.
            unsafe {
                let mut first = (calls.group_start)();
                for rank in 0..size {
                    let (send, receive) = (sends[rank], receives[rank]);
                    if !send.is_empty() && is_taken(first) {
                        first = (calls.send)(from(send), send.len(), T::TYPE, rank as i32, comm, stream);
                    }
                    if !receive.is_empty() && is_taken(first) {
                        first = (calls.recv)(to(receive), receive.len(), T::TYPE, rank as i32, comm, stream);
                    }
                }
                let end = (calls.group_end)();
                if is_taken(first) { end } else { first }
            }
        })
    }

    /// Opens all connections by one collective of each kind, and waits for them: NCCL opens what a collective needs at its first
    /// use, which a capture may not contain.
    ///
    /// # Errors
    /// As [`Communicator::wait`].
    pub fn connect(&self) -> Result<()> {
        let (gpu, size) = (&self.handle.gpu, self.size());
        let [given, got] = [gpu.zeroed::<u32>(size)?, gpu.zeroed::<u32>(size)?];
        let parts = |slice: Slice<u32>| (0..size).map(|rank| slice.part(rank..rank + 1)).collect::<Vec<_>>();
        self.after_compute()?;
        self.all_to_all(&parts(given.slice()), &parts(got.slice()))?;
        self.all_reduce(got.slice())?;
        self.all_gather(given.slice().part(0..1), got.slice())?;
        self.broadcast(got.slice(), 0)?;
        self.wait(self.handle.timeout)
    }

    /// Waits for the collectives so far and for the compute stream, at most `timeout`; then, and when NCCL has an error, everything
    /// in flight is given up, so that nothing else waits for it.
    ///
    /// # Errors
    /// [`Error::Device`] that names the last collective, if it did not end, and what NCCL or the driver says.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let (handle, begin, doing) = (&*self.handle, Instant::now(), "waiting for collectives");
        let failed = |e| {
            self.abort();
            handle.gpu.failed(doing, e)
        };
        handle.mark_all().map_err(failed)?;
        loop {
            // In this order: what NCCL could not do ends, too.
            let is_done = handle.all_done.try_is_complete().map_err(failed)?;
            // Free again at every turn, so that another thread can give up.
            let mut state = handle.lock();
            handle.async_error(&mut state, doing)?;
            if is_done {
                return Ok(());
            }
            if begin.elapsed() >= timeout {
                let what = format!("{} has not ended within {:.1} s", state.last, timeout.as_secs_f64());
                handle.abort(&mut state);
                return Err(handle.error(format!("{what}: another rank did not come or stands still; its own output says why")));
            }
            drop(state);
            pause(begin);
        }
    }

    /// Gives up, from any thread: what is in flight ends without a result, and no collective is taken any more.
    pub fn abort(&self) {
        self.handle.abort(&mut self.handle.lock());
    }

    fn issue(&self, what: String, call: impl FnOnce(&Calls, Comm, Stream) -> Status) -> Result<()> {
        let (handle, mut state) = (&self.handle, self.handle.lock());
        if state.comm.is_null() {
            return Err(handle.error(format!("{what} is not possible: the communicator was given up after {}", state.last)));
        }
        handle.gpu.bind()?;
        // If this is recorded, the graph needs the communicator as long as it lives.
        handle.gpu.keep_with_graph(handle);
        state.issued += 1;
        state.last = format!("collective {} ({what})", state.issued);
        let status = call(&handle.nccl.calls, state.comm, handle.stream.cu_stream().cast());
        let doing = format!("issuing {}", state.last);
        handle.settle(&mut state, status, &doing)
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} on {:?}", self.rank(), self.size(), self.handle.gpu)
    }
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until NCCL has taken a call, as the calls of a communicator that does not block ask for; gives up after the time-out.
    fn settle(&self, state: &mut State, status: Status, doing: &str) -> Result<()> {
        if !is_taken(status) {
            return Err(self.give_up(state, status, doing));
        }
        let begin = Instant::now();
        while self.async_error(state, doing)? == IN_PROGRESS {
            if begin.elapsed() >= self.timeout {
                self.abort(state);
                let seconds = self.timeout.as_secs_f64();
                return Err(self.error(format!("{doing} has not ended within {seconds:.1} s: another rank did not come or stands still")));
            }
            pause(begin);
        }
        Ok(())
    }

    /// How NCCL is doing: [`SUCCESS`] or [`IN_PROGRESS`]; after an error it has given up.
    fn async_error(&self, state: &mut State, doing: &str) -> Result<Status> {
        if state.comm.is_null() {
            return Err(self.error(format!("{doing}: the communicator was given up after {}", state.last)));
        }
        let mut status = SUCCESS;
        // SAFETY: the communicator lives, and the call writes one number.
        let asked = unsafe { (self.nccl.calls.comm_get_async_error)(state.comm, &mut status) };
        let status = if asked == SUCCESS { status } else { asked };
        if is_taken(status) { Ok(status) } else { Err(self.give_up(state, status, doing)) }
    }

    /// A status as an error, after which nothing is in flight.
    fn give_up(&self, state: &mut State, status: Status, doing: &str) -> Error {
        let last = if state.issued > 0 { format!(": the last was {}", state.last) } else { String::new() };
        let problem = format!("{doing}{last}: {}", self.nccl.explain(status, state.comm));
        self.abort(state);
        self.error(problem)
    }

    /// The communicator is NCCL's again; kernels that wait for others come to an end. Graphs go first, even one that is at work: NCCL
    /// waits until none has its collectives.
    fn abort(&self, state: &mut State) {
        let comm = std::mem::replace(&mut state.comm, std::ptr::null_mut());
        let graphs = std::mem::take(&mut *self.graphs.lock().unwrap_or_else(PoisonError::into_inner));
        for graph in graphs.iter().filter_map(Weak::upgrade) {
            drop(graph.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        if !comm.is_null() && self.gpu.bind().is_ok() {
            // SAFETY: the communicator lives, and nobody uses it from here on.
            unsafe { (self.nccl.calls.comm_abort)(comm) };
        }
    }

    /// Marks the end of the collectives so far and of the compute stream so far; later collectives wait for both.
    fn mark_all(&self) -> std::result::Result<(), DriverError> {
        self.compute_done.record(&self.gpu.compute)?;
        self.stream.wait(&self.compute_done)?;
        self.all_done.record(&self.stream)
    }

    fn error(&self, problem: String) -> Error {
        self.gpu.error(format!("rank {} of {}: {problem}", self.rank, self.size))
    }

    /// Lets others have what they still need of this rank, for a while; false if somebody did not come.
    fn leave(&self, comm: Comm) -> bool {
        let Calls { comm_get_async_error, comm_finalize, comm_destroy, .. } = &self.nccl.calls;
        let is_idle = self.gpu.bind().is_ok() && self.mark_all().is_ok() && self.all_done.try_is_complete() == Ok(true);
        // SAFETY: the communicator lives until it is destroyed, and nothing of it is in flight.
        if !is_idle || !is_taken(unsafe { comm_finalize(comm) }) {
            return false;
        }
        let (begin, mut status) = (Instant::now(), IN_PROGRESS);
        // SAFETY: as above; the call writes one number.
        while unsafe { comm_get_async_error(comm, &mut status) } == SUCCESS && status == IN_PROGRESS && begin.elapsed() < LEAVING {
            pause(begin);
        }
        // SAFETY: as above.
        status == SUCCESS && is_taken(unsafe { comm_destroy(comm) })
    }
}

impl Used for Handle {
    fn is_used_by(&self, graph: Weak<Recording>) {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.retain(|graph| graph.strong_count() > 0);
        graphs.push(graph);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.lock();
        if !state.comm.is_null() && self.leave(state.comm) {
            state.comm = std::ptr::null_mut();
        }
        self.abort(&mut state);
    }
}

/// Done, or on its way.
fn is_taken(status: Status) -> bool {
    matches!(status, SUCCESS | IN_PROGRESS)
}

fn what<T: Element>(name: &str, len: usize) -> String {
    format!("{name} of {len} {}", T::NAME)
}

fn from<T>(slice: Slice<T>) -> *const c_void {
    slice.address() as *const c_void
}

fn to<T>(slice: Slice<T>) -> *mut c_void {
    slice.address() as *mut c_void
}

/// Short at first, since most collectives end soon; longer for what takes its time anyway.
fn pause(begin: Instant) {
    if begin.elapsed() < Duration::from_millis(2) {
        std::thread::yield_now();
    } else {
        std::thread::sleep(Duration::from_micros(100));
    }
}
