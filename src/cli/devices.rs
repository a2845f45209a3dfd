//! `--devices`: which devices are meant, and what the processes that share work on them need to be started.

use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::Context;

use crate::device::driver;
use crate::error::{Error, Result};

/// Devices as the user names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    All,
    These(Vec<usize>),
}

/// A process among those that `--devices` has started, one a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    pub rank: usize,
    pub size: usize,
}

/// `all`, or `cuda:` with numbers and ranges: `cuda:0,1`, `cuda:0-3,6`.
pub fn parse(text: &str) -> std::result::Result<Devices, String> {
    if text == "all" {
        return Ok(Devices::All);
    }
    let wrong = || "give all, or devices as cuda:0,1 or cuda:0-3".to_string();
    let mut numbers = Vec::new();
    for part in text.strip_prefix("cuda:").ok_or_else(wrong)?.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let [first, last] = [first, last].map(|number| number.parse::<u16>().ok());
        let (Some(first), Some(last)) = (first, last) else { return Err(wrong()) };
        if first > last {
            return Err(format!("{part}: a range goes up"));
        }
        numbers.extend((first..=last).map(usize::from));
    }
    let mut once = numbers.clone();
    once.sort_unstable();
    once.dedup();
    if once.len() < numbers.len() { Err("a device is named twice".into()) } else { Ok(Devices::These(numbers)) }
}

/// `0/2` for the first of two.
pub fn parse_rank(text: &str) -> std::result::Result<Rank, String> {
    let numbers = text.split_once('/').and_then(|(rank, size)| Some((rank.parse().ok()?, size.parse().ok()?)));
    let rank = numbers.map(|(rank, size)| Rank { rank, size });
    rank.filter(|Rank { rank, size }| rank < size).ok_or_else(|| "give RANK/SIZE".into())
}

/// Number and name of each device that is meant.
///
/// # Errors
/// [`Error::Device`] for one that the driver does not list.
pub fn resolved(wanted: &Devices) -> Result<Vec<(usize, String)>> {
    let listed = driver::devices()?;
    let numbers = match wanted {
        Devices::All => (0..listed.len()).collect(),
        Devices::These(numbers) => numbers.clone(),
    };
    let named = |number: usize| {
        let missing = || {
            let problem = format!("there is no such device; the driver lists {} (dsr info)", listed.len());
            Error::device(format!("cuda:{number}"), problem)
        };
        listed.get(number).map(|device| (number, device.name.clone())).ok_or_else(missing)
    };
    numbers.into_iter().map(named).collect()
}

/// Where the processes can meet: a port of this machine that is free now. If another program takes it, rank 0 says so.
///
/// # Errors
/// That of the system, if it gives no port.
pub fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(listener.context("no port for the ranks to meet")?.to_string())
}

/// The program that each of them is.
///
/// # Errors
/// That of the system, if it does not say.
pub fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("this program does not find itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbers_and_ranges() {
        let cases: [(&str, &[usize]); 4] =
            [("cuda:0,1", &[0, 1]), ("cuda:3", &[3]), ("cuda:0-3", &[0, 1, 2, 3]), ("cuda:4,0-1", &[4, 0, 1])];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(Devices::These(expected.to_vec())), "{text}");
        }
        assert_eq!(parse("all"), Ok(Devices::All));
        for text in ["", "cuda", "cuda:", "cuda:0,", "cuda:a", "cuda:-1", "cuda:3-1", "cuda:0,0", "cuda:0-2,1", "cpu", "0,1", "cuda:70000"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rank_is_below_their_number() {
        assert_eq!(parse_rank("1/2"), Ok(Rank { rank: 1, size: 2 }));
        for text in ["2/2", "1", "/", "a/2", "-1/2"] {
            assert!(parse_rank(text).is_err(), "{text}");
        }
    }
}
