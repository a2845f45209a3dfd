//! Ranks that are processes with a CUDA device each, by NCCL.
//!
//! What the hosts tell each other is bytes in device memory: first how many, then these. What kernels of a step add up goes from device
//! to device and is recorded with the step (`network/cuda/across_ranks.rs`); both are collectives of one communicator, in one order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Cost, Group, Ranks};
use crate::device::nccl::{Communicator, Id};
use crate::device::{Gpu, Memory, Slice};
use crate::error::{Error, Result};

/// This process among those of its group.
#[derive(Debug)]
pub struct Nccl {
    pub(super) group: Group,
    communicator: Arc<Communicator>,
    /// Room for what is sent and for what comes, as large as it had to be so far.
    rooms: Mutex<[Memory<u8>; 2]>,
    /// Numbers of bytes: of this rank's messages, and of those of all.
    lengths: [Memory<u64>; 2],
}

impl Nccl {
    /// Meets the other ranks at the address in `NCCL_COMM_ID`, and opens all connections; another rank may keep this one waiting for
    /// `patience`.
    ///
    /// # Errors
    /// As [`Id::of_environment`] and [`Communicator::new`].
    pub fn join(gpu: &Arc<Gpu>, [rank, size]: [usize; 2], patience: Duration) -> Result<Ranks> {
        let communicator = Arc::new(Communicator::new(gpu, rank, size, Id::of_environment()?, patience)?);
        Nccl::of(communicator, patience)
    }

    /// The group of a communicator; opens all connections.
    ///
    /// # Errors
    /// As [`Communicator::connect`].
    pub fn of(communicator: Arc<Communicator>, patience: Duration) -> Result<Ranks> {
        communicator.connect()?;
        let (gpu, rank, size) = (communicator.gpu(), communicator.rank(), communicator.size());
        let rooms = Mutex::new([gpu.zeroed(0)?, gpu.zeroed(0)?]);
        let lengths = [gpu.zeroed(size)?, gpu.zeroed(size * size)?];
        Ok(Ranks::Nccl(Arc::new(Nccl { group: Group::new(rank, size, patience), communicator, rooms, lengths })))
    }

    /// For what kernels add up.
    pub fn communicator(&self) -> &Communicator {
        &self.communicator
    }

    /// What a recorded step exchanges every time it is launched.
    pub fn count(&self, cost: Cost) {
        let mut log = self.group.log();
        log.cost.exchanges += cost.exchanges;
        log.cost.bytes += cost.bytes;
    }

    /// Waits until everything that was issued is done, at most as long as another rank may take.
    ///
    /// # Errors
    /// [`Error::Ranks`] that says with which collective another rank keeps this one waiting.
    pub fn wait(&self, what: &str) -> Result<()> {
        self.communicator.wait(self.group.patience).map_err(|e| self.told(what, &e))
    }

    fn told(&self, what: &str, error: &Error) -> Error {
        self.group.error(format!("waits in '{what}': {error}"))
    }

    /// One message a rank, or one for all; gives those of all, by rank.
    pub(super) fn swap(&self, what: &str, messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let begin = Instant::now();
        let (Group { rank: own, size, .. }, gpu) = (&self.group, self.communicator.gpu());
        let (own, size) = (*own, *size);
        let to = |rank: usize| &messages[rank.min(messages.len() - 1)];
        let [ours, all] = [self.lengths[0].slice(), self.lengths[1].slice()];
        gpu.upload(&(0..size).map(|rank| to(rank).len() as u64).collect::<Vec<_>>(), ours)?;
        self.communicator.after_compute()?;
        self.communicator.all_gather(ours, all)?;
        self.wait(what)?;
        let came = Instant::now();
        let mut lengths = vec![0u64; size * size];
        gpu.download(all, &mut lengths)?;
        let lengths: Vec<usize> = (0..size).map(|from| if from == own { 0 } else { lengths[from * size + own] as usize }).collect();

        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner); // bytes that the next call writes anew
        let sent: usize = messages.iter().map(Vec::len).sum();
        for (room, needed) in rooms.iter_mut().zip([sent, lengths.iter().sum()]) {
            if room.slice().len() < needed {
                *room = gpu.zeroed(needed.next_power_of_two())?;
            }
        }
        let [from_here, to_here] = [rooms[0].slice(), rooms[1].slice()];
        gpu.upload(&messages.concat(), from_here.part(0..sent))?;
        let starts = |lengths: &mut dyn Iterator<Item = usize>| -> Vec<std::ops::Range<usize>> {
            let mut end = 0;
            lengths.map(|len| (end, end += len).0..end).collect()
        };
        let sends = starts(&mut messages.iter().map(Vec::len));
        let receives = starts(&mut lengths.iter().copied());
        let of_others = |rank: usize, slice: Slice<u8>| if rank == own { Slice::NONE } else { slice };
        let sends: Vec<Slice<u8>> = (0..size).map(|to| of_others(to, from_here.part(sends[to.min(sends.len() - 1)].clone()))).collect();
        let parts: Vec<Slice<u8>> = (0..size).map(|from| of_others(from, to_here.part(receives[from].clone()))).collect();
        self.communicator.after_compute()?;
        self.communicator.all_to_all(&sends, &parts)?;
        self.wait(what)?;
        let mut bytes = vec![0; receives.last().map_or(0, |last| last.end)];
        gpu.download(to_here.part(0..bytes.len()), &mut bytes)?;
        self.group.spent(begin, came);
        Ok((0..size).map(|from| if from == own { to(own).clone() } else { bytes[receives[from].clone()].to_vec() }).collect())
    }
}

impl Ranks {
    /// The group's communicator, where each of its processes has a CUDA device.
    pub fn nccl(&self) -> Option<&Nccl> {
        if let Ranks::Nccl(nccl) = self { Some(nccl) } else { None }
    }
}
