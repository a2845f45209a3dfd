//! Collectives between processes against the host, in turn and recorded in graphs.

use dsr::device::nccl::{Element, Id, Integer};
use dsr::device::{Gpu, Memory, Slice};

#[path = "support/ranks.rs"]
mod ranks;
#[path = "support/seeded.rs"]
mod seeded;

use ranks::{Ended, PATIENT, Rank, assert_all_pass, run};

/// Nothing, one, odd, one more than a power of two, large.
const SIZES: [usize; 5] = [0, 1, 33, 4097, 1_000_003];

/// Runs the case that the environment names; without one this is no rank, and there is nothing to do.
#[test]
fn in_rank() {
    let Some((case, rank, size)) = ranks::own_case() else { return };
    match case.as_str() {
        "collectives" => collectives(&Rank::join(rank, size, PATIENT).unwrap()),
        "graph" => graph(&Rank::join(rank, size, PATIENT).unwrap()),
        "graph lives longer" => graph_lives_longer(Rank::join(rank, size, PATIENT).unwrap()),
        "float sums" => float_sums(rank, size),
        other => panic!("no such case: {other}"),
    }
}

// ---- collectives against the host ----

#[test]
fn every_rank_gets_what_the_host_computes() {
    for size in 1..=4 {
        assert_all_pass("collectives", size, &[]);
    }
}

/// When the work of a stream runs does not matter, and neither does the order in which NCCL adds.
#[test]
fn no_order_of_work_matters() {
    for streams in ["now", "copies-first", "random"] {
        assert_all_pass("collectives", 2, &[("DSR_STANDIN_STREAMS", streams)]);
        assert_all_pass("graph", 2, &[("DSR_STANDIN_STREAMS", streams)]);
    }
    for order in ["rank", "reverse"] {
        assert_all_pass("collectives", 3, &[("DSR_STANDIN_NCCL_ORDER", order)]);
    }
}

fn collectives(rank: &Rank) {
    for len in SIZES {
        sums::<u64>(rank, len, u64::wrapping_add);
        sums::<u32>(rank, len, u32::wrapping_add);
        sums::<i64>(rank, len, i64::wrapping_add);
        sums::<i32>(rank, len, i32::wrapping_add);
        gathered::<f32>(rank, len);
        gathered::<u8>(rank, len);
        exchanged::<f32>(rank, len);
        exchanged::<f64>(rank, len);
        for root in 0..rank.size {
            broadcast(rank, len, root);
        }
    }
    rank.communicator.wait(PATIENT).unwrap();
}

fn sums<T: Integer + PartialEq + std::fmt::Debug>(rank: &Rank, len: usize, add: fn(T, T) -> T) {
    let memory = rank.memory(&rank.values::<T>(rank.rank, len));
    rank.run(|communicator| communicator.all_reduce(memory.slice())).unwrap();
    let mut expected = rank.values::<T>(0, len);
    for other in 1..rank.size {
        expected.iter_mut().zip(rank.values::<T>(other, len)).for_each(|(sum, value)| *sum = add(*sum, value));
    }
    assert!(memory.to_vec().unwrap() == expected, "sums of {len} {}", T::NAME);
}

fn gathered<T: Element + PartialEq>(rank: &Rank, len: usize) {
    let (own, all) = (rank.memory(&rank.values::<T>(rank.rank, len)), rank.gpu.zeroed::<T>(len * rank.size).unwrap());
    rank.run(|communicator| communicator.all_gather(own.slice(), all.slice())).unwrap();
    let expected: Vec<T> = (0..rank.size).flat_map(|other| rank.values::<T>(other, len)).collect();
    assert!(all.to_vec().unwrap() == expected, "all-gather of {len} {}", T::NAME);
    if len > 0 {
        // In place: the own part is where it belongs already.
        let mut values = vec![T::zeroed(); len * rank.size];
        values[rank.rank * len..][..len].copy_from_slice(&rank.values::<T>(rank.rank, len));
        let all = rank.memory(&values);
        let own = all.slice().part(rank.rank * len..(rank.rank + 1) * len);
        rank.run(|communicator| communicator.all_gather(own, all.slice())).unwrap();
        assert!(all.to_vec().unwrap() == expected, "all-gather of {len} {} in place", T::NAME);
    }
}

/// How many elements travel from one rank to another: not the same for any two, and none for some.
fn part(len: usize, from: usize, to: usize) -> usize {
    if (from + 2 * to).is_multiple_of(5) { 0 } else { len / (1 + from + 3 * to) }
}

fn exchanged<T: Element + PartialEq>(rank: &Rank, len: usize) {
    let own = rank.rank;
    let lens = |of: &dyn Fn(usize) -> usize| (0..rank.size).map(of).collect::<Vec<usize>>();
    let (given, got) = (lens(&|to| part(len, own, to)), lens(&|from| part(len, from, own)));
    let cut = |memory: &Memory<T>, lens: &[usize]| {
        let mut at = 0;
        let mut next = |len: usize| {
            at += len;
            if len == 0 { Slice::NONE } else { memory.slice().part(at - len..at) }
        };
        lens.iter().map(|&len| next(len)).collect::<Vec<Slice<T>>>()
    };
    let sent = rank.memory(&rank.values::<T>(own, given.iter().sum()));
    let received = rank.gpu.zeroed::<T>(got.iter().sum()).unwrap();
    rank.run(|communicator| communicator.all_to_all(&cut(&sent, &given), &cut(&received, &got))).unwrap();
    let from_rank = |from: usize| {
        let before: usize = (0..own).map(|to| part(len, from, to)).sum();
        let all = rank.values::<T>(from, (0..rank.size).map(|to| part(len, from, to)).sum());
        all[before..before + part(len, from, own)].to_vec()
    };
    let expected: Vec<T> = (0..rank.size).flat_map(from_rank).collect();
    assert!(received.to_vec().unwrap() == expected, "all-to-all of {len} {}", T::NAME);
}

fn broadcast(rank: &Rank, len: usize, root: usize) {
    let memory = rank.memory(&rank.values::<f32>(rank.rank, len));
    rank.run(|communicator| communicator.broadcast(memory.slice(), root)).unwrap();
    assert!(memory.to_vec().unwrap() == rank.values::<f32>(root, len), "broadcast of {len} from rank {root}");
}

// ---- graphs ----

#[test]
fn recorded_collectives_do_the_same_at_every_replay() {
    for size in 1..=4 {
        assert_all_pass("graph", size, &[]);
    }
}

/// What a step does: gather the parts of all ranks, add integers, exchange, and use the result; three times over.
fn graph(rank: &Rank) {
    const LEN: usize = 1001;
    let (gpu, size) = (&rank.gpu, rank.size);
    rank.communicator.connect().unwrap();
    let sums = rank.memory(&rank.values::<u64>(rank.rank, LEN));
    let own = rank.memory(&rank.values::<f32>(rank.rank, LEN));
    let [all, crossed, copied] = [(); 3].map(|()| gpu.zeroed::<f32>(LEN * size).unwrap());
    let cut = |memory: &Memory<f32>| (0..size).map(|r| memory.slice().part(r * LEN..(r + 1) * LEN)).collect::<Vec<_>>();
    let graph = gpu
        .capture(|| {
            rank.run(|communicator| {
                communicator.all_reduce(sums.slice())?;
                communicator.all_gather(own.slice(), all.slice())?;
                communicator.all_to_all(&cut(&all), &cut(&crossed))
            })?;
            gpu.copy(crossed.slice(), copied.slice())?;
            // A second stretch of the same step.
            rank.run(|communicator| communicator.all_reduce(sums.slice()))
        })
        .unwrap();
    assert!(sums.to_vec().unwrap() == rank.values::<u64>(rank.rank, LEN), "recording does nothing");
    let mut expected: Vec<u64> = vec![0; LEN];
    for other in 0..size {
        expected.iter_mut().zip(rank.values::<u64>(other, LEN)).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
    }
    for replay in 0..3 {
        gpu.fill_zero(copied.slice()).unwrap();
        graph.launch().unwrap();
        // A collective between two replays.
        rank.run(|communicator| communicator.broadcast(own.slice(), rank.size - 1)).unwrap();
        rank.communicator.wait(PATIENT).unwrap();
        // Two sums in each replay: the first of different values, the others of equal ones.
        let times = (size as u64).wrapping_pow(1 + 2 * replay);
        let expected: Vec<u64> = expected.iter().map(|sum| sum.wrapping_mul(times)).collect();
        assert!(sums.to_vec().unwrap() == expected, "sums of replay {replay}");
        let part = |from: usize| rank.values::<f32>(if replay == 0 { from } else { rank.size - 1 }, LEN);
        // Every rank has gathered the same, and gives each other its part of that.
        let expected: Vec<f32> = (0..size).flat_map(|_| part(rank.rank)).collect();
        assert!(copied.to_vec().unwrap() == expected, "exchange of replay {replay}");
    }
}

/// NCCL would wait for the graph if the communicator were given back before it.
#[test]
fn a_graph_keeps_its_communicator() {
    assert_all_pass("graph lives longer", 2, &[]);
}

fn graph_lives_longer(rank: Rank) {
    let sums = rank.memory(&[rank.rank as u64 + 1, 7]);
    let graph = rank.gpu.capture(|| rank.run(|communicator| communicator.all_reduce(sums.slice()))).unwrap();
    let Rank { gpu, size, communicator, .. } = rank;
    drop(communicator);
    graph.launch().unwrap();
    assert_eq!(sums.to_vec().unwrap(), [(1..=size as u64).sum::<u64>(), 7 * size as u64]);
    drop(graph);
    gpu.synchronize().unwrap();
}

// ---- why no floats are added ----

/// The stand-in adds in more than one order, as NCCL does, and floats show it; that is why the product adds integers only.
#[test]
fn sums_of_floats_depend_on_the_order() {
    let mut found = Vec::new();
    for order in ["ring", "rank", "reverse"] {
        let ended = run("float sums", 4, &[("DSR_STANDIN_NCCL_ORDER", order)]);
        let bits = |ended: &Ended| {
            assert_eq!(ended.code, Some(0), "{}", ended.text);
            ended.text.lines().find_map(|line| line.strip_prefix("bits: ")).map(str::to_string).unwrap()
        };
        let of_ranks: Vec<String> = ended.iter().map(bits).collect();
        assert!(of_ranks.iter().all(|other| *other == of_ranks[0]), "all ranks get the same: {of_ranks:?}");
        found.push(of_ranks[0].clone());
    }
    assert!(found[0] != found[1] && found[1] != found[2] && found[0] != found[2], "{found:?}");
}

/// An all-reduce of f32 by the library itself, since the product has none.
fn float_sums(rank: usize, size: usize) {
    type Comm = *mut std::ffi::c_void;
    let gpu = Gpu::open(rank).unwrap();
    let values: Vec<f32> = (0..64).map(|i| 1.0 / (3 * rank + i + 1) as f32 + [0.0, 1e4, 37.3, 1e3][rank]).collect();
    let (memory, id) = (gpu.memory_of(&values).unwrap(), *Id::of_environment().unwrap().bytes());
    let at = memory.slice().address() as *mut std::ffi::c_void;
    let [size, rank] = [size, rank].map(|number| number as i32);
    // `ncclConfig_t` of 2.14: size, magic and version, blocking and nothing.
    let mut config: [u64; 3] = [24, 0xcafe_beef | 21_400 << 32, (1 << 31) << 32];
    // SAFETY: the calls have these types in NVIDIA's nccl.h, and 128 bytes by value are passed as its struct of them is.
    unsafe {
        #[repr(C)]
        struct Bytes([u8; 128]);
        let nccl = libloading::Library::new("libnccl.so.2").unwrap();
        let driver = libloading::Library::new("libcuda.so.1").unwrap();
        let init = nccl.get::<unsafe extern "C" fn(*mut Comm, i32, Bytes, i32, *mut [u64; 3]) -> i32>(c"ncclCommInitRankConfig").unwrap();
        let state = nccl.get::<unsafe extern "C" fn(Comm, *mut i32) -> i32>(c"ncclCommGetAsyncError").unwrap();
        let sum = nccl.get::<unsafe extern "C" fn(Comm, Comm, usize, i32, i32, Comm, Comm) -> i32>(c"ncclAllReduce").unwrap();
        let wait = driver.get::<unsafe extern "C" fn() -> i32>(c"cuCtxSynchronize").unwrap();
        let (mut comm, mut status) = (std::ptr::null_mut(), 7);
        assert_eq!(init(&mut comm, size, Bytes(id), rank, &mut config), 7);
        while status == 7 {
            assert_eq!(state(comm, &mut status), 0);
        }
        assert_eq!((status, sum(at, at, 64, 7, 0, comm, std::ptr::null_mut()), wait()), (0, 7, 0));
        std::mem::forget((nccl, driver));
    }
    let bits: Vec<String> = memory.to_vec().unwrap().iter().map(|sum| format!("{:08x}", sum.to_bits())).collect();
    println!("\nbits: {}", bits.concat());
}
