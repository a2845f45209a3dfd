//! Many damaged copies of a file, and an allocator that counts what reading each of them takes.

#![allow(dead_code)] // each test uses a part of it

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

/// Damaged files of a reader.
pub const EACH: u64 = 100_000;

/// Counts the bytes that each thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: all is handed to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held on this thread beyond what was held before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = work();
    (result, (MOST.get() - before) as usize)
}

/// Numbers that look random, from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// A file with one to three kinds of damage.
fn damaged(good: &[u8], seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut bytes = good.to_vec();
    for _ in 0..=dice.below(3) {
        // Headers are hit more often than their share.
        let reach = if dice.below(2) == 0 { 64.min(bytes.len()) } else { bytes.len() };
        let at = dice.below(reach);
        match dice.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..(at + 1 + dice.below(40)).min(bytes.len()))),
            2 => {
                let new: Vec<u8> = (0..=dice.below(20)).map(|_| dice.next() as u8).collect();
                bytes.splice(at..at, new);
            }
            3 => {
                let huge = [&[0xff; 4][..], &[0x7f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0x7f], &[0, 1, 0, 0], &[0xff, 0xff]];
                for (to, &byte) in bytes[at..].iter_mut().zip(huge[dice.below(5)]) {
                    *to = byte;
                }
            }
            4 => {
                let end = (at + dice.below(200)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
    }
    bytes
}

/// Reads `n` damaged copies of a file; each takes at most `bound` bytes, of the length of the copy. Gives how many could be read.
pub fn survives(what: &str, n: u64, good: &[u8], read: impl Fn(&[u8]) -> bool + Sync, bound: impl Fn(usize) -> usize + Sync) -> usize {
    assert!(read(good), "{what}: the good file");
    let one = |seed: u64| {
        let bytes = damaged(good, seed);
        let (ok, most) = peak(|| read(&bytes));
        assert!(most <= bound(bytes.len()), "{what}, seed {seed}: {most} bytes for a file of {}", bytes.len());
        usize::from(ok)
    };
    (0..n).into_par_iter().map(one).sum()
}

/// A file of its own for each thread, in memory where the system has such a place.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub fn on_disk(folder: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(format!("{:?}", std::thread::current().id()).replace(['(', ')'], "_"));
    std::fs::write(&path, bytes).unwrap();
    path
}
