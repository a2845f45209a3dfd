//! TensorBoard event files: TFRecords with masked CRC-32C, each record one `Event` message.
//!
//! Only scalars are written, so the few protobuf fields are encoded by hand.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::atomic_file::refused;
use crate::error::{Error, Result};

/// How the names begin that TensorBoard looks for.
pub const EVENTS: &str = "events.out.tfevents.";

/// Name that TensorBoard looks for, of a file begun at `unix_seconds`.
pub fn file_name(unix_seconds: u64) -> String {
    format!("{EVENTS}{unix_seconds:010}.{}", host())
}

/// A name for a new event file in `folder`, begun at `unix_seconds`. TensorBoard reads files in the order of their names, so it comes
/// after all others there, also if the clock was set back.
pub fn free_name(folder: &Path, unix_seconds: f64) -> PathBuf {
    let seconds_of = |name: &str| name.strip_prefix(EVENTS)?.split('.').next()?.parse::<u64>().ok();
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let last = names.filter_map(|name| seconds_of(&name)).max();
    let seconds = last.map_or(0, |last| last.saturating_add(1)).max(unix_seconds as u64);
    folder.join(file_name(seconds))
}

/// Whether there are TensorBoard's files in `folder`.
pub(crate) fn has_events(folder: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(EVENTS.as_bytes()))))
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Name of this machine, made fit for a file name.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let name: String = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    if name.is_empty() { "localhost".to_string() } else { name }
}

/// The record that every event file begins with.
pub fn version_record(wall_time: f64) -> Vec<u8> {
    let mut event = event_at(wall_time);
    bytes_field(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// The record that tells TensorBoard to forget what earlier files of the folder say of `step` and later ones: the start of a session
/// (`SessionLog` with status `START`), as `SummaryWriter(purge_step=…)` of PyTorch writes it.
pub fn session_record(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = event_at(wall_time);
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    bytes_field(&mut event, 7, b"\x08\x01");
    record(&event)
}

/// The record of scalars measured at `step`; `wall_time` in seconds since 1970.
pub fn scalars_record(wall_time: f64, step: u64, scalars: &[(&str, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        bytes_field(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, FIXED32);
        entry.extend(value.to_le_bytes());
        bytes_field(&mut summary, 1, &entry);
    }
    let mut event = event_at(wall_time);
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    bytes_field(&mut event, 5, &summary);
    record(&event)
}

/// Adds a record to the file at `path`; on failure the file is as long as before.
///
/// # Errors
/// [`crate::error::Error`] with the path and what the operating system refused.
pub fn append(path: &Path, record: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().append(true).open(path).map_err(|e| refused(path, e))?;
    let before = file.metadata().map_err(|e| refused(path, e))?.len();
    file.write_all(record).and_then(|()| file.sync_data()).map_err(|e| {
        let _ = file.set_len(before); // half a record would hide all later ones from TensorBoard
        refused(path, e)
    })
}

/// Length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

fn event_at(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED64);
    event.extend(wall_time.to_le_bytes());
    event
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, BYTES);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits a byte, least significant first, high bit set on all but the last.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
