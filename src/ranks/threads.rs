//! Ranks that are threads of one process: every rule of the others, without a launcher.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Group, Ranks};
use crate::error::{Error, Result};

/// One rank of a group of threads.
#[derive(Debug)]
pub struct Threads {
    pub(super) group: Group,
    /// By rank; of this one, too.
    to: Vec<Sender<Vec<u8>>>,
    from: Mutex<Vec<Receiver<Vec<u8>>>>,
}

impl Threads {
    /// A group of `size` ranks, each for a thread of its own; a rank waits at most `patience` for another.
    pub fn group(size: usize, patience: Duration) -> Vec<Ranks> {
        let mut to: Vec<Vec<Sender<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
        let mut from: Vec<Vec<Receiver<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
        for receivers in &mut from {
            for senders in &mut to {
                let (sender, receiver) = channel();
                senders.push(sender);
                receivers.push(receiver);
            }
        }
        let rank = |(rank, (to, from))| Threads { group: Group::new(rank, size, patience), to, from: Mutex::new(from) };
        to.into_iter().zip(from).enumerate().map(rank).map(|rank| Ranks::Threads(Arc::new(rank))).collect()
    }

    /// One message a rank, or one for all; gives those of all, by rank.
    pub(super) fn swap(&self, messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let begin = Instant::now();
        for (rank, to) in self.to.iter().enumerate() {
            // A rank that is gone is told of below, where it is waited for.
            let _ = to.send(messages[rank.min(messages.len() - 1)].clone());
        }
        let from = self.from.lock().map_err(|_| self.group.error("an earlier call has failed".into()))?;
        let wait = |(rank, from): (usize, &Receiver<Vec<u8>>)| {
            from.recv_timeout(self.group.patience).map_err(|e| -> Error {
                match e {
                    RecvTimeoutError::Timeout => self.group.too_late(rank),
                    RecvTimeoutError::Disconnected => self.group.missing(rank, "is gone"),
                }
            })
        };
        let messages = from.iter().enumerate().map(wait).collect();
        self.group.spent(begin, Instant::now());
        messages
    }
}
