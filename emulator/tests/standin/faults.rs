//! Each planted fault of `tests/kernels/faulty.cu` is found: the error code of a real driver, and a line that says what and where.

use cudarc::driver::sys::{self, CUresult};

use super::children::{FAULT, run_child};

const ELEMENTS: usize = 256;

/// A launch of one block of 256 threads, and what should come of it.
struct Case {
    kernel: &'static str,
    code: CUresult,
    /// Parts of the line on stderr.
    said: &'static [&'static str],
}

const fn case(kernel: &'static str, code: CUresult, said: &'static [&'static str]) -> Case {
    Case { kernel, code, said }
}

const ADDRESS: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
const MISALIGNED: CUresult = CUresult::CUDA_ERROR_MISALIGNED_ADDRESS;
const FAILED: CUresult = CUresult::CUDA_ERROR_LAUNCH_FAILED;

const CASES: &[Case] = &[
    case(
        "reads_past_the_end",
        ADDRESS,
        &["block (0, 0, 0), thread (3, 0, 0)", "reads from", "0 bytes past the end of the allocation of 1024 bytes", "faulty.cu:"],
    ),
    case("writes_past_the_end", ADDRESS, &["thread (3, 0, 0)", "writes to", "past the end of the allocation of 1024 bytes"]),
    case("writes_before_the_start", ADDRESS, &["a write before the start of the allocation of 1024 bytes"]),
    case("writes_far_before_the_start", ADDRESS, &["thread (3, 0, 0)", "writes to"]),
    case("follows_null", ADDRESS, &["thread (3, 0, 0)", "null pointer"]),
    case("loads_misaligned_vector", MISALIGNED, &["thread (3, 0, 0)", "accesses", "not aligned to 16 bytes", "faulty.cu:"]),
    case("stores_misaligned_vector", MISALIGNED, &["thread (3, 0, 0)", "writes to", "not aligned to 8 bytes", "faulty.cu:"]),
    case("copies_misaligned", MISALIGNED, &["copy_async of 16 bytes at", "faulty.cu:"]),
    case("copies_beside_shared_memory", ADDRESS, &["copy_async of 16 bytes at", "not in shared memory"]),
    case("indexes_past_a_shared_array", ADDRESS, &["thread (3, 0, 0)", "index 64 is outside of its array", "faulty.cu:"]),
    case("overruns_a_shared_array", ADDRESS, &["past the end of the shared array 'tile' (256 bytes)"]),
    case("overruns_dynamic_memory", ADDRESS, &["shared memory"]),
    case("reads_past_dynamic_memory", ADDRESS, &["thread (3, 0, 0)", "outside of shared memory"]),
    case("overruns_a_local_array", ADDRESS, &["index 4 is outside of its array", "faulty.cu:"]),
    case("uses_much_local_memory", ADDRESS, &["more local memory than"]),
    case("barrier_in_a_branch", FAILED, &["thread", "__syncthreads", "faulty.cu:"]),
    case("barriers_at_two_lines", FAILED, &["__syncthreads in divergent code", "faulty.cu:"]),
    case("barrier_after_a_return", FAILED, &["__syncthreads", "faulty.cu:"]),
    case("shuffle_in_a_branch", FAILED, &["__shfl_down_sync", "faulty.cu:"]),
    case("shuffles_at_two_lines", FAILED, &["__shfl_xor_sync in divergent code", "faulty.cu:"]),
    case("shuffle_from_outside_of_the_mask", FAILED, &["lane 15 reads lane 16", "faulty.cu:"]),
    case("shuffle_without_itself_in_the_mask", FAILED, &["the calling lane is not in the mask 0000ffff", "faulty.cu:"]),
    case("shuffle_and_barrier", FAILED, &["no thread can go on", "__shfl_xor_sync", "__syncthreads", "faulty.cu:"]),
    case("part_of_a_warp_multiplies", FAILED, &["mma_u8s8", "faulty.cu:"]),
    case("shifts_by_32", FAILED, &["a shift by 32 places", "faulty.cu:"]),
    case("casts_out_of_range", FAILED, &["outside of the range of the integer", "faulty.cu:"]),
    case("divides_by_zero", FAILED, &["divided by zero"]),
];

#[test]
fn faults_are_named() {
    let mut wrong = Vec::new();
    for order in ["fifo", "lifo", "random"] {
        for case in CASES {
            let outcome = run_child(FAULT, case.kernel, &[("DSR_STANDIN_ORDER", order)]);
            let line = outcome.stderr.lines().find(|line| line.starts_with("dsr stand-in: ")).unwrap_or("");
            let code = format!("{:?}", case.code);
            let complete = case.said.iter().all(|part| line.contains(part)) && (line.contains(case.kernel) || line.contains("allocation"));
            if outcome.value("code") != code || !complete {
                wrong.push(format!(
                    "{} ({order}): expected {code} and {:?}, got {} and\n  {line}",
                    case.kernel,
                    case.said,
                    outcome.value("code")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

type Expected = fn(usize) -> f32;

/// Faults in time, which show in the results, and what a correct kernel would give.
const IN_RESULTS: &[(&str, Expected)] = &[
    ("lacks_a_barrier", |i| ((i + 32) % ELEMENTS) as f32),
    ("lacks_a_second_barrier", |i| (6 * ((i + 32) % ELEMENTS)) as f32),
    ("lacks_a_warp_barrier", |i| (i ^ 1) as f32),
    ("does_not_wait_for_a_copy", |i| ((i + 1) % ELEMENTS) as f32),
    ("waits_for_too_few_groups", |i| ((i + 1) % ELEMENTS) as f32),
    ("reads_unwritten_shared_memory", |_| 0.0),
    ("reads_unwritten_memory", |_| ELEMENTS as f32),
];

#[test]
fn races_and_early_reads_show_in_every_order() {
    let mut missed = Vec::new();
    for (kernel, expected) in IN_RESULTS {
        for (order, seed) in [("fifo", "1"), ("lifo", "1"), ("random", "1"), ("random", "2")] {
            let outcome = run_child(FAULT, kernel, &[("DSR_STANDIN_ORDER", order), ("DSR_STANDIN_SEED", seed)]);
            assert_eq!(outcome.value("code"), "CUDA_SUCCESS", "{kernel}\n{}", outcome.stderr);
            let correct: Vec<f32> = (0..ELEMENTS).map(expected).collect();
            if outcome.value("results") == format!("{correct:?}") {
                missed.push(format!("{kernel} under {order}, seed {seed}"));
            }
        }
    }
    assert!(missed.is_empty(), "not found: {}", missed.join("; "));
}

#[test]
fn races_are_named_where_they_are_looked_for() {
    let racy = [
        "reads_the_left_neighbour",
        "overwrites_what_is_read",
        "writes_one_place",
        "copies_over_what_is_read",
        "lanes_without_a_warp_barrier",
    ];
    for order in ["fifo", "lifo", "random"] {
        let environment = [("DSR_STANDIN_ORDER", order), ("STANDIN_TEST_LIBRARY", "racy")];
        for kernel in racy {
            let outcome = run_child(FAULT, kernel, &environment);
            let named = ["race: ", "s shared memory that thread ", "racy.cu:"].iter().all(|words| outcome.stderr.contains(words));
            assert!(named && outcome.value("code") == "CUDA_ERROR_LAUNCH_FAILED", "{kernel}, {order}: {}", outcome.stderr);
        }
        let outcome = run_child(FAULT, "races_nowhere", &environment);
        assert_eq!(outcome.value("code"), "CUDA_SUCCESS", "{order}: {}", outcome.stderr);
    }
}

#[test]
fn races_between_blocks_are_named() {
    let racy = [
        ("adds_without_an_atomic", "reads global memory"),
        ("writes_what_another_block_reads", "writes global memory"),
        ("writes_where_another_block_writes", "writes global memory"),
    ];
    for threads in ["1", "2"] {
        let environment = |blocks| [("DSR_STANDIN_THREADS", threads), ("STANDIN_TEST_LIBRARY", "racy"), ("STANDIN_TEST_BLOCKS", blocks)];
        for (kernel, what) in racy {
            let outcome = run_child(FAULT, kernel, &environment("2"));
            let named = ["race: ", "global memory at ", "racy.cu:"].iter().all(|words| outcome.stderr.contains(words));
            let as_expected = threads == "2" || outcome.stderr.contains(what); // of two at once either may come first
            assert!(named && as_expected && outcome.value("code") == "CUDA_ERROR_LAUNCH_FAILED", "{kernel}: {}", outcome.stderr);
            assert_eq!(run_child(FAULT, kernel, &environment("1")).value("code"), "CUDA_SUCCESS", "{kernel}, alone");
        }
        let outcome = run_child(FAULT, "blocks_race_nowhere", &environment("2"));
        assert_eq!(outcome.value("code"), "CUDA_SUCCESS", "{}", outcome.stderr);
    }
}

#[test]
fn pointers_that_no_device_can_follow() {
    let cases = [
        ("freed", "argument 1 points to", "in freed memory: the allocation of 1024 bytes"),
        ("host", "argument 1 points to", "host memory, which a device does not reach"),
        ("freed in a struct", "argument 1 points to", "in freed memory: the allocation of 1024 bytes"),
        ("host in a struct", "argument 1 points to", "host memory, which a device does not reach"),
    ];
    for (case, argument, place) in cases {
        let outcome = run_child(FAULT, case, &[]);
        assert_eq!(outcome.value("code"), "CUDA_ERROR_ILLEGAL_ADDRESS", "{case}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains(argument) && outcome.stderr.contains(place), "{case}: {}", outcome.stderr);
    }
}

#[test]
fn the_end_of_an_allocation_of_any_size_is_seen() {
    for bytes in ["4", "20", "1020", "4092", "4096", "100004"] {
        for (kernel, place) in [("writes_past_the_end", "past the end of"), ("writes_before_the_start", "before the start of")] {
            let outcome = run_child(FAULT, kernel, &[("STANDIN_TEST_BYTES", bytes)]);
            let named = outcome.stderr.contains(place) && outcome.stderr.contains(&format!("the allocation of {bytes} bytes"));
            assert!(named && outcome.value("code") == "CUDA_ERROR_ILLEGAL_ADDRESS", "{kernel}, {bytes} bytes: {}", outcome.stderr);
        }
    }
}

#[test]
fn an_error_stays_until_the_context_ends() {
    let outcome = run_child(FAULT, "twice", &[]);
    assert_eq!(outcome.value("first"), "CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(outcome.value("allocation"), "CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(outcome.value("next context"), "CUDA_SUCCESS", "{}", outcome.stderr);
}

/// What a child does.
pub fn run(case: &str) {
    emulator::load_test_kernels(std::env::var("STANDIN_TEST_LIBRARY").as_deref().unwrap_or("faulty"));
    let launch = Launch::new();
    // A child of these tests has one thread; every pointer given to the driver is valid for the call.
    match case {
        "freed" => {
            launch.free_from();
            println!("code={:?}", launch.run("lacks_a_barrier"));
        }
        "host" => println!("code={:?}", Launch { from: [0f32; ELEMENTS].as_ptr() as u64, ..launch }.run("lacks_a_barrier")),
        "in place" => println!("code={:?}", Launch { to: launch.from, ..launch }.run("reads_its_neighbour")),
        "freed in a struct" => {
            launch.free_from();
            println!("code={:?}", launch.run_with_struct());
        }
        "host in a struct" => println!("code={:?}", Launch { from: [0f32; ELEMENTS].as_ptr() as u64, ..launch }.run_with_struct()),
        "twice" => {
            println!("first={:?}", launch.run("reads_past_the_end"));
            let mut address = 0;
            // SAFETY: see above.
            println!("allocation={:?}", unsafe { sys::cuMemAlloc_v2(&mut address, 16) });
            // SAFETY: see above.
            unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) };
            println!("next context={:?}", Launch::new().run("lacks_a_barrier"));
        }
        kernel => {
            let code = launch.run(kernel);
            println!("code={code:?}");
            if code == CUresult::CUDA_SUCCESS {
                println!("results={:?}", launch.results());
            }
        }
    }
}

/// Buffers `to` and `from` (0, 1, 2 ...) on the device, and a module.
struct Launch {
    module: sys::CUmodule,
    to: u64,
    to_bytes: usize,
    from: u64,
}

fn checked(code: CUresult) {
    assert_eq!(code, CUresult::CUDA_SUCCESS);
}

impl Launch {
    fn new() -> Self {
        let to_bytes = std::env::var("STANDIN_TEST_BYTES").map_or(4 * ELEMENTS, |bytes| bytes.parse().unwrap());
        let values: Vec<f32> = (0..ELEMENTS).map(|i| i as f32).collect();
        let mut launch = Launch { module: std::ptr::null_mut(), to: 0, to_bytes, from: 0 };
        let mut context = std::ptr::null_mut();
        // SAFETY: every pointer is valid for its call.
        unsafe {
            checked(sys::cuInit(0));
            checked(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
            checked(sys::cuCtxSetCurrent(context));
            checked(sys::cuModuleLoadData(&mut launch.module, b"image".as_ptr().cast()));
            checked(sys::cuMemAlloc_v2(&mut launch.to, to_bytes));
            checked(sys::cuMemAlloc_v2(&mut launch.from, 4 * ELEMENTS));
            checked(sys::cuMemcpyHtoD_v2(launch.from, values.as_ptr().cast(), 4 * ELEMENTS));
        }
        launch
    }

    fn free_from(&self) {
        // SAFETY: it was allocated in `new`.
        checked(unsafe { sys::cuMemFree_v2(self.from) });
    }

    /// Launches a kernel of (to, from, n) and returns what synchronisation says.
    fn run(&self, kernel: &str) -> CUresult {
        let n = (self.to_bytes / 4) as i32;
        self.launch(
            kernel,
            &mut [(&raw const self.to).cast_mut().cast(), (&raw const self.from).cast_mut().cast(), (&raw const n).cast_mut().cast()],
        )
    }

    fn run_with_struct(&self) -> CUresult {
        #[repr(C)]
        struct Hidden {
            from: u64,
            n: i32,
        }
        let hidden = Hidden { from: self.from, n: ELEMENTS as i32 };
        self.launch("reads_by_struct", &mut [(&raw const self.to).cast_mut().cast(), (&raw const hidden).cast_mut().cast()])
    }

    fn launch(&self, kernel: &str, arguments: &mut [*mut std::ffi::c_void]) -> CUresult {
        let name = std::ffi::CString::new(kernel).unwrap();
        let mut function = std::ptr::null_mut();
        let blocks = std::env::var("STANDIN_TEST_BLOCKS").map_or(1, |blocks| blocks.parse().unwrap());
        // SAFETY: the arguments are those of the kernel.
        unsafe {
            checked(sys::cuModuleGetFunction(&mut function, self.module, name.as_ptr()));
            checked(sys::cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                256,
                1,
                1,
                1024,
                std::ptr::null_mut(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            ));
            sys::cuCtxSynchronize()
        }
    }

    fn results(&self) -> Vec<f32> {
        let mut results = vec![0f32; ELEMENTS];
        // SAFETY: both are of this size.
        checked(unsafe { sys::cuMemcpyDtoH_v2(results.as_mut_ptr().cast(), self.to, 4 * ELEMENTS) });
        results
    }
}
