//! What has to be the same on all ranks before the first step: program, settings, data.

use md5::{Digest, Md5};

use super::Ranks;
use crate::error::{Error, Result};

/// Compares what all ranks say of themselves, names with values. The first difference from rank 0 is an error on every rank.
///
/// # Errors
/// [`Error::Ranks`] naming what differs, with both values; those of [`Ranks::exchange`].
pub fn handshake(ranks: &Ranks, ours: &[(String, String)]) -> Result<()> {
    let unreadable = |e: serde_json::Error| Error::Ranks { rank: ranks.rank(), problem: format!("handshake: {e}") };
    let bytes = serde_json::to_vec(ours).map_err(unreadable)?;
    let mut first: Vec<(String, String)> = Vec::new();
    for (rank, part) in ranks.gather("handshake", bytes)?.iter().enumerate() {
        let theirs: Vec<(String, String)> = serde_json::from_slice(part).map_err(unreadable)?;
        if rank == 0 {
            first = theirs;
        } else if let Some(problem) = difference(rank, &first, &theirs) {
            return Err(Error::Ranks { rank: ranks.rank(), problem });
        }
    }
    Ok(())
}

fn difference(rank: usize, first: &[(String, String)], theirs: &[(String, String)]) -> Option<String> {
    let of = |list: &[(String, String)], name: &str| {
        let found = list.iter().find(|(other, _)| other == name);
        found.map_or_else(|| "nothing".to_string(), |(_, value)| value.clone())
    };
    first.iter().chain(theirs).find_map(|(name, _)| {
        let (a, b) = (of(first, name), of(theirs, name));
        (a != b).then(|| format!("{name} is {a} on rank 0 and {b} on rank {rank}: start all ranks with the same program and settings"))
    })
}

/// MD5 of the program that runs, in hexadecimal; a text that says so where the system does not let it be read.
pub fn executable() -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(std::env::current_exe()?)?;
        let mut hasher = Md5::new();
        std::io::copy(&mut file, &mut hasher)?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    read().unwrap_or_else(|e| format!("unknown ({e})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_with_both_values() {
        let list = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
        let first = list(&[("version", "1"), ("lr", "0.1"), ("slices", "4")]);
        assert_eq!(difference(1, &first, &first), None);
        let cases = [
            (list(&[("version", "1"), ("lr", "0.2"), ("slices", "8")]), "lr is 0.1 on rank 0 and 0.2 on rank 2"),
            (list(&[("version", "1"), ("lr", "0.1")]), "slices is 4 on rank 0 and nothing on rank 2"),
            (list(&[("version", "1"), ("lr", "0.1"), ("slices", "4"), ("ema", "0.9")]), "ema is nothing on rank 0 and 0.9 on rank 2"),
        ];
        for (theirs, expected) in cases {
            let text = difference(2, &first, &theirs).unwrap();
            assert!(text.starts_with(expected), "{text}");
        }
    }
}
