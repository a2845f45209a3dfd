//! Launches that may begin before the kernel before them has ended (`tests/kernels/dependent.cu`): what such a kernel does before its
//! wait is looked at, in both engines.

use std::path::Path;
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult};
use emulator::Check;

use super::changed_kernels::has_nvcc;
use super::children::{DEPENDENT, Outcome, run_child};

const ELEMENTS: usize = 512;
const ON_HOPPER: (&str, &str) = ("DSR_STANDIN_CAPABILITY", "9.0");
const ORDERS: [&str; 3] = ["fifo", "lifo", "random"];

/// A mistake, the code of the driver, and words of the line on stderr.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    ("never_waits", "CUDA_ERROR_ILLEGAL_ADDRESS", &["before it waits for the kernel before it: reads from"]),
    ("does_nothing", "CUDA_ERROR_LAUNCH_FAILED", &["leaves the kernel without a wait for the kernel before"]),
    (
        "reads_first",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        &["before it waits for the kernel before it: reads from", "of the allocation of 2048 bytes"],
    ),
    ("writes_first", "CUDA_ERROR_ILLEGAL_ADDRESS", &["before it waits for the kernel before it: writes to"]),
    ("adds_first", "CUDA_ERROR_ILLEGAL_ADDRESS", &["thread (3, 0, 0): before it waits for the kernel before it"]),
    ("copies_first", "CUDA_ERROR_ILLEGAL_ADDRESS", &["before it waits for the kernel before it: copy_async from global memory"]),
    ("one_thread_waits", "CUDA_ERROR_LAUNCH_FAILED", &["1 threads of 256 have come to their wait", "255 threads wait in __syncthreads"]),
    ("one_block_leaves", "CUDA_ERROR_LAUNCH_FAILED", &["block (1, 0, 0)", "leaves the kernel without a wait"]),
];

fn run_case(case: &str, library: &str, order: &str) -> Outcome {
    run_child(DEPENDENT, case, &[ON_HOPPER, ("STANDIN_TEST_LIBRARY", library), ("DSR_STANDIN_ORDER", order)])
}

/// Everything below with kernels of this library.
fn check_kernels(library: &str) {
    for order in ORDERS {
        for (case, early) in [("never_waits, waits_first, prepares_first", "2"), ("never_waits, lets_nobody, waits_first", "1")] {
            let outcome = run_case(case, library, order);
            let got = (outcome.value("code"), outcome.value("wrong"), outcome.value("dependent"), outcome.value("early"));
            assert_eq!(got, ("CUDA_SUCCESS", "0", "2", early), "{case}, {order}: {}", outcome.stderr);
        }
        for (kernel, code, words) in MISTAKES {
            let outcome = run_case(&format!("waits_first, {kernel}"), library, order);
            let line = outcome.stderr.lines().find(|line| line.starts_with("dsr stand-in: ")).unwrap_or("");
            let said = words.iter().all(|words| line.contains(words)) && line.contains(&format!("kernel {kernel}, "));
            assert!(outcome.value("code") == *code && said, "{kernel}, {order}: {}\n{}", outcome.value("code"), outcome.stderr);
        }
    }
}

#[test]
fn what_comes_before_a_wait_is_looked_at() {
    check_kernels("dependent");
}

#[test]
fn what_comes_before_a_wait_is_looked_at_in_ptx() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (source, library) = (here.join("tests/kernels/dependent.cu"), folder.path().join("dependent.so"));
    emulator::compiled_kernels(&here.join("../kernels"), source.to_str().unwrap(), "90", Check::None, &library).unwrap();
    check_kernels(library.to_str().unwrap());
    emulator::compiled_kernels(&here.join("../kernels"), source.to_str().unwrap(), "90", Check::Watch, &library).unwrap();
    for order in ORDERS {
        let outcome = run_case("waits_first, prepares_first, reads_by_nc", library.to_str().unwrap(), order);
        let said =
            outcome.stderr.contains("kernel reads_by_nc, ") && outcome.stderr.contains("reads by ld.global.nc what the kernel before");
        assert!(said && outcome.value("code") == "CUDA_ERROR_LAUNCH_FAILED", "{order}: {}", outcome.stderr);
        let outcome = run_case("waits_first, prepares_first, lets_nobody", library.to_str().unwrap(), order);
        assert_eq!(outcome.value("code"), "CUDA_SUCCESS", "{order}: {}", outcome.stderr);
    }
}

#[test]
fn older_devices_have_no_such_launches() {
    let outcome = run_child(DEPENDENT, "never_waits, waits_first", &[("STANDIN_TEST_LIBRARY", "dependent")]);
    let said = outcome.stderr.contains("no programmatic dependent launch before compute capability 9.0");
    assert!(said && outcome.value("code") == "CUDA_ERROR_NOT_SUPPORTED", "{}", outcome.stderr);
}

/// What a child does: the first kernel by a plain launch, the others by launches that may begin early, each on what the one before has
/// written.
pub fn run(case: &str) {
    emulator::load_test_kernels(&std::env::var("STANDIN_TEST_LIBRARY").unwrap());
    let (mut context, mut module, mut buffers) = (null_mut(), null_mut(), [0u64; 2]);
    let mut values: Vec<u32> = (0..ELEMENTS as u32).collect();
    let bytes = 4 * ELEMENTS;
    let checked = |code| assert_eq!(code, CUresult::CUDA_SUCCESS);
    // SAFETY: every pointer is valid for its call, and the arguments are those of the kernels.
    let code = unsafe {
        checked(sys::cuInit(0));
        checked(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        checked(sys::cuCtxSetCurrent(context));
        checked(sys::cuModuleLoadData(&mut module, b"image".as_ptr().cast()));
        buffers.iter_mut().for_each(|buffer| checked(sys::cuMemAlloc_v2(buffer, bytes)));
        checked(sys::cuMemcpyHtoD_v2(buffers[0], values.as_ptr().cast(), bytes));
        let mut code = CUresult::CUDA_SUCCESS;
        for (n, kernel) in case.split(", ").enumerate() {
            let (name, mut function) = (std::ffi::CString::new(kernel).unwrap(), null_mut());
            checked(sys::cuModuleGetFunction(&mut function, module, name.as_ptr()));
            let mut arguments = [(&raw const buffers[1 - n % 2]).cast_mut().cast(), (&raw const buffers[n % 2]).cast_mut().cast()];
            let mut attribute: sys::CUlaunchAttribute = std::mem::zeroed();
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attribute.value.programmaticStreamSerializationAllowed = 1;
            let config = sys::CUlaunchConfig {
                gridDimX: (ELEMENTS / 256) as u32,
                gridDimY: 1,
                gridDimZ: 1,
                blockDimX: 256,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: 0,
                hStream: null_mut(),
                attrs: &mut attribute,
                numAttrs: u32::from(n > 0),
            };
            let launched = sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), null_mut());
            code = if code == CUresult::CUDA_SUCCESS { launched } else { code };
        }
        let done = sys::cuCtxSynchronize();
        if code == CUresult::CUDA_SUCCESS { done } else { code }
    };
    println!("code={code:?}");
    if code == CUresult::CUDA_SUCCESS {
        let kernels = case.split(", ").count();
        // SAFETY: as above.
        checked(unsafe { sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), buffers[kernels % 2], bytes) });
        let wrong = values.iter().enumerate().filter(|(n, value)| **value as usize != n + kernels).count();
        let counts = emulator::counts();
        println!("wrong={wrong}\ndependent={}\nearly={}", counts.dependent, counts.early);
    }
}
