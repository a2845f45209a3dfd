//! Kernels without a fault give what the same arithmetic gives on the host, in every order of threads.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

struct Device {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
}

fn device() -> Device {
    emulator::load_test_kernels("sound");
    let context = CudaContext::new(0).unwrap();
    // SAFETY: every test uses one stream.
    unsafe { context.disable_event_tracking() };
    let module = context.load_module(Ptx::from_binary(b"any image".to_vec())).unwrap();
    Device { stream: context.new_stream().unwrap(), module }
}

impl Device {
    fn kernel(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap()
    }
}

fn shape(grid: u32, block: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: shared }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Scaling {
    factor: f32,
    count: i32,
}
// SAFETY: plain numbers, laid out as in tests/kernels/sound.cu.
unsafe impl DeviceRepr for Scaling {}

#[test]
fn a_kernel_without_barriers_covers_a_ragged_grid() {
    let d = device();
    for count in [1, 127, 128, 129, 5000] {
        let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let from = d.stream.clone_htod(&values).unwrap();
        let mut to = d.stream.alloc_zeros::<f32>(count).unwrap();
        let scaling = Scaling { factor: 0.5, count: count as i32 };
        let kernel = d.kernel("scale");
        // SAFETY: the kernel's parameters, in order.
        unsafe {
            d.stream
                .launch_builder(&kernel)
                .arg(&mut to)
                .arg(&from)
                .arg(&scaling)
                .launch(shape(count.div_ceil(128) as u32, 128, 0))
                .unwrap()
        };
        let expected: Vec<f32> = values.iter().map(|v| 0.5 * v).collect();
        assert_eq!(d.stream.clone_dtoh(&to).unwrap(), expected);
    }
}

/// A device in thread-local storage goes when the thread's own data of the driver may already be gone.
#[test]
fn work_that_is_left_runs_while_its_thread_ends() {
    thread_local!(static OWN: Device = device());
    std::thread::spawn(|| {
        OWN.with(|d| {
            let mut sums = d.stream.alloc_zeros::<i32>(1).unwrap();
            let mut odd = d.stream.alloc_zeros::<u32>(1).unwrap();
            let from = d.stream.clone_htod(&[1i32; 256]).unwrap();
            let kernel = d.kernel("sum_blocks");
            for waits in [true, false] {
                let n = 256i32;
                // SAFETY: the kernel's parameters, in order.
                unsafe {
                    d.stream.launch_builder(&kernel).arg(&mut sums).arg(&mut odd).arg(&from).arg(&n).launch(shape(1, 256, 0)).unwrap()
                };
                if waits {
                    assert_eq!(d.stream.clone_dtoh(&sums).unwrap(), [256]);
                }
            }
        });
    })
    .join()
    .unwrap();
}

#[test]
fn barriers_and_ballots_reach_every_thread() {
    let d = device();
    for count in [1usize, 255, 256, 257, 3000] {
        let values: Vec<i32> = (0..count).map(|i| (i * 7919 % 1000) as i32).collect();
        let blocks = count.div_ceil(256);
        let from = d.stream.clone_htod(&values).unwrap();
        let mut sums = d.stream.alloc_zeros::<i32>(blocks).unwrap();
        let mut odd = d.stream.alloc_zeros::<u32>(1).unwrap();
        let kernel = d.kernel("sum_blocks");
        let n = count as i32;
        // SAFETY: the kernel's parameters, in order.
        unsafe {
            d.stream.launch_builder(&kernel).arg(&mut sums).arg(&mut odd).arg(&from).arg(&n).launch(shape(blocks as u32, 256, 0)).unwrap()
        };
        let expected: Vec<i32> = values.chunks(256).map(|part| part.iter().sum()).collect();
        assert_eq!(d.stream.clone_dtoh(&sums).unwrap(), expected);
        assert_eq!(d.stream.clone_dtoh(&odd).unwrap()[0] as usize, values.iter().filter(|v| **v % 2 == 1).count());
    }
}

#[test]
fn shuffles_read_the_lane_that_cuda_reads() {
    let d = device();
    let mut to = d.stream.alloc_zeros::<i32>(7 * 32).unwrap();
    let kernel = d.kernel("shuffles");
    // SAFETY: the kernel's parameters, in order.
    unsafe { d.stream.launch_builder(&kernel).arg(&mut to).launch(shape(1, 32, 0)).unwrap() };
    let found = d.stream.clone_dtoh(&to).unwrap();
    type Source = fn(i32) -> i32;
    let rows: [(&str, Source); 7] = [
        ("from lane 5", |_| 5),
        ("within parts of 8", |lane| lane / 8 * 8 + lane / 2 % 8),
        ("xor 3", |lane| lane ^ 3),
        ("4 down", |lane| if lane + 4 < 32 { lane + 4 } else { lane }),
        ("1 up within 16", |lane| if lane % 16 > 0 { lane - 1 } else { lane }),
        ("halves of a warp apart", |lane| if lane < 16 { lane ^ 1 } else { (lane + 1).min(31) }),
        ("64 bits", |_| 31),
    ];
    for (row, (name, source)) in rows.iter().enumerate() {
        let expected: Vec<i32> = (0..32).map(source).collect();
        assert_eq!(found[row * 32..][..32], expected, "{name}");
    }
}

/// Numbers that look random: a multiplicative generator.
fn numbers(count: usize, seed: u64) -> Vec<u64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn integer_products_are_exact() {
    let d = device();
    let a: Vec<u8> = numbers(16 * 32, 1).iter().map(|v| *v as u8).collect();
    let b: Vec<i8> = numbers(8 * 32, 2).iter().map(|v| *v as i8).collect();
    let (a_there, b_there) = (d.stream.clone_htod(&a).unwrap(), d.stream.clone_htod(&b).unwrap());
    let mut c = d.stream.alloc_zeros::<i32>(16 * 8).unwrap();
    let kernel = d.kernel("product_u8s8");
    // SAFETY: the kernel's parameters, in order.
    unsafe { d.stream.launch_builder(&kernel).arg(&mut c).arg(&a_there).arg(&b_there).launch(shape(1, 32, 0)).unwrap() };
    let found = d.stream.clone_dtoh(&c).unwrap();
    for (i, row) in a.chunks(32).enumerate() {
        for (j, column) in b.chunks(32).enumerate() {
            let expected: i32 = row.iter().zip(column).map(|(x, y)| *x as i32 * *y as i32).sum();
            assert_eq!(found[i * 8 + j], expected, "row {i}, column {j}");
        }
    }
}

#[test]
fn bf16_products_through_asynchronous_copies() {
    let d = device();
    for steps in [1usize, 2, 7] {
        let k = steps * 16;
        // Small integers: exact in bf16, and so are their sums in f32.
        let small = |count, seed| -> Vec<f32> { numbers(count, seed).iter().map(|v| (*v % 17) as f32 - 8.0).collect() };
        let (a, b) = (small(32 * k, 3), small(16 * k, 4));
        let bits = |values: &[f32]| -> Vec<u16> { values.iter().map(|v| (v.to_bits() >> 16) as u16).collect() };
        let (a_there, b_there) = (d.stream.clone_htod(&bits(&a)).unwrap(), d.stream.clone_htod(&bits(&b)).unwrap());
        let mut c = d.stream.alloc_zeros::<f32>(32 * 16).unwrap();
        let kernel = d.kernel("product_bf16");
        let n = steps as i32;
        // SAFETY: the kernel's parameters, in order.
        unsafe {
            d.stream.launch_builder(&kernel).arg(&mut c).arg(&a_there).arg(&b_there).arg(&n).launch(shape(1, 32, 2 * 48 * 24 * 2)).unwrap()
        };
        let found = d.stream.clone_dtoh(&c).unwrap();
        for i in 0..32 {
            for j in 0..16 {
                let expected: f32 = (0..k).map(|x| a[i * k + x] * b[j * k + x]).sum();
                assert_eq!(found[i * 16 + j], expected, "row {i}, column {j}, {steps} steps");
            }
        }
    }
}

#[test]
fn transposed_matrix_loads() {
    let d = device();
    let from: Vec<u16> = (0..256).collect();
    let there = d.stream.clone_htod(&from).unwrap();
    let mut to = d.stream.alloc_zeros::<u16>(256).unwrap();
    let kernel = d.kernel("transpose");
    // SAFETY: the kernel's parameters, in order.
    unsafe { d.stream.launch_builder(&kernel).arg(&mut to).arg(&there).launch(shape(1, 32, 0)).unwrap() };
    let expected: Vec<u16> = (0..256).map(|i| i / 64 * 64 + i % 8 * 8 + i / 8 % 8).collect();
    assert_eq!(d.stream.clone_dtoh(&to).unwrap(), expected);
}

#[test]
fn rounding_to_bf16() {
    let d = device();
    let cases: [(f32, u32); 10] = [
        (0.0, 0),
        (-0.0, 0x8000),
        (1.0, 0x3f80),
        (f32::from_bits(0x3f80_8000), 0x3f80), // half way, to even
        (f32::from_bits(0x3f81_8000), 0x3f82), // half way, to even
        (f32::from_bits(0x3f80_8001), 0x3f81),
        (f32::MAX, 0x7f80),
        (f32::INFINITY, 0x7f80),
        (f32::NAN, 0x7fff),
        (f32::from_bits(1), 0),
    ];
    let there = d.stream.clone_htod(&cases.map(|c| c.0)).unwrap();
    let mut to = d.stream.alloc_zeros::<u32>(2 * cases.len()).unwrap();
    let kernel = d.kernel("through_bf16");
    let n = cases.len() as i32;
    // SAFETY: the kernel's parameters, in order.
    unsafe { d.stream.launch_builder(&kernel).arg(&mut to).arg(&there).arg(&n).launch(shape(1, 64, 0)).unwrap() };
    let found = d.stream.clone_dtoh(&to).unwrap();
    for (i, (value, bits)) in cases.iter().enumerate() {
        assert_eq!([found[i], found[cases.len() + i]], [*bits, bits << 16], "{value}");
    }
}

#[test]
fn fused_pairs_of_bf16() {
    let d = device();
    let mut to = d.stream.alloc_zeros::<u32>(256).unwrap();
    let kernel = d.kernel("differences");
    // SAFETY: the kernel's parameters, in order.
    unsafe { d.stream.launch_builder(&kernel).arg(&mut to).launch(shape(1, 256, 0)).unwrap() };
    let found = d.stream.clone_dtoh(&to).unwrap();
    for (byte, pair) in (0..=255u8).zip(found) {
        assert_eq!([f32::from_bits(pair & 0xffff_0000), f32::from_bits(pair << 16)], [f32::from(byte as i8), 3.0], "{byte}");
    }
}

#[test]
fn three_dimensions() {
    let d = device();
    let (block, grid) = ((2, 3, 4), (3, 2, 2));
    let mut to = d.stream.alloc_zeros::<u32>(24 * 12).unwrap();
    let kernel = d.kernel("places");
    let config = LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: 0 };
    // SAFETY: the kernel's parameters, in order.
    unsafe { d.stream.launch_builder(&kernel).arg(&mut to).launch(config).unwrap() };
    let place = |i: u32| i / 24 * 1000 + i % 2 * 100 + i / 2 % 3 * 10 + i / 6 % 4;
    assert_eq!(d.stream.clone_dtoh(&to).unwrap(), (0..24 * 12).map(place).collect::<Vec<u32>>());
}

#[test]
fn parameters_of_every_size() {
    let d = device();
    let mut to = d.stream.alloc_zeros::<f64>(1).unwrap();
    let kernel = d.kernel("parameters");
    let (a, b, c, e, f) = (1u8, 0.5f64, 300u16, 0u64, -7i32);
    let odd = Odd([0, 0, 0, 0, 9]);
    // SAFETY: the kernel's parameters, in order.
    unsafe {
        d.stream.launch_builder(&kernel).arg(&mut to).arg(&a).arg(&b).arg(&c).arg(&odd).arg(&e).arg(&f).launch(shape(1, 1, 0)).unwrap()
    };
    assert_eq!(d.stream.clone_dtoh(&to).unwrap(), [1.0 + 0.5 + 300.0 + 9.0 - 7.0]);
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Odd([u8; 5]);
// SAFETY: plain bytes.
unsafe impl DeviceRepr for Odd {}
