//! Calls about streams, events, captures, and graphs.

use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult::*, CUstreamCaptureMode as Mode};

use emulator::Streams;

use super::calls::{Case, allocate, begin, case, end, event, ok, page_locked, read, scale, start, stream, synchronize, write};

pub const CASES: &[Case] = &[
    case("work waits", work_waits, &[], &[]),
    case("work now", work_now, &[("DSR_STANDIN_STREAMS", "now")], &[]),
    case("pageable copies", pageable_copies, &[], &[]),
    case("streams without an event", streams_without_an_event, &[], &[]),
    case("copies first", a_copy_runs_ahead, &[("DSR_STANDIN_STREAMS", "copies-first")], &[]),
    case("random order", some_order_shows_it, &[("DSR_STANDIN_STREAMS", "random")], &[]),
    case("events, copies first", events, &[("DSR_STANDIN_STREAMS", "copies-first")], &[]),
    case("events, random order", events, &[("DSR_STANDIN_STREAMS", "random")], &[]),
    case("unknown order", work_waits, &[("DSR_STANDIN_STREAMS", "soon")], &["is none of later, now, copies-first, random"]),
    case("counts", counts, &[], &[]),
    case("events", events, &[], &[]),
    case("default stream", default_stream, &[], &[]),
    case("graph keeps arguments", graph_keeps_arguments, &[], &[]),
    case("graph of two streams", graph_of_two_streams, &[], &[]),
    case("branches of a graph", branches_of_a_graph, &[], &[]),
    case("unjoined stream", unjoined_stream, &[], &["the first stream does not wait for"]),
    case("capture forbids", capture_forbids, &[], &["cuMemAlloc", "cuMemFree", "cuMemcpyHtoD", "cuStreamSynchronize", "cuCtxSynchronize"]),
    case("relaxed capture", relaxed_capture, &[], &[]),
    case("pageable copy in capture", pageable_copy_in_capture, &[], &["is not page-locked"]),
];

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

/// What a kernel reads that was queued before a copy over its source, with no event between the two: 1 or 5.
fn read_without_an_event() -> f32 {
    let (buffer, to) = (allocate(16), allocate(16));
    let (copies, computes) = (stream(), stream());
    let source = page_locked(4);
    source.fill(5.0);
    write(buffer, &[1.0; 4]);
    ok(scale(to, buffer, 1.0, 4, computes));
    // SAFETY: see above.
    ok(unsafe { sys::cuMemcpyHtoDAsync_v2(buffer, source.as_ptr().cast(), 16, copies) });
    synchronize(computes);
    synchronize(copies);
    assert_eq!(read(buffer, 4), [5.0; 4]);
    read(to, 1)[0]
}

fn a_copy_runs_ahead() {
    start();
    assert_eq!(read_without_an_event(), 5.0, "nothing made the copy wait for the kernel");
    emulator::set_streams(Streams::Later);
    assert_eq!(read_without_an_event(), 1.0, "the wait for the kernel does not need the copy");
}

fn some_order_shows_it() {
    start();
    let mut seen = Vec::new();
    for seed in 1..=8 {
        emulator::set_streams(Streams::Random(seed));
        seen.push(read_without_an_event());
    }
    assert!(seen.contains(&1.0) && seen.contains(&5.0), "{seen:?}");
}

fn counts() {
    start();
    let (from, to) = (allocate(64), allocate(16));
    let (s, copied) = (stream(), event());
    let source = page_locked(16);
    let before = emulator::counts();
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemcpyHtoDAsync_v2(from, source.as_ptr().cast(), 64, s));
        ok(sys::cuMemsetD8Async(to, 0, 16, s));
        ok(scale(to, from, 2.0, 4, s));
        ok(sys::cuMemcpyDtoDAsync_v2(to, from, 16, s));
        ok(sys::cuEventRecord(copied, s));
        assert_eq!(emulator::counts() - before, emulator::Counts::default(), "nobody has waited");
        ok(sys::cuEventSynchronize(copied));
    }
    synchronize(s); // nothing is left to wait for
    let done = emulator::Counts { launches: 1, fills: 1, copies_to_device: 1, bytes_to_device: 64, waits: 1, ..Default::default() };
    assert_eq!(emulator::counts() - before, emulator::Counts { copies_on_device: 1, bytes_on_device: 16, ..done });
    let before = emulator::counts();
    read(to, 4);
    assert_eq!(emulator::counts() - before, emulator::Counts { copies_to_host: 1, bytes_to_host: 16, waits: 1, ..Default::default() });
    begin(s, Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    ok(scale(to, from, 2.0, 4, s));
    let graph = end(s);
    let before = emulator::counts();
    for _ in 0..3 {
        // SAFETY: see above.
        ok(unsafe { sys::cuGraphLaunch(graph, s) });
    }
    synchronize(s);
    assert_eq!(emulator::counts() - before, emulator::Counts { launches: 3, graphs: 3, waits: 1, ..Default::default() });
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

/// What a graph of two branches reads that both begin with: the copy of one over what the other reads, 1 or 5.
fn branches_of_a_graph() {
    start();
    let (buffer, to) = (allocate(16), allocate(16));
    let (first, second, forked, joined) = (stream(), stream(), event(), event());
    let source = page_locked(4);
    source.fill(5.0);
    begin(first, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    // SAFETY: see above.
    unsafe {
        ok(sys::cuMemsetD8Async(to, 0, 16, first));
        ok(sys::cuEventRecord(forked, first));
        ok(sys::cuStreamWaitEvent(second, forked, 0));
        ok(scale(to, buffer, 1.0, 4, first));
        ok(sys::cuMemcpyHtoDAsync_v2(buffer, source.as_ptr().cast(), 16, second));
        ok(sys::cuEventRecord(joined, second));
        ok(sys::cuStreamWaitEvent(first, joined, 0));
        ok(scale(to, to, 2.0, 4, first));
    }
    let graph = end(first);
    let nodes = emulator::recorded();
    let [fill, read_here, copy, last] = &nodes[..] else { panic!("{nodes:?}") };
    assert_eq!([fill, read_here, copy, last].map(|node| node.stream), [0, 0, 1, 0]);
    assert_eq!([fill, read_here, copy, last].map(|node| &node.after[..]), [&[0, 0][..], &[1, 0], &[1, 0], &[2, 1]]);
    assert!(fill.name.starts_with("cuMemset") && copy.name == "cuMemcpyHtoDAsync" && read_here.name == last.name, "{nodes:?}");
    let replayed = || {
        write(buffer, &[1.0; 4]);
        // SAFETY: see above.
        ok(unsafe { sys::cuGraphLaunch(graph, first) });
        synchronize(first);
        read(to, 1)[0]
    };
    assert_eq!([replayed(), replayed()], [2.0; 2], "the order of capture");
    let mut seen = Vec::new();
    for seed in 1..=8 {
        emulator::set_streams(Streams::Random(seed));
        seen.push(replayed());
    }
    assert!(seen.contains(&2.0) && seen.contains(&10.0), "{seen:?}");
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
