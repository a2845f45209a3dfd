//! Collectives between processes: each rank is a process of its own, on stand-ins of the driver and of NCCL.
//!
//! A test starts this binary again for every rank, which runs `in_rank`; there the case of the environment is done, and what a rank
//! has to say is printed or is its panic.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use dsr::device::nccl::{self, Communicator, Element, Id, Integer};
use dsr::device::{Gpu, Memory, Slice};

#[path = "support/seeded.rs"]
mod seeded;

const CASE: &str = "NCCL_TEST_CASE";
const RANK: &str = "NCCL_TEST_RANK";
const SIZE: &str = "NCCL_TEST_SIZE";

/// Long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(120);
/// For ranks that never come.
const IMPATIENT: Duration = Duration::from_millis(700);

/// What a rank has left.
struct Ended {
    code: Option<i32>,
    text: String,
}

/// A port of this machine that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn library_path(folders: &[&Path]) -> std::ffi::OsString {
    std::env::join_paths(folders).unwrap()
}

fn start(case: &str, rank: usize, size: usize, port: u16, environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "in_rank", "--nocapture", "--test-threads=1"])
        .envs([(CASE, case), (RANK, &rank.to_string()), (SIZE, &size.to_string())])
        .env("LD_LIBRARY_PATH", library_path(&[emulator::directory(), emulator::nccl_directory()]))
        .env("NCCL_COMM_ID", format!("127.0.0.1:{port}"))
        .envs([("DSR_STANDIN_DEVICES", "4"), ("DSR_STANDIN_THREADS", "1"), ("DSR_STANDIN_LEAKS", "1")])
        .envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a rank, whose input ends now.
fn end(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ended { code: output.status.code(), text }
}

/// Runs all ranks of a case; those who read their input stand still until the ranks before them have ended.
fn run(case: &str, size: usize, environment: &[(&str, &str)]) -> Vec<Ended> {
    let port = free_port();
    let children: Vec<Child> = (0..size).map(|rank| start(case, rank, size, port, environment)).collect();
    children.into_iter().map(end).collect()
}

fn assert_all_pass(case: &str, size: usize, environment: &[(&str, &str)]) {
    for (rank, ended) in run(case, size, environment).iter().enumerate() {
        assert_eq!(ended.code, Some(0), "{case}, rank {rank} of {size}, {environment:?}: {}", ended.text);
        assert!(!ended.text.contains("dsr stand-in:"), "{case}, rank {rank} of {size}: {}", ended.text);
    }
}

/// What a rank did that had to fail: one line that says so.
fn told(ended: &Ended) -> &str {
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    ended.text.lines().find_map(|line| line.strip_prefix("told: ")).unwrap_or_else(|| panic!("nothing was told: {}", ended.text))
}

fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
}

/// This process as a rank.
struct Rank {
    gpu: Arc<Gpu>,
    rank: usize,
    size: usize,
    communicator: Communicator,
}

impl Rank {
    fn join(rank: usize, size: usize, timeout: Duration) -> dsr::Result<Rank> {
        let gpu = Gpu::open(rank)?;
        let communicator = Communicator::new(&gpu, rank, size, Id::of_environment()?, timeout)?;
        Ok(Rank { gpu, rank, size, communicator })
    }

    /// Runs collectives behind what is on the compute stream, and what comes later behind them.
    fn run(&self, body: impl FnOnce(&Communicator) -> dsr::Result<()>) -> dsr::Result<()> {
        self.communicator.after_compute()?;
        body(&self.communicator)?;
        self.communicator.before_compute()
    }

    /// The values of a rank; any rank can know those of another.
    fn values<T: Pod>(&self, rank: usize, len: usize) -> Vec<T> {
        let bytes = seeded::values(rank as u64 + 1, (len * size_of::<T>()).div_ceil(4), -1e3..1e3);
        bytemuck::pod_collect_to_vec(&bytemuck::cast_slice::<f32, u8>(&bytes)[..len * size_of::<T>()])
    }

    fn memory<T: Pod>(&self, values: &[T]) -> Memory<T> {
        self.gpu.memory_of(values).unwrap()
    }
}

/// Nothing, one, odd, one more than a power of two, large.
const SIZES: [usize; 5] = [0, 1, 33, 4097, 1_000_003];

/// Runs the case that the environment names; without one this is no rank, and there is nothing to do.
#[test]
fn in_rank() {
    let Ok(case) = std::env::var(CASE) else { return };
    let [rank, size] = [RANK, SIZE].map(|name| std::env::var(name).unwrap().parse().unwrap());
    let told = |result: dsr::Result<()>| println!("\ntold: {}", result.expect_err("this had to fail"));
    match case.as_str() {
        "collectives" => collectives(&Rank::join(rank, size, PATIENT).unwrap()),
        "graph" => graph(&Rank::join(rank, size, PATIENT).unwrap()),
        "graph lives longer" => graph_lives_longer(Rank::join(rank, size, PATIENT).unwrap()),
        "abort" => abort(&Rank::join(rank, size, PATIENT).unwrap()),
        "shapes" => shapes(&Rank::join(rank, size, PATIENT).unwrap()),
        "real library" => real_library(),
        "new id" => new_id(rank, size),
        "join" => told(Rank::join(rank, size, IMPATIENT).map(drop)),
        "wrong size" => told(Rank::join(rank, size + rank, PATIENT).map(drop)),
        "float sums" => float_sums(rank, size),
        "same rank" => told(twice(rank, size)),
        "same device" => told(Gpu::open(0).and_then(|gpu| Communicator::new(&gpu, rank, size, Id::of_environment()?, PATIENT).map(drop))),
        "does not come" => told(does_not_come(&Rank::join(rank, size, PATIENT).unwrap())),
        "is killed" => told(is_killed(&Rank::join(rank, size, PATIENT).unwrap())),
        mismatch => told(mismatched(&Rank::join(rank, size, PATIENT).unwrap(), mismatch)),
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

// ---- one rank, and how ranks meet ----

#[test]
fn shapes_and_ranks_that_do_not_fit_are_refused() {
    assert_all_pass("shapes", 2, &[]);
}

fn shapes(rank: &Rank) {
    let (memory, Rank { communicator, gpu, .. }) = (rank.gpu.zeroed::<f32>(6).unwrap(), rank);
    let slice = memory.slice();
    let refusals: [(dsr::Result<()>, &[&str]); 6] = [
        (communicator.all_gather(slice.part(0..2), slice.part(0..5)), &["all-gather", "4", "5"]),
        (communicator.broadcast(slice, 2), &["root", "2"]),
        (communicator.all_to_all(&[slice], &[slice, slice]), &["all-to-all", "(2, 2)", "(1, 2)"]),
        (communicator.all_to_all(&[slice; 2], &[slice.part(0..1); 2]), &["own part", "6", "1"]),
        (Communicator::new(gpu, 3, 3, Id::of_environment().unwrap(), PATIENT).map(drop), &["rank: 3", "3"]),
        (Communicator::new(gpu, 0, 1 << 40, Id::of_environment().unwrap(), PATIENT).map(drop), &["ranks"]),
    ];
    for (refused, words) in refusals {
        assert_words(&refused.unwrap_err().to_string(), words);
    }
    assert_eq!(format!("{communicator:?}"), format!("rank {} of 2 on cuda:{} (dsr host stand-in)", rank.rank, rank.rank));
    assert_eq!((communicator.rank(), communicator.size()), (rank.rank, 2));
    communicator.wait(PATIENT).unwrap();
}

/// The other way to meet: an id whose bytes are brought to the other ranks, here to another communicator of the same process.
#[test]
fn an_id_can_be_brought_to_the_others() {
    assert_all_pass("new id", 1, &[("NCCL_COMM_ID", "")]);
}

fn new_id(rank: usize, size: usize) {
    let error = Id::of_environment().map(drop).unwrap_err().to_string();
    assert_words(&error, &["NCCL_COMM_ID: is not set", "HOST:PORT"]);
    let gpu = Gpu::open(rank).unwrap();
    let id = Id::from_bytes(*Id::new().unwrap().bytes());
    let communicator = Communicator::new(&gpu, rank, size, id, PATIENT).unwrap();
    communicator.connect().unwrap();
}

#[test]
fn ranks_that_do_not_fit_each_other_are_told() {
    for (case, words) in [
        ("wrong size", &["says that there are 2 ranks", "says 3"][..]),
        ("same rank", &["rank 1 of 3 has checked in twice"]),
        ("same device", &["Duplicate GPU detected", "ranks 0 and 1", "device 0"]),
    ] {
        for ended in run(case, if case == "same rank" { 3 } else { 2 }, &[]) {
            let line = told(&ended).replace("ranks 1 and 0", "ranks 0 and 1");
            assert_words(&line, &["cuda:", "meeting the other ranks", "invalid usage"]);
            if case != "wrong size" {
                assert_words(&line, words);
            }
        }
    }
}

fn twice(rank: usize, size: usize) -> dsr::Result<()> {
    Communicator::new(&Gpu::open(rank)?, rank.min(1), size, Id::of_environment()?, PATIENT).map(drop)
}

// ---- what goes wrong ----

/// `dsr::device::nccl::load` in a process whose libraries are those of `folders`.
fn load_line(folders: &[&Path], environment: &[(&str, &str)]) -> Ended {
    let mut environment = environment.to_vec();
    let path = library_path(folders);
    environment.push(("LD_LIBRARY_PATH", path.to_str().unwrap()));
    end(start("join", 0, 1, free_port(), &environment))
}

#[test]
fn a_library_that_is_missing_or_old_is_one_line() {
    let (driver, nccl) = (emulator::directory(), emulator::nccl_directory());
    let missing = load_line(&[driver], &[]);
    assert_words(
        told(&missing),
        &["nccl: no NCCL was found", "libnccl.so.2", "pip install nvidia-nccl-cu13", "LD_LIBRARY_PATH", "DSR_NCCL"],
    );
    let old = load_line(&[driver, nccl], &[("DSR_STANDIN_NCCL_VERSION", "21304")]);
    assert_words(told(&old), &["libnccl.so.2 is NCCL 2.13.4", "2.14 or newer", "pip install"]);
    let very_old = load_line(&[driver, nccl], &[("DSR_STANDIN_NCCL_VERSION", "2804")]);
    assert_words(told(&very_old), &["NCCL 2.8.4"]);
    let wrong = load_line(&[driver, nccl], &[("DSR_NCCL", "/no/such/libnccl.so.2")]);
    assert_words(told(&wrong), &["DSR_NCCL: ", "/no/such/libnccl.so.2"]);
    let another = driver.join("libcuda.so.1");
    let no_calls = load_line(&[driver], &[("DSR_NCCL", another.to_str().unwrap())]);
    assert_words(told(&no_calls), &["libcuda.so.1 has no ncclGetVersion", "pip install"]);
    // And by its path it is found without a library path: a communicator of one rank needs nobody.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("collectives.so");
    std::fs::copy(nccl.join("libnccl.so.2"), &copy).unwrap();
    let path = library_path(&[driver]);
    let found = [("LD_LIBRARY_PATH", path.to_str().unwrap()), ("DSR_NCCL", copy.to_str().unwrap())];
    assert_all_pass("collectives", 1, &found);
}

#[test]
fn a_rank_that_is_missing_at_the_start_is_told() {
    // Rank 0 of two, alone: the time-out is the communicator's.
    let alone = end(start("join", 0, 2, free_port(), &[]));
    assert_words(told(&alone), &["rank 0 of 2: meeting the other ranks has not ended within 0.7 s", "did not come"]);
    // Rank 1, whose rank 0 never listens.
    let alone = end(start("join", 1, 2, free_port(), &[]));
    assert_words(told(&alone), &["cuda:1", "rank 1 of 2: meeting the other ranks has not ended within 0.7 s"]);
    let nowhere = end(start("join", 0, 1, 0, &[("NCCL_COMM_ID", "no address")]));
    assert_words(told(&nowhere), &["nccl: no place where ranks can meet", "invalid argument", "NCCL_COMM_ID"]);
}

#[test]
fn a_rank_that_does_not_come_is_given_up_by_name_of_the_collective() {
    for case in ["does not come", "is killed"] {
        let begin = Instant::now();
        let ended = run(case, 3, &[]);
        assert!(begin.elapsed() < PATIENT, "nobody waits for ever");
        for (rank, ended) in ended[..2].iter().enumerate() {
            let line = told(ended);
            let words = ["has not ended within 0.7 s", "another rank did not come or stands still", "collective 2 (all-reduce of 5 u64)"];
            assert_words(line, &words);
            assert_words(line, &[&format!("cuda:{rank}"), &format!("rank {rank} of 3")]);
        }
        if case == "is killed" {
            assert_eq!(ended[2].code, None, "killed");
        }
    }
}

/// Two ranks come to the second collective, the third one does not.
fn does_not_come(rank: &Rank) -> dsr::Result<()> {
    let values = rank.memory(&[1u64; 5]);
    rank.run(|communicator| communicator.all_reduce(values.slice()))?;
    rank.communicator.wait(PATIENT)?;
    assert_eq!(values.to_vec()?, [3; 5]);
    if rank.rank < 2 {
        rank.run(|communicator| communicator.all_reduce(values.slice()))?;
        let given_up = rank.communicator.wait(IMPATIENT);
        // Nothing waits any more: not the stream, not the memory, not the next call.
        rank.gpu.synchronize()?;
        assert_words(&rank.communicator.all_reduce(values.slice()).unwrap_err().to_string(), &["is not possible", "collective 2"]);
        assert_words(&rank.communicator.wait(PATIENT).unwrap_err().to_string(), &["was given up"]);
        return given_up;
    }
    // Stands still until the others have ended.
    std::io::read_to_string(std::io::stdin()).unwrap();
    rank.communicator.abort();
    rank.communicator.wait(PATIENT)
}

fn is_killed(rank: &Rank) -> dsr::Result<()> {
    let values = rank.memory(&[1u64; 5]);
    rank.run(|communicator| communicator.all_reduce(values.slice()))?;
    rank.communicator.wait(PATIENT)?;
    if rank.rank == 2 {
        // SAFETY: a process may end itself.
        unsafe { libc::raise(libc::SIGKILL) };
    }
    rank.run(|communicator| communicator.all_reduce(values.slice()))?;
    rank.communicator.wait(IMPATIENT)
}

#[test]
fn who_gives_up_waits_for_nothing() {
    assert_all_pass("abort", 2, &[]);
}

/// Rank 0 issues what rank 1 never does, and another thread gives up while it waits; then all is dropped, in any order.
fn abort(rank: &Rank) {
    let values = rank.memory(&[1u32; 100]);
    rank.communicator.connect().unwrap();
    if rank.rank == 0 {
        rank.run(|communicator| communicator.all_reduce(values.slice())).unwrap();
        let problem = std::thread::scope(|scope| {
            scope.spawn(|| rank.communicator.abort());
            rank.communicator.wait(PATIENT).unwrap_err().to_string()
        });
        assert_words(&problem, &["the communicator was given up after collective 5 (all-reduce of 100 u32)"]);
        rank.communicator.abort();
        assert_eq!(values.to_vec().unwrap(), [1; 100], "it ends without a result");
    }
}

#[test]
fn calls_that_do_not_fit_each_other_are_told() {
    for (case, words) in [
        ("mismatch: length", &["AllReduce of 10 u32", "AllReduce of 11 u32"][..]),
        ("mismatch: type", &["AllReduce of 10 u32", "AllReduce of 10 i32"]),
        ("mismatch: kind", &["AllReduce of 10 u32", "Broadcast of 10 u32 from rank 1"]),
        ("mismatch: root", &["Broadcast of 10 u32 from rank 0", "Broadcast of 10 u32 from rank 1"]),
        ("mismatch: part", &["rank 1 sends 44 bytes to rank 0, which receives 40"]),
        ("mismatch: messages", &["rank 0", "rank 1, which is in AllReduce of 10 u32"]),
    ] {
        for ended in run(case, 2, &[]) {
            let line = told(&ended);
            assert_words(line, words);
            assert_words(line, &["waiting for collectives", "collective 1 (", "invalid usage"]);
        }
    }
}

fn mismatched(rank: &Rank, case: &str) -> dsr::Result<()> {
    let (own, memory) = (rank.rank, rank.memory(&[1u32; 40]));
    let (values, communicator) = (memory.slice(), &rank.communicator);
    let (ten, eleven) = (values.part(0..10), values.part(0..11));
    match (case, own) {
        ("mismatch: length", 0) => communicator.all_reduce(ten),
        ("mismatch: length", _) => communicator.all_reduce(eleven),
        ("mismatch: type", 0) => communicator.all_reduce(ten),
        ("mismatch: type", _) => communicator.all_reduce(ten.cast::<i32>()),
        ("mismatch: kind", 0) => communicator.all_reduce(ten),
        ("mismatch: kind", _) => communicator.broadcast(ten, 1),
        ("mismatch: root", _) => communicator.broadcast(ten, own),
        ("mismatch: part", 0) => communicator.all_to_all(&[ten; 2], &[ten; 2]),
        ("mismatch: part", _) => communicator.all_to_all(&[eleven, ten], &[ten; 2]),
        ("mismatch: messages", 0) => communicator.all_to_all(&[ten; 2], &[values.part(10..20), values.part(20..30)]),
        ("mismatch: messages", _) => communicator.all_reduce(ten),
        _ => panic!("no such case: {case}"),
    }?;
    communicator.wait(PATIENT)
}

/// NVIDIA's own library, which `DSR_TEST_NCCL` names (`scripts/check_nccl.sh`): no GPU and no driver are needed for this much.
#[test]
fn the_real_library_has_every_call() {
    let Ok(path) = std::env::var("DSR_TEST_NCCL") else {
        println!("skipped: DSR_TEST_NCCL names no libnccl.so.2");
        return;
    };
    let nowhere = tempfile::tempdir().unwrap();
    let set = [("DSR_NCCL", path.as_str()), ("LD_LIBRARY_PATH", nowhere.path().to_str().unwrap())];
    let port = free_port();
    let id = || {
        let ended = end(start("real library", 0, 1, port, &set));
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        println!("{}", ended.text.lines().find(|line| line.starts_with("NCCL ")).unwrap());
        ended.text.lines().find_map(|line| line.strip_prefix("id: ")).map(str::to_string).unwrap()
    };
    assert_eq!(id(), id(), "processes that know NCCL_COMM_ID have the same id, without a word between them");
    let wrong = [set[0], set[1], ("NCCL_COMM_ID", "no address")];
    let ended = end(start("real library", 0, 1, port, &wrong));
    assert_words(&ended.text, &["no place where ranks can meet", "invalid argument"]);
}

fn real_library() {
    let nccl = nccl::load().unwrap();
    println!("\nNCCL {} of {}", nccl.version(), nccl.name());
    match Id::of_environment() {
        Ok(id) => println!("id: {}", id.bytes().map(|byte| format!("{byte:02x}")).concat()),
        Err(problem) => println!("{problem}"),
    }
}
