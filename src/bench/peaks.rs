//! What the processor can do at most, measured: f32 multiply-accumulates in a large matrix product, bytes in large buffers, and
//! integer additions with everything in the first cache.

use gemm::Parallelism;
use rayon::prelude::*;
use serde::Serialize;

use super::times::{Limits, repeat, timed};
use crate::device::Isa;
use crate::error::Result;
use crate::per_isa;

/// Rows and columns of the matrices.
const N: usize = 1024;

/// A product of two square matrices on all threads.
pub struct Product {
    left: Vec<f32>,
    right: Vec<f32>,
    out: Vec<f32>,
}

impl Default for Product {
    fn default() -> Self {
        Product { left: vec![1.0; N * N], right: vec![0.5; N * N], out: vec![0.0; N * N] }
    }
}

impl Product {
    /// Floating-point operations of one product: a multiply-accumulate is two.
    pub const OPERATIONS: u64 = 2 * (N * N * N) as u64;

    /// Computes the product; every element of it is `N / 2`.
    pub fn run(&mut self) -> &[f32] {
        let Product { left, right, out } = self;
        let (row, column) = (N as isize, 1);
        // SAFETY: all three matrices are N x N with these strides, and `out` is borrowed mutably.
        unsafe {
            gemm::gemm(
                N,
                N,
                N,
                out.as_mut_ptr(),
                column,
                row,
                false,
                left.as_ptr(),
                column,
                row,
                right.as_ptr(),
                column,
                row,
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
        out
    }
}

/// Two buffers, each several times as large as the last cache, that all threads go through.
pub struct Copying {
    from: Vec<u32>,
    to: Vec<u32>,
}

impl Default for Copying {
    fn default() -> Self {
        let len = beyond_caches() / 4;
        Copying { from: vec![1; len], to: vec![0; len] }
    }
}

/// Elements of a buffer that a thread takes at once.
const PART: usize = 1 << 18;

impl Copying {
    /// Bytes that are read and written.
    pub fn bytes(&self) -> u64 {
        8 * self.from.len() as u64
    }

    /// Copies the first to the second.
    pub fn run(&mut self) -> &[u32] {
        let parts = self.to.par_chunks_mut(PART).zip(self.from.par_chunks(PART));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
        &self.to
    }

    /// Adds to the first buffer in place, which moves bytes that a copy does not count: a line that is written is read first.
    pub fn update(&mut self) -> &[u32] {
        self.from.par_chunks_mut(PART).for_each(|part| part.iter_mut().for_each(|value| *value = value.wrapping_add(1)));
        &self.from
    }
}

/// Rows of a table that the first cache holds, each added to the sum of all before it: on every thread, a table of its own.
pub struct Adding<T> {
    tables: Vec<Vec<T>>,
}

/// Elements of a row, and rows of a table.
const ROW: usize = 64;
const ROWS: usize = 64;
/// How often a table is gone through in one run.
const ROUNDS: usize = 2000;

impl<T: Copy + Default + Send + Sync> Adding<T> {
    /// Tables of `one`, one a thread.
    pub fn new(one: T) -> Self {
        Adding { tables: vec![vec![one; ROW * ROWS]; rayon::current_num_threads()] }
    }

    /// Additions of one run.
    pub fn operations(&self) -> u64 {
        (self.tables.len() * ROUNDS * ROWS * ROW) as u64
    }

    fn sums(&self, add: impl Fn(&[T], &mut [T; ROW]) + Sync) -> Vec<[T; ROW]> {
        let of_table = |table: &Vec<T>| {
            let mut sum = [T::default(); ROW];
            for _ in 0..ROUNDS {
                add(std::hint::black_box(table), &mut sum);
            }
            sum
        };
        self.tables.par_iter().map(of_table).collect()
    }
}

impl Adding<i32> {
    /// Sums of each thread's rows.
    pub fn run(&self, isa: Isa) -> Vec<[i32; ROW]> {
        self.sums(|table, sum| add_rows_i32(isa, table, sum))
    }
}

impl Adding<i16> {
    /// The same, modulo 2^16.
    pub fn run(&self, isa: Isa) -> Vec<[i16; ROW]> {
        self.sums(|table, sum| add_rows_i16(isa, table, sum))
    }
}

per_isa! {
    /// Adds rows `[n][64]` to their sum, in 32 bits.
    pub fn add_rows_i32(rows: &[i32], sum: &mut [i32; 64]) {
        let mut total = *sum;
        for row in rows.as_chunks::<ROW>().0 {
            for i in 0..ROW {
                total[i] = total[i].wrapping_add(row[i]);
            }
        }
        *sum = total;
    }
}

per_isa! {
    /// Adds rows `[n][64]` to their sum, in 16 bits.
    pub fn add_rows_i16(rows: &[i16], sum: &mut [i16; 64]) {
        let mut total = *sum;
        for row in rows.as_chunks::<ROW>().0 {
            for i in 0..ROW {
                total[i] = total[i].wrapping_add(row[i]);
            }
        }
        *sum = total;
    }
}

/// Bytes that do not fit the caches: four times the last one, at least 64 MiB.
pub fn beyond_caches() -> usize {
    const LEAST: usize = 64 << 20;
    const MOST: usize = 1 << 30;
    let size = |index: usize| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok().map(|kib| kib << 10)
    };
    (0..8).filter_map(size).max().unwrap_or(0).saturating_mul(4).clamp(LEAST, MOST)
}

/// The most that was seen on all threads together, a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peaks {
    /// Floating-point operations of a large f32 matrix product; a multiply-accumulate is two.
    pub gemm_flop_per_s: f64,
    /// Bytes read and written, by a copy or in place, the faster of both; no cache holds them.
    pub memory_bytes_per_s: f64,
    /// Additions of 32-bit integers, operands in the first cache.
    pub adds_i32_per_s: f64,
    /// The same of 16-bit integers.
    pub adds_i16_per_s: f64,
    /// Runs of each that the best was taken from, at least.
    pub runs: usize,
}

/// Measures all of them, for `seconds` each.
///
/// # Errors
/// None of its own.
pub fn measure(seconds: f64) -> Result<Peaks> {
    let isa = Isa::detect();
    let mut runs = usize::MAX;
    let mut best = |amount: u64, body: &mut dyn FnMut()| -> Result<f64> {
        let times = repeat(&Limits { warmup: 1, repeats: usize::MAX, seconds }, || {
            timed(|| {
                body();
                Ok(())
            })
        })?;
        runs = runs.min(times.len());
        Ok(amount as f64 / times.iter().copied().fold(f64::INFINITY, f64::min))
    };
    let mut product = Product::default();
    let gemm_flop_per_s = best(Product::OPERATIONS, &mut || {
        std::hint::black_box(product.run());
    })?;
    drop(product);
    let mut copying = Copying::default();
    let copied = best(copying.bytes(), &mut || {
        std::hint::black_box(copying.run());
    })?;
    let updated = best(copying.bytes(), &mut || {
        std::hint::black_box(copying.update());
    })?;
    let memory_bytes_per_s = copied.max(updated);
    drop(copying);
    let (wide, narrow) = (Adding::new(1i32), Adding::new(1i16));
    let adds_i32_per_s = best(wide.operations(), &mut || {
        std::hint::black_box(wide.run(isa));
    })?;
    let adds_i16_per_s = best(narrow.operations(), &mut || {
        std::hint::black_box(narrow.run(isa));
    })?;
    Ok(Peaks { gemm_flop_per_s, memory_bytes_per_s, adds_i32_per_s, adds_i16_per_s, runs })
}
