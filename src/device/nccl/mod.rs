//! Collectives between the GPUs of several processes, by NVIDIA's NCCL: one process a GPU, one rank a process.
//!
//! Floats only travel, they are never added here: NCCL's sums have an order of their own, so [`Communicator::all_reduce`] takes
//! integers, which need none. Sums of floats are taken by whoever gathers the parts.
//!
//! Nothing waits without an end. A communicator does not block (`ncclConfig_t::blocking` is 0): calls return at once,
//! [`Communicator::wait`] asks the device and NCCL until a deadline, and then gives up for all that is in flight.
//!
//! Ranks meet by NCCL's own bootstrap, at the address in `NCCL_COMM_ID`; [`meeting_address`] says which it is. No transport is ours.

mod communicator;
mod library;

use bytemuck::Pod;

pub use communicator::Communicator;
pub use library::{Nccl, load};

use crate::error::{Error, Result};

/// The variable from which NCCL takes the address where ranks meet: rank 0 listens there.
pub const MEETING: &str = "NCCL_COMM_ID";

/// What the ranks of one communicator have in common.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Id([u8; 128]);

impl Id {
    /// A new one: this process listens for the ranks, and the bytes must be brought to them (by MPI, say).
    ///
    /// # Errors
    /// Those of [`load`], and [`Error::Device`] if NCCL finds no address to listen at.
    pub fn new() -> Result<Id> {
        load()?.unique_id()
    }

    /// That of the address in `NCCL_COMM_ID`, the same in every process; rank 0 listens there once its communicator is made.
    ///
    /// # Errors
    /// [`Error::Config`] if the variable is not set, and those of [`load`].
    pub fn of_environment() -> Result<Id> {
        if std::env::var_os(MEETING).is_none_or(|address| address.is_empty()) {
            let remedy = "set it to HOST:PORT, the same for all ranks, with a free port of the machine of rank 0";
            return Err(Error::config(MEETING, format!("is not set, so ranks do not know where to meet: {remedy}")));
        }
        load()?.unique_id()
    }

    pub fn bytes(&self) -> &[u8; 128] {
        &self.0
    }

    pub fn from_bytes(bytes: [u8; 128]) -> Id {
        Id(bytes)
    }
}

/// Where ranks meet, by the variables that a launcher sets: `NCCL_COMM_ID`, else `MASTER_ADDR` and the port after `MASTER_PORT`
/// (torchrun's agent listens at that port itself). None without either. It belongs into `NCCL_COMM_ID` before a process starts.
///
/// # Errors
/// [`Error::Config`] for a port that is none.
pub fn meeting_address(variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(address) = variable(MEETING) {
        return Ok(Some(address));
    }
    let (Some(host), Some(port)) = (variable("MASTER_ADDR"), variable("MASTER_PORT")) else { return Ok(None) };
    let next = port.trim().parse::<u16>().ok().filter(|port| *port > 0).and_then(|port| port.checked_add(1));
    let next =
        next.ok_or_else(|| Error::config("MASTER_PORT", format!("{port:?} is not in 1..=65534; ranks meet at the port after it")))?;
    // An IPv6 address needs brackets before a port.
    Ok(Some(if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{next}") } else { format!("{host}:{next}") }))
}

/// What travels.
pub trait Element: Pod {
    /// Number of the type in NCCL (`ncclDataType_t`).
    const TYPE: i32;
    const NAME: &'static str;
}

/// What can be added in any order: sums wrap around.
pub trait Integer: Element {}

macro_rules! elements {
    ($($element:ty = $number:literal),*) => { $(
        impl Element for $element {
            const TYPE: i32 = $number;
            const NAME: &'static str = stringify!($element);
        }
    )* };
}
elements!(u8 = 1, i32 = 2, u32 = 3, i64 = 4, u64 = 5, f32 = 7, f64 = 8);

impl Integer for i32 {}
impl Integer for u32 {}
impl Integer for i64 {}
impl Integer for u64 {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_meet_where_the_launcher_says() {
        let cases: [(&[(&str, &str)], Option<&str>); 6] = [
            (&[], None),
            (&[("MASTER_ADDR", "node1")], None),
            (&[("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")], Some("node1:29501")),
            (&[("MASTER_ADDR", "fe80::1"), ("MASTER_PORT", "1")], Some("[fe80::1]:2")),
            (&[("NCCL_COMM_ID", "a:1"), ("MASTER_ADDR", "b"), ("MASTER_PORT", "2")], Some("a:1")),
            (&[("NCCL_COMM_ID", ""), ("MASTER_ADDR", "b"), ("MASTER_PORT", "2")], Some("b:3")),
        ];
        let of =
            |set: &[(&str, &str)]| meeting_address(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()));
        for (set, expected) in cases {
            assert_eq!(of(set).unwrap().as_deref(), expected, "{set:?}");
        }
        for port in ["65535", "0", "port", "-1"] {
            let error = of(&[("MASTER_ADDR", "a"), ("MASTER_PORT", port)]).unwrap_err().to_string();
            assert!(error.starts_with("MASTER_PORT: ") && error.contains(port), "{error}");
        }
    }
}
