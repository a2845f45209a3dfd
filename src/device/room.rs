//! How much memory this process may still take on the host, and the refusal of what does not fit before any of it is taken.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// More bytes than any machine has: sizes below it can be multiplied out in elements without an overflow.
pub const MOST: u64 = 1 << 50;

/// A part of what the system has that is left to others: they ask for memory, too, and pages of programs that run are counted as free.
/// Who takes all of it is ended by the system without a word.
const LEFT_TO_OTHERS: u64 = 16;

/// Bytes that are going to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Of memory that will be written, so that it has to be there.
    pub written: u64,
    /// Of addresses that are only set aside.
    pub reserved: u64,
}

/// What is still free; [`MOST`] where the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of memory: most of what the machine has left, and no more than a control group allows.
    pub memory: u64,
    /// Bytes of addresses that a limit of the process (`ulimit -v`) leaves.
    pub addresses: u64,
}

impl Room {
    /// Of this process, now.
    pub fn now() -> Room {
        let memory = [available(), limit_of_group()].into_iter().flatten().min();
        Room { memory: memory.unwrap_or(MOST).min(MOST), addresses: free_addresses().unwrap_or(MOST).min(MOST) }
    }

    /// Room without an end but [`MOST`], for work whose memory is not that of the host.
    pub fn elsewhere() -> Room {
        Room { memory: MOST, addresses: MOST }
    }

    /// Refuses `what` if it needs more than there is; `remedy` says what to lower.
    ///
    /// # Errors
    /// [`Error::Config`] with both numbers.
    pub fn check(&self, needed: Bytes, what: &str, remedy: &str) -> Result<()> {
        let all = needed.written.saturating_add(needed.reserved);
        let pairs = [(needed.written, self.memory), (all, self.addresses)];
        let Some((needed, free)) = pairs.into_iter().find(|(needed, free)| needed > free) else { return Ok(()) };
        let free = if free == MOST { "no machine has that".into() } else { format!("{} are free", in_words(free)) };
        Err(Error::config("memory", format!("{what} needs at least {}, and {free}: {remedy}", in_words(needed))))
    }
}

fn in_words(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e15 => "a million GB".into(),
        bytes if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        bytes => format!("{:.0} MB", bytes / 1e6),
    }
}

/// The number behind a name in a list such as that of /proc/meminfo, which counts in kB.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024))
}

/// What the machine can give without taking it from somebody else, and what can be moved to the disk, less a part.
fn available() -> Option<u64> {
    available_of(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_of(text: &str) -> Option<u64> {
    let all = kilobytes(text, "MemAvailable:")?.saturating_add(kilobytes(text, "SwapFree:").unwrap_or(0));
    Some(all - all / LEFT_TO_OTHERS)
}

/// What the control groups of this process allow it; a part may be taken already.
fn limit_of_group() -> Option<u64> {
    const ROOT: &str = "/sys/fs/cgroup";
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let folder = Path::new(ROOT).join(own);
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok(); // "max" is none
    let files = folder.ancestors().take_while(|folder| folder.starts_with(ROOT)).map(|folder| folder.join("memory.max"));
    // Groups of the first version have a tree for memory alone.
    files.chain([Path::new(ROOT).join("memory/memory.limit_in_bytes")]).filter_map(limit).min()
}

/// Addresses within a limit of the process, less the memory that it has.
fn free_addresses() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?; // "unlimited" is none
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(limit.saturating_sub(kilobytes(&status, "VmRSS:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let room = Room { memory: 2_000_000_000, addresses: 3_000_000_000 };
        let bytes = |written, reserved| Bytes { written, reserved };
        room.check(bytes(2_000_000_000, 1_000_000_000), "a network", "").unwrap();
        let refused = |needed| room.check(needed, "a network", "lower -b").unwrap_err().to_string();
        assert_eq!(refused(bytes(2_000_000_001, 0)), "memory: a network needs at least 2.0 GB, and 2.0 GB are free: lower -b");
        assert_eq!(refused(bytes(1_000_000, 3_100_000_000)), "memory: a network needs at least 3.1 GB, and 3.0 GB are free: lower -b");
        assert!(refused(bytes(u64::MAX, u64::MAX)).contains("needs at least a million GB"));
        let beyond = Room::elsewhere().check(bytes(MOST + 1, 0), "a network", "lower -b").unwrap_err().to_string();
        assert_eq!(beyond, "memory: a network needs at least a million GB, and no machine has that: lower -b");
    }

    #[test]
    fn numbers_are_found_by_name() {
        let text = "MemTotal:       24689764 kB\nMemAvailable:   24000000 kB\nSwapFree: 5 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable:"), Some(24_000_000 * 1024));
        assert_eq!(kilobytes(text, "Swap:"), None);
        // 23.0 of 24.6 GB: a run that takes more may be the one that the system ends.
        assert_eq!(available_of(text), Some(24_000_005 * 1024 / 16 * 15));
        let room = Room::now();
        assert!(room.memory > 0 && room.addresses > 0 && room.memory <= MOST, "{room:?}");
    }
}
