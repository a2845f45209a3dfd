//! How ranks find the library and each other, and what is said when something goes wrong.

use std::path::Path;
use std::time::Instant;

use dsr::device::Gpu;
use dsr::device::nccl::{self, Communicator, Id};

#[path = "support/ranks.rs"]
mod ranks;
#[path = "support/seeded.rs"]
mod seeded;

use ranks::{Ended, IMPATIENT, PATIENT, Rank, assert_all_pass, assert_words, end, free_port, library_path, run, start, told};

/// Runs the case that the environment names; without one this is no rank, and there is nothing to do.
#[test]
fn in_rank() {
    let Some((case, rank, size)) = ranks::own_case() else { return };
    let told = |result: dsr::Result<()>| println!("\ntold: {}", result.expect_err("this had to fail"));
    match case.as_str() {
        "alone" => Rank::join(rank, size, PATIENT).unwrap().communicator.connect().unwrap(),
        "abort" => abort(&Rank::join(rank, size, PATIENT).unwrap()),
        "shapes" => shapes(&Rank::join(rank, size, PATIENT).unwrap()),
        "real library" => real_library(),
        "new id" => new_id(rank, size),
        "join" => told(Rank::join(rank, size, IMPATIENT).map(drop)),
        "wrong size" => told(Rank::join(rank, size + rank, PATIENT).map(drop)),
        "same rank" => told(twice(rank, size)),
        "same device" => told(Gpu::open(0).and_then(|gpu| Communicator::new(&gpu, rank, size, Id::of_environment()?, PATIENT).map(drop))),
        "does not come" => told(does_not_come(&Rank::join(rank, size, PATIENT).unwrap())),
        "is killed" => told(is_killed(&Rank::join(rank, size, PATIENT).unwrap())),
        mismatch => told(mismatched(&Rank::join(rank, size, PATIENT).unwrap(), mismatch)),
    }
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
    assert_all_pass("alone", 1, &found);
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
