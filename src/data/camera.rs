//! What an event camera says.

/// Pixels a side of the camera.
pub const SIDE: usize = 128;

/// A pixel that became brighter or darker, in the orientation `dsr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Microseconds, from any start.
    pub time: i64,
    /// Column, below [`SIDE`].
    pub x: u8,
    /// Row, below [`SIDE`].
    pub y: u8,
    /// 1 for brighter, 0 for darker.
    pub polarity: u8,
}
