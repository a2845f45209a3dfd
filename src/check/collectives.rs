//! Collectives of several devices against the host, as one rank sees them.
//!
//! Every rank runs the same checks in the same order. Random values come from the seed alone, so each knows those of all others.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Check, Outcome, Output, Size};
use crate::device::Slice;
use crate::device::nccl::{Communicator, Element, Integer};
use crate::error::Result;

/// How long a collective may take, before a rank is taken for lost.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of elements of a rank: one, odd, more than one block of anything.
const LENS: [usize; 3] = [1, 33, 4097];
const MANY: usize = 1_000_003;

/// All collectives that training uses, in turn and recorded.
pub fn checks(communicator: &Arc<Communicator>, size: Size) -> Vec<Check> {
    let lens: Vec<usize> = LENS.into_iter().chain((size == Size::Full).then_some(MANY)).collect();
    let named = |what: &str| format!("{what}, 1 to {} values a rank", lens[lens.len() - 1]);
    let check = |op, what: &str, run: fn(&Communicator, &mut ChaCha8Rng, usize, &mut Outcome) -> Result<()>| {
        let (communicator, lens) = (communicator.clone(), lens.clone());
        Check::bits(op, named(what), move |rng, outcome| lens.iter().try_for_each(|&len| run(&communicator, rng, len, outcome)))
    };
    let replayed = communicator.clone();
    vec![
        check("all-reduce", "u64", all_reduce::<u64>),
        check("all-reduce", "u32", all_reduce::<u32>),
        check("all-gather", "f32", all_gather::<f32>),
        check("all-gather", "u8", all_gather::<u8>),
        check("all-to-all", "f32", all_to_all::<f32>),
        check("all-to-all", "f64", all_to_all::<f64>),
        check("broadcast", "f32", broadcast),
        Check::bits("recorded collectives", "3 replays of 1001 values a rank", move |rng, outcome| graph(&replayed, rng, outcome)),
    ]
}

/// Values of every rank; any bits, so that nothing but a copy keeps them.
fn of_ranks<T: Pod>(communicator: &Communicator, rng: &mut ChaCha8Rng, len: usize) -> Vec<Vec<T>> {
    let mut bytes = vec![0_u8; len * size_of::<T>()];
    let mut next = || {
        rng.fill(&mut bytes[..]);
        bytemuck::pod_collect_to_vec(&bytes)
    };
    (0..communicator.size()).map(|_| next()).collect()
}

/// Collectives behind the compute stream, and their end.
fn run(communicator: &Communicator, body: impl FnOnce() -> Result<()>) -> Result<()> {
    communicator.after_compute()?;
    body()?;
    communicator.before_compute()?;
    communicator.wait(PATIENCE)
}

fn sums<T: Integer + Into<u64>>(values: &[Vec<T>], narrow: fn(u64) -> T) -> Vec<T> {
    let sum = |at: usize| values.iter().fold(0, |sum: u64, of_rank| sum.wrapping_add(of_rank[at].into()));
    (0..values[0].len()).map(|at| narrow(sum(at))).collect()
}

/// Integers that wrap around as those of a device.
trait Counted: Integer + Into<u64> + Debug {
    fn low_bits(sum: u64) -> Self;
}

impl Counted for u64 {
    fn low_bits(sum: u64) -> u64 {
        sum
    }
}

impl Counted for u32 {
    fn low_bits(sum: u64) -> u32 {
        sum as u32
    }
}

fn all_reduce<T: Counted>(communicator: &Communicator, rng: &mut ChaCha8Rng, len: usize, outcome: &mut Outcome) -> Result<()> {
    let values = of_ranks::<T>(communicator, rng, len);
    let output = Output::of(communicator.gpu(), &values[communicator.rank()])?;
    run(communicator, || communicator.all_reduce(output.slice()))?;
    output.expect(&format!("sums of {len} {}", T::NAME), outcome, &sums(&values, T::low_bits))
}

fn all_gather<T: Element + Debug>(communicator: &Communicator, rng: &mut ChaCha8Rng, len: usize, outcome: &mut Outcome) -> Result<()> {
    let values = of_ranks::<T>(communicator, rng, len);
    let own = Output::of(communicator.gpu(), &values[communicator.rank()])?;
    let all = Output::unwritten(communicator.gpu(), len * communicator.size())?;
    run(communicator, || communicator.all_gather(own.slice(), all.slice()))?;
    own.expect(&format!("own {len} {}", T::NAME), outcome, &values[communicator.rank()])?;
    all.expect(&format!("gathered {len} {}", T::NAME), outcome, &values.concat())
}

/// Elements from one rank to another, a different number for each two.
fn part(len: usize, from: usize, to: usize) -> usize {
    len / (1 + (from + 2 * to) % 5)
}

fn all_to_all<T: Element + Debug>(communicator: &Communicator, rng: &mut ChaCha8Rng, len: usize, outcome: &mut Outcome) -> Result<()> {
    let (rank, size, gpu) = (communicator.rank(), communicator.size(), communicator.gpu());
    let values = of_ranks::<T>(communicator, rng, len * size);
    let place = |from: usize, to: usize| {
        let begin: usize = (0..to).map(|before| part(len, from, before)).sum();
        begin..begin + part(len, from, to)
    };
    let given = Output::of(gpu, &values[rank])?;
    let received = |from: usize| &values[from][place(from, rank)];
    let expected: Vec<T> = (0..size).flat_map(|from| received(from).iter().copied()).collect();
    let got = Output::unwritten(gpu, expected.len())?;
    let sends: Vec<Slice<T>> = (0..size).map(|to| given.slice().part(place(rank, to))).collect();
    let mut end = 0;
    let mut next = |len: usize| {
        end += len;
        // With few elements there may be none in some parts, and none at all.
        if len == 0 { Slice::NONE } else { got.slice().part(end - len..end) }
    };
    let receives: Vec<Slice<T>> = (0..size).map(|from| next(part(len, from, rank))).collect();
    run(communicator, || communicator.all_to_all(&sends, &receives))?;
    got.expect(&format!("parts of {len} {}", T::NAME), outcome, &expected)
}

fn broadcast(communicator: &Communicator, rng: &mut ChaCha8Rng, len: usize, outcome: &mut Outcome) -> Result<()> {
    for root in 0..communicator.size() {
        let values = of_ranks::<f32>(communicator, rng, len);
        let output = Output::of(communicator.gpu(), &values[communicator.rank()])?;
        run(communicator, || communicator.broadcast(output.slice(), root))?;
        output.expect(&format!("{len} f32 of rank {root}"), outcome, &values[root])?;
    }
    Ok(())
}

/// As a training step has them: recorded between kernels' work, and replayed.
fn graph(communicator: &Communicator, rng: &mut ChaCha8Rng, outcome: &mut Outcome) -> Result<()> {
    const LEN: usize = 1001;
    let gpu = communicator.gpu();
    let (counts, values) = (of_ranks::<u64>(communicator, rng, LEN), of_ranks::<u32>(communicator, rng, LEN));
    let summed = Output::of(gpu, &counts[communicator.rank()])?;
    let own = Output::of(gpu, &values[communicator.rank()])?;
    let [all, copied] = [Output::unwritten(gpu, LEN * communicator.size())?, Output::unwritten(gpu, LEN * communicator.size())?];
    communicator.connect()?;
    let graph = gpu.capture(|| {
        communicator.after_compute()?;
        communicator.all_reduce(summed.slice())?;
        communicator.all_gather(own.slice(), all.slice())?;
        communicator.before_compute()?;
        gpu.copy(all.slice(), copied.slice())
    })?;
    let mut expected = sums(&counts, u64::low_bits);
    for replay in 0..3 {
        gpu.fill_zero(copied.slice())?;
        graph.launch()?;
        communicator.wait(PATIENCE)?;
        summed.expect(&format!("sums of replay {replay}"), outcome, &expected)?;
        copied.expect(&format!("copy of what replay {replay} gathered"), outcome, &values.concat())?;
        expected.iter_mut().for_each(|sum| *sum = sum.wrapping_mul(communicator.size() as u64));
    }
    Ok(())
}
