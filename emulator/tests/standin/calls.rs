//! What the cases of driver calls are written with, and the test that runs them, each in a process of its own.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult::*, CUstreamCaptureMode as Mode};

use emulator::Order;

use super::children::{CALL, run_child};
use super::{device, streams};

/// A case, the environment it runs in, and what its stderr has to contain (nothing: it must be silent).
pub struct Case {
    pub name: &'static str,
    pub run: fn(),
    pub environment: &'static [(&'static str, &'static str)],
    pub said: &'static [&'static str],
}

pub const fn case(
    name: &'static str,
    run: fn(),
    environment: &'static [(&'static str, &'static str)],
    said: &'static [&'static str],
) -> Case {
    Case { name, run, environment, said }
}

#[test]
fn calls_do_what_a_driver_does() {
    let mut wrong = Vec::new();
    for case in device::CASES.iter().chain(streams::CASES) {
        let outcome = run_child(CALL, case.name, case.environment);
        let said = case.said.iter().all(|part| outcome.stderr.contains(part));
        let silent = !case.said.is_empty() || !outcome.stderr.contains("dsr stand-in");
        if outcome.status != Some(0) || !said || !silent {
            wrong.push(format!("{}: status {:?}, expected {:?}\n{}", case.name, outcome.status, case.said, outcome.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn leaks_are_reported_at_exit() {
    let leaks = [("DSR_STANDIN_LEAKS", "1")];
    let clean = run_child(CALL, "frees all", &leaks);
    assert_eq!((clean.status, clean.stderr.contains("leaks")), (Some(0), false), "{}", clean.stderr);
    let leaky = run_child(CALL, "frees not all", &leaks);
    assert_eq!(leaky.status, Some(3), "{}", leaky.stderr);
    assert!(leaky.stderr.contains("2 allocations, 1 page-locked blocks, 1 streams, 1 events, 1 modules"), "{}", leaky.stderr);
    assert!(leaky.stderr.contains("the allocation of 64 bytes"), "{}", leaky.stderr);
    assert_eq!(run_child(CALL, "frees not all", &[]).status, Some(0));
}

#[test]
fn a_process_finds_the_driver_by_its_path() {
    let (folder, kernels) = (emulator::directory().to_str().unwrap(), emulator::test_kernels("sound"));
    let outcome = run_child(CALL, "found by path", &[("LD_LIBRARY_PATH", folder), ("DSR_STANDIN_KERNELS", kernels.to_str().unwrap())]);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
}

#[test]
fn order_and_registers_can_be_set_in_the_process() {
    let outcome = run_child(CALL, "set in the process", &[]);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
}

/// What a child does.
pub fn run(name: &str) {
    if name == "found by path" {
        return scales_by_three();
    }
    emulator::load_test_kernels("sound");
    match name {
        "set in the process" => {
            for order in [Order::Fifo, Order::Lifo, Order::Random(7)] {
                emulator::set_order(order);
                scales_by_three();
            }
            emulator::set_registers("scale=600");
            assert_eq!(scale(0, 0, 1.0, 0, null_mut()), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
        }
        "frees all" => leave_behind(true),
        "frees not all" => leave_behind(false),
        _ => (device::CASES.iter().chain(streams::CASES).find(|case| case.name == name).unwrap().run)(),
    }
}

fn scales_by_three() {
    start();
    let (from, to) = (allocate(16), allocate(16));
    write(from, &[1.0, 2.0, 3.0, 4.0]);
    ok(scale(to, from, 3.0, 4, null_mut()));
    assert_eq!(read(to, 4), [3.0, 6.0, 9.0, 12.0]);
}

/// Makes one of everything, and frees it or not.
fn leave_behind(free: bool) {
    start();
    let (a, b, s, e, m) = (allocate(64), allocate(128), stream(), event(), module());
    let host = page_locked(4);
    if !free {
        return;
    }
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemFree_v2(a));
        ok(sys::cuMemFree_v2(b));
        ok(sys::cuStreamDestroy_v2(s));
        ok(sys::cuEventDestroy_v2(e));
        ok(sys::cuModuleUnload(m));
        ok(sys::cuMemFreeHost(host.as_mut_ptr().cast()));
    }
}

// What follows is what cases are written with; every pointer that they pass is valid for its call.

pub fn ok(code: sys::CUresult) {
    assert_eq!(code, CUDA_SUCCESS);
}

pub fn start() {
    let mut context = null_mut();
    // SAFETY: see above.
    unsafe {
        ok(sys::cuInit(0));
        ok(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        ok(sys::cuCtxSetCurrent(context));
    }
}

pub fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    // SAFETY: see above.
    ok(unsafe { sys::cuMemAlloc_v2(&mut address, bytes) });
    address
}

pub fn page_locked(count: usize) -> &'static mut [f32] {
    let mut start = null_mut();
    // SAFETY: see above; the block is never freed.
    unsafe {
        ok(sys::cuMemHostAlloc(&mut start, 4 * count, 0));
        std::slice::from_raw_parts_mut(start.cast(), count)
    }
}

pub fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) });
    stream
}

pub fn event() -> sys::CUevent {
    let mut event = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuEventCreate(&mut event, 0) });
    event
}

pub fn module() -> sys::CUmodule {
    let mut module = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuModuleLoadData(&mut module, b"image".as_ptr().cast()) });
    module
}

pub fn function(name: &str) -> sys::CUfunction {
    let name = CString::new(name).unwrap();
    let mut function = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuModuleGetFunction(&mut function, module(), name.as_ptr()) });
    function
}

pub fn read(from: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0f32; count];
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), from, 4 * count) });
    values
}

pub fn write(to: u64, values: &[f32]) {
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyHtoD_v2(to, values.as_ptr().cast(), size_of_val(values)) });
}

#[repr(C)]
struct Scaling {
    factor: f32,
    count: i32,
}

/// Launches `scale`: to = factor · from, one block.
pub fn scale(to: u64, from: u64, factor: f32, count: usize, stream: sys::CUstream) -> sys::CUresult {
    let scaling = Scaling { factor, count: count as i32 };
    let mut arguments: [*mut c_void; 3] =
        [(&raw const to).cast_mut().cast(), (&raw const from).cast_mut().cast(), (&raw const scaling).cast_mut().cast()];
    // SAFETY: see above.
    unsafe { sys::cuLaunchKernel(function("scale"), 1, 1, 1, 128, 1, 1, 0, stream, arguments.as_mut_ptr(), null_mut()) }
}

pub fn synchronize(stream: sys::CUstream) {
    // SAFETY: see above.
    ok(unsafe { sys::cuStreamSynchronize(stream) });
}

pub fn begin(stream: sys::CUstream, mode: Mode) {
    // SAFETY: see above.
    ok(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) });
}

/// Ends the capture and makes it executable.
pub fn end(stream: sys::CUstream) -> sys::CUgraphExec {
    let (mut graph, mut executable) = (null_mut(), null_mut());
    // SAFETY: see above.
    unsafe {
        ok(sys::cuStreamEndCapture(stream, &mut graph));
        ok(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        ok(sys::cuGraphUpload(executable, stream));
        ok(sys::cuGraphDestroy(graph));
    }
    executable
}
