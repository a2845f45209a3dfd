//! Calls about devices, memory, modules, and launches.

use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult::*};

use super::calls::{Case, allocate, case, function, module, ok, start, synchronize};

pub const CASES: &[Case] = &[
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
    case("no context", no_context, &[], &[]),
    case("absent call", absent_call, &[], &["cuMemAllocManaged is not modelled"]),
    case("error names", error_names, &[], &[]),
];

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
        assert_eq!(sys::cuModuleLoadData(&mut module, c"image".as_ptr().cast()), CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(sys::cuModuleLoadData(&mut module, c".version 7.5".as_ptr().cast()), CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        ok(sys::cuModuleLoadData(&mut module, c"// by nvcc\n.version 7.4".as_ptr().cast()));
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
