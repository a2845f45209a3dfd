//! Products of a warpgroup on sm_90a, bulk copies and their barriers (`tests/kernels/sm_90a/hopper.cu`): right ones beside integers, and
//! each mistake named.

use std::path::{Path, PathBuf};

use cudarc::driver::sys::{self, CUresult};
use emulator::Check;

use super::changed_kernels::has_nvcc;
use super::children::{HOPPER, Outcome, run_child};

/// Bytes along K, and rows of A.
const K: usize = 128;
const ROWS: usize = 64;

/// As `enum Mistake` of the kernels.
#[derive(Clone, Copy)]
enum Mistake {
    None = 0,
    LooksBeforeTheWait,
    NoFenceOfRegisters,
    NoFenceOfProxies,
    ExpectsTooMuch,
    ExpectsTooLittle,
    FreesTooEarly,
    WaitsForTooFew,
    OneWarpLess,
    LooksIntoAnOpenStage,
    WrongStride,
    NoFenceOfBarriers,
    LeavesACopy,
    OtherMatrix,
}

fn library(folder: &Path, check: Check) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = here.join("tests/kernels/sm_90a/hopper.cu");
    let library = folder.join("hopper.so");
    emulator::compiled_kernels(&here.join("../kernels"), source.to_str().unwrap(), "90a", check, &library).unwrap();
    library
}

fn run_case(library: &Path, kernel: &str, mistake: Mistake, order: &str, seed: &str) -> Outcome {
    let mistake = (mistake as i32).to_string();
    let environment = [
        ("STANDIN_TEST_LIBRARY", library.to_str().unwrap()),
        ("STANDIN_TEST_MISTAKE", &mistake),
        ("DSR_STANDIN_ORDER", order),
        ("DSR_STANDIN_SEED", seed),
    ];
    run_child(HOPPER, kernel, &environment)
}

const ORDERS: [(&str, &str); 4] = [("fifo", "1"), ("lifo", "1"), ("random", "1"), ("random", "2")];

const KERNELS: [&str; 11] = [
    "stored_8",
    "stored_64",
    "stored_128",
    "stored_64_by_32",
    "stored_64_by_64",
    "stored_64_by_128",
    "stored_64_both",
    "stored_64_both_by_128",
    "copied_8",
    "copied_64",
    "copied_128",
];

#[test]
fn products_of_a_warpgroup_are_those_of_integers() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for check in [Check::None, Check::Watch] {
        let library = library(folder.path(), check);
        for (order, seed) in ORDERS {
            for kernel in KERNELS {
                let outcome = run_case(&library, kernel, Mistake::None, order, seed);
                assert_eq!(outcome.value("code"), "CUDA_SUCCESS", "{kernel}, {order}: {}", outcome.stderr);
                assert_eq!(outcome.value("wrong"), "0", "{kernel}, {order}, {check:?}");
            }
        }
    }
}

/// What a mistake is said to be; orders in which it shows, beside which the results may be right.
const NAMED: &[(&str, Mistake, &str, &[&str])] = &[
    ("stored_64", Mistake::LooksBeforeTheWait, "is read before wgmma.wait_group", &["fifo", "lifo", "random"]),
    ("stored_64", Mistake::NoFenceOfRegisters, "no wgmma.fence since a register", &["fifo", "lifo", "random"]),
    ("stored_64", Mistake::OneWarpLess, "warp 2 has no part in a product of its warpgroup", &["fifo", "lifo", "random"]),
    ("stored_64", Mistake::OtherMatrix, "another warp of the warpgroup has another product here", &["fifo", "lifo", "random"]),
    ("copied_64", Mistake::ExpectsTooMuch, "no thread can go on; 128 threads wait at a barrier", &["fifo", "lifo", "random"]),
    ("copied_64", Mistake::ExpectsTooLittle, "16 bytes more have come than were announced", &["fifo", "lifo", "random"]),
    ("copied_64", Mistake::WaitsForTooFew, "a register is written that a wgmma.mma_async under way reads", &["fifo", "lifo", "random"]),
    ("copied_64", Mistake::NoFenceOfBarriers, "no fence.proxy.async between mbarrier.init and the copy", &["fifo", "lifo", "random"]),
    ("copied_64", Mistake::LeavesACopy, "while a copy into its shared memory is under way", &["fifo"]),
    ("copied_64", Mistake::FreesTooEarly, "cp.async.bulk overwrites what a product of warp", &["lifo"]),
];

#[test]
fn mistakes_around_products_are_named() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path(), Check::None);
    let mut missed = Vec::new();
    for (kernel, mistake, words, orders) in NAMED {
        for order in *orders {
            let outcome = run_case(&library, kernel, *mistake, order, "1");
            let place =
                outcome.stderr.contains("hopper.cuh:") || outcome.stderr.contains("hopper.cu:") || outcome.stderr.contains("no thread");
            if outcome.value("code") != "CUDA_ERROR_LAUNCH_FAILED" || !outcome.stderr.contains(words) || !place {
                missed.push(format!("{words} ({order}): {}\n{}", outcome.value("code"), outcome.stderr));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn mistakes_in_what_a_product_reads_show_in_its_sums() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path(), Check::None);
    for (kernel, mistake) in [("stored_64_by_128", Mistake::WrongStride), ("copied_64", Mistake::LooksIntoAnOpenStage)] {
        let outcome = run_case(&library, kernel, mistake, "fifo", "1");
        let is_seen = outcome.value("code") != "CUDA_SUCCESS" || outcome.value("wrong") != "0";
        assert!(is_seen, "{kernel}: {}", outcome.stderr);
    }
}

#[test]
fn stores_without_a_fence_of_proxies_are_named_by_the_watch() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path(), Check::Watch);
    for (order, seed) in ORDERS {
        let outcome = run_case(&library, "stored_64", Mistake::NoFenceOfProxies, order, seed);
        let said =
            ["wgmma.mma_async reads what thread ", "no fence.proxy.async in between"].iter().all(|words| outcome.stderr.contains(words));
        assert!(said && outcome.value("code") == "CUDA_ERROR_LAUNCH_FAILED", "{order}: {}", outcome.stderr);
    }
}

/// What a child does: a product of random bytes, compared with integers.
pub fn run(kernel: &str) {
    emulator::load_test_kernels(&std::env::var("STANDIN_TEST_LIBRARY").unwrap());
    let mistake: i32 = std::env::var("STANDIN_TEST_MISTAKE").unwrap().parse().unwrap();
    let columns: usize = kernel.split('_').nth(1).unwrap().parse().unwrap();
    let mut random = 1u64;
    let mut byte = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    };
    let a: Vec<u8> = (0..ROWS * K).map(|_| byte()).collect();
    let b: Vec<u8> = (0..columns * K).map(|_| byte()).collect();
    let place = |column: usize, k: usize| {
        let in_step = column / 8 * 256 + k % 32 / 16 * 128 + column % 8 * 16 + k % 16;
        if kernel.starts_with("copied") { k / 32 * columns * 32 + in_step } else { column * K + k }
    };
    let of_a = |byte: u8| if columns == 128 { i32::from(byte as i8) } else { i32::from(byte) };
    let expected = |row: usize, column: usize| -> i32 { (0..K).map(|k| of_a(a[row * K + k]) * i32::from(b[place(column, k)] as i8)).sum() };
    let threads = if kernel.starts_with("copied") { 160 } else { 128 };
    let shared = if kernel.starts_with("copied") { 2 * columns * 32 } else { (columns + ROWS) * K };
    let (code, sums) = launch(kernel, &[a.clone(), b.clone()].concat(), ROWS * columns, threads, shared as u32, mistake);
    println!("code={code:?}");
    if code == CUresult::CUDA_SUCCESS {
        let wrong = (0..ROWS * columns).filter(|at| sums[*at] != expected(at / columns, at % columns)).count();
        println!("wrong={wrong}");
    }
}

fn checked(code: CUresult) {
    assert_eq!(code, CUresult::CUDA_SUCCESS);
}

fn launch(kernel: &str, from: &[u8], results: usize, threads: u32, shared: u32, mistake: i32) -> (CUresult, Vec<i32>) {
    let name = std::ffi::CString::new(kernel).unwrap();
    let (mut context, mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    let (mut to, mut source) = (0u64, 0u64);
    let mut sums = vec![0i32; results];
    let null = std::ptr::null_mut();
    // SAFETY: every pointer is valid for its call, and the arguments are those of the kernel.
    unsafe {
        checked(sys::cuInit(0));
        checked(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        checked(sys::cuCtxSetCurrent(context));
        checked(sys::cuModuleLoadData(&mut module, b"image".as_ptr().cast()));
        checked(sys::cuMemAlloc_v2(&mut to, 4 * results));
        checked(sys::cuMemAlloc_v2(&mut source, from.len()));
        checked(sys::cuMemcpyHtoD_v2(source, from.as_ptr().cast(), from.len()));
        checked(sys::cuModuleGetFunction(&mut function, module, name.as_ptr()));
        let mut arguments = [(&raw mut to).cast(), (&raw mut source).cast(), (&raw const mistake).cast_mut().cast()];
        checked(sys::cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, shared, std::ptr::null_mut(), arguments.as_mut_ptr(), null));
        let code = sys::cuCtxSynchronize();
        if code == CUresult::CUDA_SUCCESS {
            checked(sys::cuMemcpyDtoH_v2(sums.as_mut_ptr().cast(), to, 4 * results));
        }
        (code, sums)
    }
}
