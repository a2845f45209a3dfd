//! Ranks that are processes under mpirun or srun, by MPI.
//!
//! Messages go from rank to rank, not by MPI's own collectives: so a rank that does not answer has a number, and what is sent is what
//! all ranks add up in their own order. Nothing waits without looking at the time.

use std::mem::ManuallyDrop;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::mpi::datatype::Equivalence;
use ::mpi::environment::{Universe, initialize_with_threading};
use ::mpi::request::{Request, Scope, scope};
use ::mpi::topology::{Communicator, SimpleCommunicator};
use ::mpi::traits::{Destination, Source};
use ::mpi::{Count, Threading};

use super::launch::{Launch, check_world};
use super::{Group, Ranks};
use crate::error::{Error, Result};

/// This process among those that MPI has started.
pub struct Mpi {
    pub(super) group: Group,
    /// Says why everything ends.
    complain: fn(&str),
    /// Dropping it waits for the other ranks, so that happens in [`Ranks::leave`] and never on the way out of an error.
    universe: Mutex<Option<ManuallyDrop<Universe>>>,
}

/// So long another rank has to say what both have to say: rank 0 speaks first, and ends all.
const COURTESY: Duration = Duration::from_secs(1);
/// So long a rank looks for messages again and again, letting others have the core in between; then it sleeps between two looks. A
/// layer of another rank takes milliseconds, and who sleeps comes late to each of the many exchanges of a step.
const EAGER: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_micros(50);

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.group.fmt(f)
    }
}

impl Mpi {
    /// Begins MPI, once in a process, and compares what it says with the launcher. Another rank may keep this one waiting for `patience`;
    /// then `complain` is told why, and all ranks end.
    ///
    /// # Errors
    /// [`Error::Config`] if launcher and MPI are not of one kind, or if MPI runs already.
    pub fn start(launch: &Launch, patience: Duration, complain: fn(&str)) -> Result<Ranks> {
        let begun = watch_the_beginning(launch, patience, complain);
        let (universe, _) =
            initialize_with_threading(Threading::Funneled).ok_or_else(|| Error::config("ranks", "MPI runs already in this process"))?;
        drop(begun);
        let universe = ManuallyDrop::new(universe);
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        check_world(launch, rank, size)?;
        Ok(Ranks::Mpi(Arc::new(Mpi { group: Group::new(rank, size, patience), complain, universe: Mutex::new(Some(universe)) })))
    }

    /// One message a rank, or one for all; gives those of all, by rank. Ends all ranks if one keeps this one waiting.
    pub(super) fn swap(&self, mut messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let Group { rank: own, size, patience, .. } = self.group;
        if let Some(message) = messages.iter().find(|message| Count::try_from(message.len()).is_err()) {
            self.end(&self.group.error(format!("a message of {} bytes is more than MPI takes; use more ranks", message.len())));
        }
        let others = || (0..size).filter(|&rank| rank != own);
        let begin = Instant::now();
        let (deadline, mut came) = (begin + patience, begin);
        let mut received: Vec<Vec<u8>> = vec![Vec::new(); size];
        scope(|sending| {
            let to = |rank: usize| &messages[rank.min(messages.len() - 1)][..];
            let sends: Vec<_> = others().map(|rank| (rank, world.process_at_rank(rank as i32).immediate_send(sending, to(rank)))).collect();
            let mut looks = Looks::until(deadline);
            let mut found: Vec<_> = (0..size).map(|_| None).collect();
            while let Some(missing) = others().find(|&rank| found[rank].is_none()) {
                let before = found.iter().flatten().count();
                for rank in others() {
                    if found[rank].is_none() {
                        found[rank] = world.process_at_rank(rank as i32).immediate_matched_probe();
                    }
                }
                if found.iter().flatten().count() == before && !looks.again() {
                    self.end(&self.group.too_late(missing));
                }
            }
            came = Instant::now();
            scope(|receiving| {
                let receives: Vec<_> = (received.iter_mut().zip(found).enumerate())
                    .filter_map(|(rank, (buffer, found))| {
                        let (message, status) = found?;
                        let len = status.count(u8::equivalent_datatype()) as usize;
                        *buffer = self.group.buffer(len);
                        buffer.resize(len, 0); // a spare one had that length before, most often: nothing is filled
                        Some((rank, message.immediate_matched_receive_into(receiving, &mut buffer[..])))
                    })
                    .collect();
                self.complete(receives, deadline);
            });
            self.complete(sends, deadline);
        });
        received[own] = messages.swap_remove(own.min(messages.len() - 1));
        messages.into_iter().for_each(|message| self.group.recycle(message));
        self.group.spent(begin, came);
        received
    }

    /// Waits until all requests are done, each with the rank at its other end.
    fn complete<'a, D: ?Sized, S: Scope<'a>>(&self, mut requests: Vec<(usize, Request<'a, D, S>)>, deadline: Instant) {
        let mut looks = Looks::until(deadline);
        while let Some((rank, request)) = requests.pop() {
            if let Err(request) = request.test() {
                requests.push((rank, request));
                if !looks.again() {
                    self.end(&self.group.too_late(rank));
                }
            }
        }
    }

    /// Says why, and ends all ranks.
    fn end(&self, error: &Error) -> ! {
        end_all(self.group.rank, &format!("error: {error}"), self.complain)
    }
}

/// MPI waits for all that its launcher has started, and for as long as it takes: one that never comes would keep the others for ever.
/// This ends the process unless what it gives is dropped within `patience`.
fn watch_the_beginning(launch: &Launch, patience: Duration, complain: fn(&str)) -> Sender<()> {
    let (begun, watch) = channel();
    let Launch { launcher, rank, size } = launch.clone();
    let wait = move || {
        if watch.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            let seconds = patience.as_secs_f64();
            complain(&format!(
                "error: rank {rank}: of the {size} processes that {launcher} has started, not all have come within {seconds} s \
                 (--rank-timeout): look at what the others say, then start again"
            ));
            std::process::exit(1);
        }
    };
    let _ = std::thread::Builder::new().name("beginning".into()).spawn(wait); // without it the wait has no end, as before
    begun
}

/// Looking again and again, politely.
struct Looks {
    begin: Instant,
    deadline: Instant,
}

impl Looks {
    fn until(deadline: Instant) -> Self {
        Looks { begin: Instant::now(), deadline }
    }

    /// Whether there is time for another look.
    fn again(&mut self) -> bool {
        let now = Instant::now();
        if now - self.begin < EAGER {
            std::thread::yield_now();
        } else {
            std::thread::sleep(PAUSE);
        }
        now < self.deadline
    }
}

/// Says why, and ends all processes of the group with 1. What all ranks have to say is said by rank 0.
fn end_all(rank: usize, why: &str, complain: fn(&str)) -> ! {
    if rank > 0 {
        std::thread::sleep(COURTESY);
    }
    complain(why);
    SimpleCommunicator::world().abort(1)
}

impl Ranks {
    /// Ends the group in good order; waits for the others, so all have to come here.
    pub fn leave(&self) {
        if let Ranks::Mpi(mpi) = self
            && let Ok(mut universe) = mpi.universe.lock()
            && let Some(universe) = universe.take()
        {
            drop(ManuallyDrop::into_inner(universe));
        }
    }
}

/// Says why this process cannot go on and ends those of its group, too; comes back where there is no group.
pub fn end_group(why: &str, complain: fn(&str)) {
    if ::mpi::environment::is_initialized() && !::mpi::environment::is_finalized() {
        end_all(SimpleCommunicator::world().rank() as usize, why, complain);
    }
}
