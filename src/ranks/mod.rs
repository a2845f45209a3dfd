//! Several processes ("ranks") train one network: what they tell each other.
//!
//! A batch is cut into *slices*, whose number is a setting of the run and not the number of ranks (`share.rs`). What is rounded is
//! summed within a slice, and over slices in the order of one binary tree (`tree.rs`); integers need no order. So one rank or eight
//! make the same additions, and a run is a function of configuration and data, not of how many work on it.
//!
//! All ranks make the same calls in the same order. Each call has a name, and what it sends carries that name: a rank that is elsewhere
//! is told apart from one that stands still.

mod handshake;
pub mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;
mod share;
mod threads;
mod tree;

pub use handshake::{executable, handshake};
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, end_group};
pub use nccl::Nccl;
pub use share::Share;
pub use threads::Threads;
pub use tree::{Node, Tree};

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Who shares the work, and which of them this is.
#[derive(Clone, Debug, Default)]
pub enum Ranks {
    /// One process alone.
    #[default]
    Alone,
    /// Threads of one process, each with a network of its own.
    Threads(Arc<Threads>),
    /// Processes that MPI has started.
    #[cfg(feature = "mpi")]
    Mpi(Arc<Mpi>),
    /// Processes with a CUDA device each.
    Nccl(Arc<Nccl>),
}

/// What the exchanges of a rank have cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Calls in which all ranks took part.
    pub exchanges: u64,
    /// Bytes that this rank has sent to others, without the labels of the calls.
    pub bytes: u64,
    /// Time within these calls until the last of the others had come: what a slower rank or a network costs.
    pub waited: Duration,
    /// The rest of the time within these calls: bytes that were copied.
    pub moved: Duration,
}

impl std::ops::Sub for Cost {
    type Output = Cost;

    fn sub(self, earlier: Cost) -> Cost {
        Cost {
            exchanges: self.exchanges - earlier.exchanges,
            bytes: self.bytes - earlier.bytes,
            waited: self.waited.saturating_sub(earlier.waited),
            moved: self.moved.saturating_sub(earlier.moved),
        }
    }
}

/// What a rank remembers of its calls and of those of the others.
#[derive(Debug)]
struct Log {
    cost: Cost,
    /// Label of the last call that each rank has joined, as far as this one knows.
    last: Vec<Label>,
}

/// Number and name of a call, behind what is sent in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label([u8; Label::LEN]);

impl Label {
    const LEN: usize = 64;

    fn new(call: u64, what: &str) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&call.to_le_bytes());
        bytes[8..].iter_mut().zip(what.bytes()).for_each(|(into, byte)| *into = byte);
        Label(bytes)
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let call = self.0[..8].iter().rev().fold(0u64, |call, &byte| call << 8 | u64::from(byte));
        let name = String::from_utf8_lossy(&self.0[8..]).trim_end_matches('\0').to_string();
        if call == 0 { write!(f, "nothing yet") } else { write!(f, "'{name}' (call {call})") }
    }
}

/// What a transport has to know of its group.
#[derive(Debug)]
struct Group {
    rank: usize,
    size: usize,
    /// How long another rank may keep this one waiting.
    patience: Duration,
    log: Mutex<Log>,
    /// Large buffers of earlier calls. New ones would cost a page fault every 4 KiB, which takes longer than filling them.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// Bytes from which on a buffer is kept for the next call.
const WORTH_KEEPING: usize = 1 << 16;
/// Buffers that are kept at the most, by number of ranks: those of the weight gradients, sent and received.
const KEPT_BY_RANK: usize = 4;

impl Group {
    fn new(rank: usize, size: usize, patience: Duration) -> Self {
        let log = Log { cost: Cost::default(), last: vec![Label::new(0, ""); size] };
        Group { rank, size, patience, log: Mutex::new(log), spare: Mutex::default() }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(std::sync::PoisonError::into_inner) // whole buffers
    }

    /// A buffer for `len` bytes with anything in it, of any length: the smallest spare one that has the room, or a new one.
    fn buffer(&self, len: usize) -> Vec<u8> {
        let mut spare = self.spare();
        let fitting = spare.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= len);
        let found = fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at).filter(|_| len >= WORTH_KEEPING);
        found.map_or_else(|| Vec::with_capacity(len), |at| spare.swap_remove(at))
    }

    /// Keeps a buffer for later calls, if that is worth it.
    fn recycle(&self, buffer: Vec<u8>) {
        let mut spare = self.spare();
        if buffer.capacity() >= WORTH_KEEPING && spare.len() < KEPT_BY_RANK * self.size {
            spare.push(buffer);
        }
    }

    /// Counts the time of a call that began at `begin` and had something of every rank at `came`.
    fn spent(&self, begin: Instant, came: Instant) {
        let mut log = self.log();
        log.cost.waited += came - begin;
        log.cost.moved += came.elapsed();
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner) // numbers and names: never half changed
    }

    /// The label of a call that begins, after counting it.
    fn begin(&self, what: &str, parts: &[Vec<u8>]) -> Label {
        let mut log = self.log();
        log.cost.exchanges += 1;
        let to_others = |parts: &[Vec<u8>]| parts.iter().enumerate().filter(|(to, _)| *to != self.rank).map(|(_, part)| part.len()).sum();
        let bytes: usize = if let [same] = parts { same.len() * (self.size - 1) } else { to_others(parts) };
        log.cost.bytes += bytes as u64;
        let label = Label::new(log.cost.exchanges, what);
        log.last[self.rank] = label;
        label
    }

    /// Takes the label off what another rank has sent.
    fn opened(&self, from: usize, mut message: Vec<u8>) -> Result<Vec<u8>> {
        let len = message.len().saturating_sub(Label::LEN);
        let Ok(theirs) = <[u8; Label::LEN]>::try_from(&message[len..]) else {
            return Err(self.error(format!("rank {from} has sent {} bytes, too few for a label", message.len())));
        };
        message.truncate(len);
        let mut log = self.log();
        log.last[from] = Label(theirs);
        let ours = log.last[self.rank];
        if ours.0 == theirs {
            return Ok(message);
        }
        Err(self.error(format!("out of step: rank {} is at {ours}, rank {from} at {}; is it the same program?", self.rank, Label(theirs))))
    }

    /// A rank that has not sent what it should have.
    fn missing(&self, from: usize, how: &str) -> Error {
        let log = self.log();
        let advice = "look at its machine, then go on with --resume auto";
        self.error(format!(
            "rank {from} {how}; this rank waits in {}, the last that came from rank {from} was {}: {advice}",
            log.last[self.rank], log.last[from]
        ))
    }

    fn too_late(&self, from: usize) -> Error {
        self.missing(from, &format!("has not answered for {} s (--rank-timeout)", self.patience.as_secs_f64()))
    }

    fn error(&self, problem: String) -> Error {
        Error::Ranks { rank: self.rank, problem }
    }
}

impl Ranks {
    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.group().map_or(0, |group| group.rank)
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.group().map_or(1, |group| group.size)
    }

    /// Whether there is no other rank.
    pub fn is_alone(&self) -> bool {
        matches!(self, Ranks::Alone)
    }

    /// What the exchanges have cost so far.
    pub fn cost(&self) -> Cost {
        self.group().map_or_else(Cost::default, |group| group.log().cost)
    }

    fn group(&self) -> Option<&Group> {
        match self {
            Ranks::Alone => None,
            Ranks::Threads(threads) => Some(&threads.group),
            #[cfg(feature = "mpi")]
            Ranks::Mpi(mpi) => Some(&mpi.group),
            Ranks::Nccl(nccl) => Some(&nccl.group),
        }
    }

    /// An empty buffer with room for a message of `len` bytes.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.group().map_or_else(Vec::new, |group| group.buffer(len + Label::LEN));
        buffer.clear();
        buffer
    }

    /// Takes back a message that has been read, for later calls.
    pub(crate) fn recycle(&self, message: Vec<u8>) {
        if let Some(group) = self.group() {
            group.recycle(message);
        }
    }

    /// Sends to every rank what is meant for it, and gives what each has sent to this one, by rank. `parts` is one message a rank, or a
    /// single one for all of them; `what` names the call.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is at another call, is gone, or keeps this one waiting for too long.
    pub fn exchange(&self, what: &str, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let Some(group) = self.group() else { return Ok(parts) };
        if parts.len() != 1 && parts.len() != group.size {
            return Err(Error::shape(what, group.size, parts.len()));
        }
        let label = group.begin(what, &parts);
        let sealed: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|mut part| {
                part.extend_from_slice(&label.0);
                part
            })
            .collect();
        let messages = match self {
            Ranks::Alone => sealed,
            Ranks::Threads(threads) => threads.swap(sealed)?,
            #[cfg(feature = "mpi")]
            Ranks::Mpi(mpi) => mpi.swap(sealed),
            Ranks::Nccl(nccl) => nccl.swap(what, sealed)?,
        };
        messages.into_iter().enumerate().map(|(from, message)| group.opened(from, message)).collect()
    }

    /// What each rank gives to all, by rank.
    ///
    /// # Errors
    /// As [`Ranks::exchange`].
    pub fn gather(&self, what: &str, ours: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.exchange(what, vec![ours])
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// As [`Ranks::exchange`].
    pub fn meet(&self, what: &str) -> Result<()> {
        self.gather(what, Vec::new()).map(drop)
    }

    /// Adds integers over all ranks.
    ///
    /// # Errors
    /// As [`Ranks::exchange`]; [`Error::ShapeMismatch`] if they are not equally many on each.
    pub fn add(&self, what: &str, values: &mut [i128]) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let bytes = values.len() * 16;
        let parts = self.gather(what, values.iter().flat_map(|value| value.to_ne_bytes()).collect())?;
        values.fill(0);
        for part in parts {
            if part.len() != bytes {
                return Err(Error::shape(what, bytes, part.len()));
            }
            let theirs = part.chunks_exact(16).map(bytemuck::pod_read_unaligned::<i128>);
            values.iter_mut().zip(theirs).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    /// Whether it holds on any rank.
    ///
    /// # Errors
    /// As [`Ranks::exchange`].
    pub fn any(&self, what: &str, ours: bool) -> Result<bool> {
        if self.is_alone() {
            return Ok(ours);
        }
        Ok(self.gather(what, vec![u8::from(ours)])?.iter().any(|theirs| theirs[..] != [0]))
    }
}
