//! The driver calls: what the engine relies on, and how misuse is reported. Each case runs in a process of its own.

mod support;

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult::*, CUstreamCaptureMode as Mode};
use support::{own_case, run_child};

/// A case, the environment it runs in, and what its stderr has to contain (nothing: it must be silent).
struct Case {
    name: &'static str,
    run: fn(),
    environment: &'static [(&'static str, &'static str)],
    said: &'static [&'static str],
}

const fn case(name: &'static str, run: fn(), environment: &'static [(&'static str, &'static str)], said: &'static [&'static str]) -> Case {
    Case { name, run, environment, said }
}

const CASES: &[Case] = &[
    case("device", device, &[], &[]),
    case("no device", no_device, &[("DSR_STANDIN_DEVICES", "0")], &[]),
    case("two devices", two_devices, &[("DSR_STANDIN_DEVICES", "2")], &[]),
    case("old driver", old_driver, &[("DSR_STANDIN_VERSION", "11040")], &[]),
    case("old device", old_device, &[("DSR_STANDIN_CAPABILITY", "7.5")], &[]),
    case("out of memory", out_of_memory, &[("DSR_STANDIN_MEMORY", "100000")], &[]),
    case("double free", double_free, &[], &["in freed memory: the allocation of 64 bytes"]),
    case(
        "copies out of bounds",
        copies_out_of_bounds,
        &[],
        &["cuMemcpyHtoD of 65 bytes", "cuMemcpyDtoH of 65 bytes", "cuMemsetD8 of 65 bytes"],
    ),
    case("parameters", parameters, &[], &[]),
    case(
        "launch limits",
        launch_limits,
        &[("DSR_STANDIN_REGISTERS", "scale=600,sum_blocks=255")],
        &[
            "129 threads a block, but its launch bounds are 128",
            "above (1024, 1024, 64) or 1024 threads",
            "a grid of (1, 65536, 1)",
            "49153 bytes of dynamic shared memory, and its attribute MAX_DYNAMIC_SHARED_SIZE_BYTES allows 49152",
            "166913 bytes of dynamic shared memory, and a block has at most 166912",
            "128 threads of 600 registers take 76800, and there are 65536",
        ],
    ),
    case("occupancy", occupancy, &[("DSR_STANDIN_REGISTERS", "scale=64")], &[]),
    case("work waits", work_waits, &[], &[]),
    case("work now", work_now, &[("DSR_STANDIN_STREAMS", "now")], &[]),
    case("pageable copies", pageable_copies, &[], &[]),
    case("streams without an event", streams_without_an_event, &[], &[]),
    case("events", events, &[], &[]),
    case("default stream", default_stream, &[], &[]),
    case("graph keeps arguments", graph_keeps_arguments, &[], &[]),
    case("graph of two streams", graph_of_two_streams, &[], &[]),
    case("unjoined stream", unjoined_stream, &[], &["the first stream does not wait for"]),
    case("capture forbids", capture_forbids, &[], &["cuMemAlloc", "cuMemFree", "cuMemcpyHtoD", "cuStreamSynchronize", "cuCtxSynchronize"]),
    case("relaxed capture", relaxed_capture, &[], &[]),
    case("pageable copy in capture", pageable_copy_in_capture, &[], &["is not page-locked"]),
    case("no context", no_context, &[], &[]),
    case("absent call", absent_call, &[], &["cuMemAllocManaged is not modelled"]),
    case("error names", error_names, &[], &[]),
];

#[test]
fn calls_do_what_a_driver_does() {
    let mut wrong = Vec::new();
    for case in CASES {
        let outcome = run_child(case.name, case.environment);
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
    let clean = run_child("frees all", &leaks);
    assert_eq!((clean.status, clean.stderr.contains("leaks")), (Some(0), false), "{}", clean.stderr);
    let leaky = run_child("frees not all", &leaks);
    assert_eq!(leaky.status, Some(3), "{}", leaky.stderr);
    assert!(leaky.stderr.contains("2 allocations, 1 page-locked blocks, 1 streams, 1 events, 1 modules"), "{}", leaky.stderr);
    assert!(leaky.stderr.contains("the allocation of 64 bytes"), "{}", leaky.stderr);
    assert_eq!(run_child("frees not all", &[]).status, Some(0));
}

/// Not a test by itself: what the other tests run in a process of their own.
#[test]
fn in_child() {
    let Some(name) = own_case() else { return };
    emulator::load_test_kernels("sound");
    match name.as_str() {
        "frees all" => leave_behind(true),
        "frees not all" => leave_behind(false),
        _ => (CASES.iter().find(|case| case.name == name).unwrap().run)(),
    }
}

// ---- what the cases are written with; every pointer that they pass is valid for its call

fn ok(code: sys::CUresult) {
    assert_eq!(code, CUDA_SUCCESS);
}

fn start() {
    let mut context = null_mut();
    // SAFETY: see above.
    unsafe {
        ok(sys::cuInit(0));
        ok(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        ok(sys::cuCtxSetCurrent(context));
    }
}

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    // SAFETY: see above.
    ok(unsafe { sys::cuMemAlloc_v2(&mut address, bytes) });
    address
}

fn page_locked(count: usize) -> &'static mut [f32] {
    let mut start = null_mut();
    // SAFETY: see above; the block is never freed.
    unsafe {
        ok(sys::cuMemHostAlloc(&mut start, 4 * count, 0));
        std::slice::from_raw_parts_mut(start.cast(), count)
    }
}

fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) });
    stream
}

fn event() -> sys::CUevent {
    let mut event = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuEventCreate(&mut event, 0) });
    event
}

fn module() -> sys::CUmodule {
    let mut module = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuModuleLoadData(&mut module, b"image".as_ptr().cast()) });
    module
}

fn function(name: &str) -> sys::CUfunction {
    let name = CString::new(name).unwrap();
    let mut function = null_mut();
    // SAFETY: see above.
    ok(unsafe { sys::cuModuleGetFunction(&mut function, module(), name.as_ptr()) });
    function
}

fn read(from: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0f32; count];
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), from, 4 * count) });
    values
}

fn write(to: u64, values: &[f32]) {
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyHtoD_v2(to, values.as_ptr().cast(), size_of_val(values)) });
}

#[repr(C)]
struct Scaling {
    factor: f32,
    count: i32,
}

/// Launches `scale`: to = factor · from, one block.
fn scale(to: u64, from: u64, factor: f32, count: usize, stream: sys::CUstream) -> sys::CUresult {
    let scaling = Scaling { factor, count: count as i32 };
    let mut arguments: [*mut c_void; 3] =
        [(&raw const to).cast_mut().cast(), (&raw const from).cast_mut().cast(), (&raw const scaling).cast_mut().cast()];
    // SAFETY: see above.
    unsafe { sys::cuLaunchKernel(function("scale"), 1, 1, 1, 128, 1, 1, 0, stream, arguments.as_mut_ptr(), null_mut()) }
}

fn synchronize(stream: sys::CUstream) {
    // SAFETY: see above.
    ok(unsafe { sys::cuStreamSynchronize(stream) });
}

fn begin(stream: sys::CUstream, mode: Mode) {
    // SAFETY: see above.
    ok(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) });
}

/// Ends the capture and makes it executable.
fn end(stream: sys::CUstream) -> sys::CUgraphExec {
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

// ---- the cases

fn device() {
    start();
    let context = cudarc::driver::CudaContext::new(0).unwrap();
    assert_eq!(context.name().unwrap(), "dsr host stand-in");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.mem_get_info().unwrap(), (8 << 30, 8 << 30));
    let taken = allocate(1000);
    assert_eq!(context.mem_get_info().unwrap().0, (8 << 30) - 1024);
    // SAFETY: see above.
    ok(unsafe { sys::cuMemFree_v2(taken) });
    let attribute = |which| context.attribute(which).unwrap();
    use sys::CUdevice_attribute as A;
    assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 108);
    assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 166912);
    assert!(cudarc::driver::CudaContext::new(1).is_err());
}

fn no_device() {
    // SAFETY: see above.
    assert_eq!(unsafe { sys::cuInit(0) }, CUDA_ERROR_NO_DEVICE);
}

fn two_devices() {
    start();
    let (mut count, mut device) = (0, 0);
    // SAFETY: see above.
    unsafe {
        ok(sys::cuDeviceGetCount(&mut count));
        ok(sys::cuDeviceGet(&mut device, 1));
        assert_eq!(sys::cuDeviceGet(&mut device, 2), CUDA_ERROR_INVALID_DEVICE);
    }
    assert_eq!(count, 2);
}

fn old_driver() {
    start();
    let (mut version, mut module) = (0, null_mut());
    // SAFETY: see above.
    unsafe {
        ok(sys::cuDriverGetVersion(&mut version));
        assert_eq!(sys::cuModuleLoadData(&mut module, b"image".as_ptr().cast()), CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    }
    assert_eq!(version, 11040);
}

fn old_device() {
    start();
    let mut module = null_mut();
    // SAFETY: see above.
    assert_eq!(unsafe { sys::cuModuleLoadData(&mut module, b"image".as_ptr().cast()) }, CUDA_ERROR_NO_BINARY_FOR_GPU);
}

fn out_of_memory() {
    start();
    let mut address = 0;
    let taken = allocate(60000);
    // SAFETY: see above.
    unsafe {
        assert_eq!(sys::cuMemAlloc_v2(&mut address, 60000), CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(sys::cuMemAlloc_v2(&mut address, usize::MAX), CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(sys::cuMemAlloc_v2(&mut address, 0), CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuMemFree_v2(taken));
    }
    allocate(60000);
}

fn double_free() {
    start();
    let address = allocate(64);
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemFree_v2(address));
        assert_eq!(sys::cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuMemFree_v2(0));
    }
}

fn copies_out_of_bounds() {
    start();
    let there = allocate(64);
    let mut here = [0u8; 65];
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemcpyHtoD_v2(there, here.as_ptr().cast(), 64));
        assert_eq!(sys::cuMemcpyHtoD_v2(there, here.as_ptr().cast(), 65), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyDtoH_v2(here.as_mut_ptr().cast(), there, 65), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemsetD8_v2(there, 0, 65), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyDtoD_v2(there, there + 1, 64), CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuMemcpyDtoD_v2(there, there + 32, 32));
    }
}

fn parameters() {
    start();
    let function = function("parameters");
    // SAFETY: see above.
    let info = |index| unsafe {
        let (mut offset, mut size) = (0, 0);
        (sys::cuFuncGetParamInfo(function, index, &mut offset, &mut size) == CUDA_SUCCESS).then_some((offset, size))
    };
    // (double* to, uint8_t a, double b, uint16_t c, struct of 5 bytes d, const float* e, int f)
    let expected = [(0, 8), (8, 1), (16, 8), (24, 2), (26, 5), (32, 8), (40, 4)];
    assert_eq!((0..7).map(|i| info(i).unwrap()).collect::<Vec<_>>(), expected);
    assert_eq!(info(7), None);
    let mut absent = null_mut();
    // SAFETY: see above.
    assert_eq!(unsafe { sys::cuModuleGetFunction(&mut absent, module(), c"no_such_kernel".as_ptr()) }, CUDA_ERROR_NOT_FOUND);
}

fn launch_limits() {
    start();
    use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC;
    let places = function("places");
    let to = allocate(4 * 1024);
    // SAFETY: see above.
    let launch = |function, grid: [u32; 3], block: u32, shared| unsafe {
        let (count, buffer) = (0u64, (&raw const to).cast_mut().cast());
        let mut arguments = [buffer, buffer, buffer, (&raw const count).cast_mut().cast()];
        sys::cuLaunchKernel(function, grid[0], grid[1], grid[2], block, 1, 1, shared, null_mut(), arguments.as_mut_ptr(), null_mut())
    };
    assert_eq!(launch(function("through_bf16"), [1, 1, 1], 129, 0), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert_eq!(launch(function("scale"), [1, 1, 1], 129, 0), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert_eq!(launch(places, [1, 1, 1], 1025, 0), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(places, [0, 1, 1], 1, 0), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(places, [1, 65536, 1], 1, 0), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(function("scale"), [1, 1, 1], 128, 0), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert_eq!(launch(function("sum_blocks"), [1, 1, 1], 256, 0), CUDA_SUCCESS);
    assert_eq!(launch(places, [1, 1, 1], 1, 49152), CUDA_SUCCESS);
    assert_eq!(launch(places, [1, 1, 1], 1, 49153), CUDA_ERROR_INVALID_VALUE);
    // SAFETY: see above.
    unsafe {
        assert_eq!(sys::cuFuncSetAttribute(places, DYNAMIC, 166913), CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuFuncSetAttribute(places, DYNAMIC, 166912));
    }
    assert_eq!(launch(places, [1, 1, 1], 1, 166912), CUDA_SUCCESS);
    synchronize(null_mut());
}

fn occupancy() {
    start();
    let (mut blocks, mut registers) = (0, 0);
    // SAFETY: see above.
    unsafe {
        let function = function("scale");
        ok(sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, 128, 0));
        assert_eq!(blocks, 8); // 4 warps of 64 registers: 8192 of 65536
        ok(sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, 128, 40 * 1024));
        assert_eq!(blocks, 4); // 41 KiB of 164
        ok(sys::cuFuncGetAttribute(&mut registers, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS, function));
        assert_eq!(registers, 64);
    }
}

fn work_waits() {
    start();
    let (from, to, s) = (allocate(16), allocate(16), stream());
    let (source, result) = (page_locked(4), page_locked(4));
    source.fill(1.0);
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemcpyHtoDAsync_v2(from, source.as_ptr().cast(), 16, s));
        ok(scale(to, from, 3.0, 4, s));
        ok(sys::cuMemcpyDtoHAsync_v2(result.as_mut_ptr().cast(), to, 16, s));
    }
    source.fill(2.0); // too early: the copy reads it when it runs
    assert!(result[0].is_nan(), "nobody has waited yet");
    synchronize(s);
    assert_eq!(result, [6.0; 4]);
}

fn work_now() {
    start();
    let (from, to) = (allocate(16), allocate(16));
    write(from, &[1.0; 4]);
    let (result, s) = (page_locked(4), stream());
    ok(scale(to, from, 3.0, 4, s));
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyDtoHAsync_v2(result.as_mut_ptr().cast(), to, 16, s) });
    assert_eq!(result, [3.0; 4]);
}

fn pageable_copies() {
    start();
    let (there, s) = (allocate(16), stream());
    let mut here = vec![1f32; 4];
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyHtoDAsync_v2(there, here.as_ptr().cast(), 16, s) });
    here.fill(2.0); // allowed: pageable memory is read before the call returns
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyDtoHAsync_v2(here.as_mut_ptr().cast(), there, 16, s) });
    assert_eq!(here, [1.0; 4]);
}

fn streams_without_an_event() {
    start();
    let (buffer, to) = (allocate(16), allocate(16));
    let (copies, computes) = (stream(), stream());
    let source = page_locked(4);
    source.fill(5.0);
    write(buffer, &[1.0; 4]);
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyHtoDAsync_v2(buffer, source.as_ptr().cast(), 16, copies) });
    ok(scale(to, buffer, 1.0, 4, computes));
    synchronize(computes);
    synchronize(copies);
    assert_eq!(read(to, 4), [1.0; 4], "nothing made the kernel wait for the copy");
}

fn events() {
    start();
    let (buffer, to) = (allocate(16), allocate(16));
    let (copies, computes, copied, done) = (stream(), stream(), event(), event());
    let source = page_locked(4);
    source.fill(5.0);
    let mut milliseconds = -1f32;
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemcpyHtoDAsync_v2(buffer, source.as_ptr().cast(), 16, copies));
        ok(sys::cuEventRecord(copied, copies));
        ok(sys::cuStreamWaitEvent(computes, copied, 0));
        ok(scale(to, buffer, 1.0, 4, computes));
        ok(sys::cuEventRecord(done, computes));
        assert_eq!(sys::cuEventElapsedTime_v2(&mut milliseconds, copied, done), CUDA_ERROR_NOT_READY);
        ok(sys::cuEventSynchronize(done));
        ok(sys::cuEventQuery(done));
        ok(sys::cuEventElapsedTime_v2(&mut milliseconds, copied, done));
    }
    assert_eq!(read(to, 4), [5.0; 4]);
    assert!(milliseconds >= 0.0);
}

fn default_stream() {
    start();
    let (buffer, to) = (allocate(16), allocate(16));
    let mut blocking = null_mut();
    write(buffer, &[1.0; 4]);
    // SAFETY: see above.
    ok(unsafe { sys::cuStreamCreate(&mut blocking, 0) });
    ok(scale(to, buffer, 2.0, 4, blocking));
    ok(scale(buffer, to, 3.0, 4, null_mut())); // after all blocking streams
    ok(scale(to, buffer, 5.0, 4, blocking)); // after the default stream
    synchronize(blocking);
    assert_eq!(read(to, 4), [30.0; 4]);
}

fn graph_keeps_arguments() {
    start();
    let (from, to, s) = (allocate(16), allocate(16), stream());
    let source = page_locked(4);
    begin(s, Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemcpyHtoDAsync_v2(from, source.as_ptr().cast(), 16, s));
        ok(sys::cuMemsetD32Async(from + 8, 7f32.to_bits(), 1, s));
    }
    ok(scale(to, from, 2.0, 4, s)); // the arguments die with this call
    let graph = end(s);
    for value in [1.0, 2.0] {
        source.fill(value);
        // SAFETY: see above.
        ok(unsafe { sys::cuGraphLaunch(graph, s) });
        synchronize(s);
        assert_eq!(read(to, 4), [2.0 * value, 2.0 * value, 14.0, 2.0 * value]);
    }
    // SAFETY: see above.
    ok(unsafe { sys::cuGraphExecDestroy(graph) });
}

fn graph_of_two_streams() {
    start();
    let (a, b, c) = (allocate(16), allocate(16), allocate(16));
    let (first, second, forked, joined) = (stream(), stream(), event(), event());
    write(a, &[1.0; 4]);
    begin(first, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    // SAFETY: see above.
    unsafe {
        ok(sys::cuEventRecord(forked, first));
        ok(sys::cuStreamWaitEvent(second, forked, 0));
        ok(scale(b, a, 2.0, 4, second));
        ok(sys::cuEventRecord(joined, second));
        ok(sys::cuStreamWaitEvent(first, joined, 0));
        ok(scale(c, b, 3.0, 4, first));
        assert_eq!(sys::cuEventSynchronize(joined), CUDA_ERROR_CAPTURED_EVENT);
    }
    let graph = end(first);
    // SAFETY: see above.
    ok(unsafe { sys::cuGraphLaunch(graph, second) });
    synchronize(second);
    assert_eq!(read(c, 4), [6.0; 4]);
}

fn unjoined_stream() {
    start();
    let (a, b) = (allocate(16), allocate(16));
    let (first, second, forked) = (stream(), stream(), event());
    let mut graph = null_mut();
    begin(first, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    // SAFETY: see above.
    unsafe {
        ok(sys::cuEventRecord(forked, first));
        ok(sys::cuStreamWaitEvent(second, forked, 0));
        ok(scale(b, a, 2.0, 4, second));
        assert_eq!(sys::cuStreamEndCapture(first, &mut graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    }
}

fn capture_forbids() {
    start();
    let (taken, to_free, host) = (allocate(16), allocate(16), [0f32; 4]);
    // SAFETY: see above.
    let calls: [(&str, &dyn Fn(sys::CUstream) -> sys::CUresult); 5] = unsafe {
        [
            ("allocation", &|_| sys::cuMemAlloc_v2(&mut 0, 16)),
            ("free", &|_| sys::cuMemFree_v2(to_free)),
            ("copy", &|_| sys::cuMemcpyHtoD_v2(taken, host.as_ptr().cast(), 16)),
            ("stream", &|s| sys::cuStreamSynchronize(s)),
            ("context", &|_| sys::cuCtxSynchronize()),
        ]
    };
    for (name, call) in calls {
        let s = stream();
        let mut graph = null_mut();
        begin(s, Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        assert_eq!(call(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "{name}");
        // SAFETY: see above.
        assert_eq!(unsafe { sys::cuStreamEndCapture(s, &mut graph) }, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{name}");
        ok(call(s)); // allowed again
    }
}

fn relaxed_capture() {
    start();
    let s = stream();
    begin(s, Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
    allocate(16);
    end(s);
}

fn pageable_copy_in_capture() {
    start();
    let (there, s, here) = (allocate(16), stream(), [0f32; 4]);
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    begin(s, Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    // SAFETY: see above.
    unsafe {
        assert_eq!(sys::cuMemcpyHtoDAsync_v2(there, here.as_ptr().cast(), 16, s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        ok(sys::cuStreamIsCapturing(s, &mut status));
    }
    assert_eq!(status, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
}

fn no_context() {
    let mut count = 0;
    let mut address = 0;
    // SAFETY: see above.
    unsafe {
        assert_eq!(sys::cuDeviceGetCount(&mut count), CUDA_ERROR_NOT_INITIALIZED);
        ok(sys::cuInit(0));
        assert_eq!(sys::cuMemAlloc_v2(&mut address, 16), CUDA_ERROR_INVALID_CONTEXT);
    }
    start();
    // SAFETY: see above.
    std::thread::spawn(|| assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut 0, 16) }, CUDA_ERROR_INVALID_CONTEXT)).join().unwrap();
}

fn absent_call() {
    start();
    let mut address = 0;
    // SAFETY: see above.
    assert_eq!(unsafe { sys::cuMemAllocManaged(&mut address, 16, 1) }, CUDA_ERROR_NOT_SUPPORTED);
}

fn error_names() {
    let error = cudarc::driver::DriverError(CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(error.error_string().unwrap(), c"out of memory");
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
