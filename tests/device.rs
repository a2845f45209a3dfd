//! The device layer: memory, launches, graphs, overlapping copies, and what a user reads when something is missing.

#[path = "support/device.rs"]
mod device;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use device::gpu;
use dsr::device::{Gpu, Kernel, Layout, Memory, Pinned, Slice, kernels, scalars};
use dsr::error::{Error, Result};

/// Field for field `struct Probe` in `kernels/probe.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Probe {
    scale: f32,
    offset: f32,
    n: i32,
}

const BLOCK: usize = kernels::PROBE.block as usize;

/// `y = x * scale + offset`, each block of `x` in reverse.
fn probe(gpu: &Gpu, y: Slice<f32>, x: Slice<f32>, [scale, offset]: [f32; 2]) -> Result<()> {
    let p = Probe { scale, offset, n: x.len() as i32 };
    gpu.launch(&kernels::PROBE, [x.len().div_ceil(BLOCK) as u32, 1, 1], 4 * BLOCK, &[&y, &x, &scalars(&p)])
}

fn expected(x: &[f32], [scale, offset]: [f32; 2]) -> Vec<f32> {
    x.chunks(BLOCK).flat_map(|block| block.iter().rev()).map(|x| x.mul_add(scale, offset)).collect()
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 * 0.37 - 3.0).collect()
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
}

fn round_trip<T: Pod + PartialEq + std::fmt::Debug>(gpu: &Arc<Gpu>, from: &[T]) {
    let n = from.len();
    let memory = gpu.zeroed::<T>(n + 2).unwrap();
    gpu.upload(from, memory.slice().part(1..n + 1)).unwrap();
    let framed: Vec<T> = [&[T::zeroed()], from, &[T::zeroed()]].concat();
    assert_eq!(memory.to_vec().unwrap(), framed, "{n} elements");
    let other = gpu.memory_of(&framed).unwrap();
    gpu.fill_zero(memory.slice()).unwrap();
    gpu.copy(other.slice().part(1..n + 1), memory.slice().part(0..n)).unwrap();
    let moved: Vec<T> = [from, &[T::zeroed(); 2]].concat();
    assert_eq!(memory.to_vec().unwrap(), moved, "{n} elements");
}

#[test]
fn memory_comes_back_as_it_was_sent() {
    let gpu = gpu();
    for n in [1, 255, 256, 257, 1000] {
        round_trip(&gpu, &(0..n).map(|i| i as u8).collect::<Vec<_>>());
        round_trip(&gpu, &ramp(n));
        round_trip(&gpu, &(0..n).map(|i| i as f64 / 3.0).collect::<Vec<_>>());
    }
    let none: Memory<f32> = gpu.memory_of(&[]).unwrap();
    assert!(none.slice().is_none() && none.to_vec().unwrap().is_empty());
    let [free, total] = gpu.memory().unwrap();
    assert!(0 < free && free <= total);
}

#[test]
fn unequal_lengths_are_refused() {
    let gpu = gpu();
    let (two, three) = (gpu.zeroed::<f32>(2).unwrap(), gpu.zeroed::<f32>(3).unwrap());
    let pinned = Pinned::<f32>::alloc(&gpu, 2).unwrap();
    let problems = [
        gpu.upload(&[0.0; 3], two.slice()),
        gpu.download(two.slice(), &mut [0.0; 3]),
        gpu.copy(two.slice(), three.slice()),
        gpu.upload_async(&pinned, three.slice()),
    ];
    for problem in problems {
        assert!(matches!(problem, Err(Error::ShapeMismatch { .. })), "{problem:?}");
    }
}

#[test]
fn slices_are_parts_and_casts_of_memory() {
    let memory = gpu().memory_of(&[1u32, 2, 3, 4]).unwrap();
    let all = memory.slice();
    assert_eq!((all.part(1..3).address() - all.address(), all.part(1..3).len()), (4, 2));
    assert_eq!((all.cast::<u8>().len(), all.cast::<f64>().len(), all.bytes()), (16, 2, 16));
    assert!(std::panic::catch_unwind(|| all.part(3..5)).is_err());
    assert!(std::panic::catch_unwind(|| all.part(1..2).cast::<f64>()).is_err());
    assert!(Slice::<f32>::NONE.is_none() && Slice::<f32>::NONE.is_empty() && !all.is_none());
}

#[test]
fn an_arena_is_measured_and_cut_by_the_same_code() {
    let gpu = gpu();
    let cut = |layout: &mut Layout| (layout.take::<u8>(3), layout.take::<f32>(300));
    let mut measured = Layout::measure();
    cut(&mut measured);
    let memory = gpu.zeroed::<u8>(measured.bytes()).unwrap();
    let mut layout = Layout::of(&memory);
    let (bytes, floats) = cut(&mut layout);
    assert_eq!(layout.bytes(), memory.slice().len());
    gpu.upload(&[7; 3], bytes).unwrap();
    gpu.upload(&ramp(300), floats).unwrap();
    let all = memory.to_vec().unwrap();
    assert_eq!(all[..3], [7; 3]);
    assert_eq!(layout.gaps().iter().map(|gap| [gap.start, gap.end]).collect::<Vec<_>>(), [[3, 512]]);
    assert!(all[3..512].iter().all(|byte| *byte == 0), "a copy left its buffer");
    assert_eq!(all[512..], *bytemuck::cast_slice::<f32, u8>(&ramp(300)));
    assert!(std::panic::catch_unwind(move || layout.take::<u8>(1)).is_err(), "the arena is full");
}

#[test]
fn a_kernel_computes_what_the_cpu_does() {
    let gpu = gpu();
    for n in [1, 31, 255, 256, 257, 1000] {
        let (x, y) = (gpu.memory_of(&ramp(n)).unwrap(), gpu.memory_of(&vec![f32::NAN; n + 1]).unwrap());
        probe(&gpu, y.slice().part(0..n), x.slice(), [1.7, -0.3]).unwrap();
        let y = y.to_vec().unwrap();
        assert_eq!(y[..n], expected(&ramp(n), [1.7, -0.3]), "{n} elements");
        assert!(y[n].is_nan(), "the element behind {n} was written");
    }
}

#[test]
fn a_block_may_have_more_shared_memory_than_the_usual() {
    let gpu = gpu();
    let (x, y) = (gpu.memory_of(&ramp(300)).unwrap(), gpu.zeroed::<f32>(300).unwrap());
    let p = Probe { scale: 2.0, offset: 1.0, n: 300 };
    for bytes in [64 << 10, 4 * BLOCK, gpu.shared_limit()] {
        gpu.fill_zero(y.slice()).unwrap();
        gpu.launch(&kernels::PROBE, [2, 1, 1], bytes, &[&y.slice(), &x.slice(), &scalars(&p)]).unwrap();
        assert_eq!(y.to_vec().unwrap(), expected(&ramp(300), [2.0, 1.0]), "{bytes} bytes");
    }
}

#[test]
fn a_launch_that_cannot_be_names_kernel_and_place() {
    let gpu = gpu();
    let x = gpu.memory_of(&ramp(8)).unwrap().slice();
    let p = Probe { scale: 1.0, offset: 0.0, n: 8 };
    let launch = |kernel: &Kernel, grid, bytes| text(gpu.launch(kernel, grid, bytes, &[&x, &x, &scalars(&p)]));
    let limit = gpu.shared_limit();
    let too_much = launch(&kernels::PROBE, [2, 1, 1], limit + 1);
    assert_words(&too_much, &["cuda:0", "kernel probe", "grid 2x1x1", "block 256", &limit.to_string()]);
    assert_words(&launch(&kernels::PROBE, [1, 0, 1], 1024), &["kernel probe", "grid 1x0x1", "INVALID_VALUE"]);
    let block = Kernel { block: 4096, ..kernels::PROBE };
    assert_words(&launch(&block, [1, 1, 1], 1024), &["kernel probe", "block 4096", "INVALID_VALUE"]);
    let unknown = Kernel { name: "absent", file: "absent", block: 32, waits: false };
    assert_words(&launch(&unknown, [1, 1, 1], 0), &["kernel absent", "not in this build"]);
}

#[test]
fn arguments_are_held_against_the_parameters() {
    if !cfg!(debug_assertions) {
        return println!("arguments are checked in debug builds only");
    }
    let gpu = gpu();
    let x = gpu.memory_of(&ramp(8)).unwrap().slice();
    let p = Probe { scale: 1.0, offset: 0.0, n: 8 };
    let wrong: [&[&dyn dsr::device::Arg]; 4] = [&[&x, &x], &[&x, &x, &8i32], &[&x, &x, &scalars(&p), &1u32], &[&x, &scalars(&p), &x]];
    for args in wrong {
        let problem = text(gpu.launch(&kernels::PROBE, [1, 1, 1], 4 * BLOCK, args));
        assert_words(&problem, &["kernel probe", "[8, 8, 12]"]);
    }
}

#[test]
fn a_graph_replays_what_was_captured() {
    let gpu = gpu();
    let n = 300;
    let (x, y) = (gpu.memory_of(&ramp(n)).unwrap(), gpu.zeroed::<f32>(n).unwrap());
    let graph = gpu
        .capture(|| {
            probe(&gpu, y.slice(), x.slice(), [0.5, 1.0])?;
            gpu.copy(y.slice(), x.slice())
        })
        .unwrap();
    assert_eq!(x.to_vec().unwrap(), ramp(n), "capturing does nothing yet");
    let mut host = ramp(n);
    for replay in 0..3 {
        graph.launch().unwrap();
        host = expected(&host, [0.5, 1.0]);
        assert_eq!(x.to_vec().unwrap(), host, "replay {replay}");
    }
    gpu.upload(&ramp(n), x.slice()).unwrap();
    graph.launch().unwrap();
    assert_eq!(x.to_vec().unwrap(), expected(&ramp(n), [0.5, 1.0]), "a graph reads what its buffers hold now");
}

#[test]
fn a_failed_capture_leaves_the_device_usable() {
    let gpu = gpu();
    let x = gpu.memory_of(&ramp(8)).unwrap();
    let y = gpu.zeroed::<f32>(8).unwrap();
    let own = gpu.capture(|| Err(Error::config("body", "gave up")));
    assert_eq!(text(own), "body: gave up");
    let waited = gpu.capture(|| {
        probe(&gpu, y.slice(), x.slice(), [1.0, 0.0])?;
        gpu.synchronize()
    });
    assert_words(&text(waited), &["cuda:0", "cannot be part of a graph"]);
    probe(&gpu, y.slice(), x.slice(), [1.0, 0.5]).unwrap();
    assert_eq!(y.to_vec().unwrap(), expected(&ramp(8), [1.0, 0.5]));
}

#[test]
fn copies_overlap_with_graphs_and_stay_in_order() {
    let gpu = gpu();
    let n = 700;
    let input = gpu.zeroed::<f32>(n).unwrap();
    let output = gpu.zeroed::<f32>(n).unwrap();
    let graph = gpu.capture(|| probe(&gpu, output.slice(), input.slice(), [3.0, 0.25])).unwrap();
    let mut staging = [Pinned::<f32>::alloc(&gpu, n).unwrap(), Pinned::<f32>::alloc(&gpu, n).unwrap()];
    assert!(staging[0].len() == n && staging[0].as_slice().iter().all(|&x| x == 0.0));
    let history = gpu.zeroed::<f32>(6 * n).unwrap();
    for step in 0..6 {
        let host = &mut staging[step % 2];
        host.as_mut_slice().unwrap().iter_mut().enumerate().for_each(|(i, x)| *x = (i + 1000 * step) as f32);
        gpu.after_compute().unwrap();
        gpu.upload_async(host, input.slice()).unwrap();
        gpu.after_copies().unwrap();
        graph.launch().unwrap();
        gpu.copy(output.slice(), history.slice().part(step * n..(step + 1) * n)).unwrap();
    }
    let history = history.to_vec().unwrap();
    for step in 0..6 {
        let host: Vec<f32> = (0..n).map(|i| (i + 1000 * step) as f32).collect();
        assert_eq!(history[step * n..(step + 1) * n], expected(&host, [3.0, 0.25]), "step {step}");
    }
}

#[test]
fn out_of_memory_says_what_was_asked_for_and_what_is_free() {
    let gpu = gpu();
    let [_, total] = gpu.memory().unwrap();
    let problem = text(gpu.zeroed::<u8>(total + (1 << 20)));
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    assert_words(&problem, &["cuda:0", "out of memory", &mib(total + (1 << 20)), &mib(total), "free", "-b"]);
    assert_eq!(gpu.memory_of(&[1u8, 2]).unwrap().to_vec().unwrap(), [1, 2], "the device goes on");
}

/// The environment variable that makes a test the child of itself.
const CHILD: &str = "DSR_TEST_CHILD";

#[test]
fn a_fault_of_a_kernel_is_an_error_where_it_is_waited_for() {
    // In a process of its own: after a fault a device takes no more work.
    if std::env::var(CHILD).is_err() {
        let name = "a_fault_of_a_kernel_is_an_error_where_it_is_waited_for";
        let child = Command::new(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert!(child.status.success(), "{child:?}");
        return;
    }
    let gpu = gpu();
    let x = gpu.memory_of(&ramp(8)).unwrap();
    let p = Probe { scale: 1.0, offset: 0.0, n: 8 };
    gpu.launch(&kernels::PROBE, [1, 1, 1], 4 * BLOCK, &[&Slice::<f32>::NONE, &x.slice(), &scalars(&p)]).unwrap();
    assert_words(&text(x.to_vec()), &["cuda:0", "an earlier kernel failed", "ILLEGAL_ADDRESS", "CUDA_LAUNCH_BLOCKING=1"]);
    assert!(gpu.memory_of(&[1u8]).is_err(), "the device goes on after a fault");
}

/// Runs `dsr info` where the folder `drivers` is the first to be searched for a driver: exit code, stdout, stderr.
fn info(drivers: &Path, variables: &[(&str, &str)], flags: &str) -> (i32, String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("dsr"));
    command.arg("info").args(flags.split_whitespace()).env("LD_LIBRARY_PATH", drivers).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    let broken = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(broken.path().join(name), "no library").unwrap();
    }
    let standin = emulator::directory();
    /// Where drivers are looked for, variables of the stand-in, `--device`, and what the error must say.
    type Case<'a> = (&'a Path, &'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);
    let cases: [Case; 6] = [
        (broken.path(), &[], "cuda", &["no CUDA driver", "libcuda.so.1", "--device cpu"]),
        (
            standin,
            &[("DSR_STANDIN_VERSION", "11030")],
            "cuda",
            &["too old", "CUDA 11.3", "11.4 (driver R470)", "cuda-compat", "--device cpu"],
        ),
        (standin, &[("DSR_STANDIN_DEVICES", "0")], "cuda", &["finds no GPU", "nvidia-smi", "CUDA_VISIBLE_DEVICES"]),
        (standin, &[], "cuda:1", &["cuda:1", "no such device", "lists 1", "cuda:0 "]),
        (standin, &[("DSR_STANDIN_DEVICES", "2")], "cuda:7", &["cuda:7", "no such device", "lists 2", "cuda:0 ", "cuda:1 "]),
        (standin, &[("DSR_STANDIN_CAPABILITY", "7.5")], "cuda", &["cuda:0", "no kernels", "7.5", "8.0", "--device cpu"]),
    ];
    for (drivers, variables, device, words) in cases {
        let (code, stdout, stderr) = info(drivers, variables, &format!("--device {device}"));
        assert_eq!((code, stdout.as_str()), (1, ""), "{device} with {variables:?}: {stderr}");
        let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{stderr}"));
        assert_words(error, words);
        let says_without_kernels = error.contains("built without CUDA kernels");
        let has_no_device = device == "cuda" && !variables.iter().any(|(name, _)| *name == "DSR_STANDIN_CAPABILITY");
        assert_eq!(says_without_kernels, has_no_device && kernels::NVCC.is_none(), "{error}");
        // Without the flag the same is information.
        let (code, stdout, _) = info(drivers, variables, "");
        assert_eq!(code, 0, "{stdout}");
    }
}

#[test]
fn info_lists_and_opens_devices() {
    let standin = emulator::directory();
    let (code, text, stderr) = info(standin, &[("DSR_STANDIN_DEVICES", "2")], "--device cuda:1");
    assert_eq!(code, 0, "{stderr}");
    // A device of a long name goes on in the next line.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_words(&text, &["cpu, cuda:0, cuda:1", "CUDA driver", "13.0", "compute capability 8.0", "opened", "CUDA kernels"]);
    let (_, text, _) = info(standin, &[("DSR_STANDIN_DEVICES", "2")], "--device cuda:1 --output json");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["devices"], serde_json::json!(["cpu", "cuda:0", "cuda:1"]));
    let cuda = &json["cuda"];
    assert_eq!((&cuda["driver"], &cuda["opened"], &cuda["problem"]), (&"13.0".into(), &1.into(), &serde_json::Value::Null));
    assert_eq!(cuda["devices"][1]["capability"], "8.0");
    assert!(cuda["devices"][1]["memory_bytes"].as_u64() > Some(0), "{cuda}");
    let (_, text, _) = info(standin, &[("DSR_STANDIN_VERSION", "11030")], "--output json");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["devices"], &json["cuda"]["driver"]), (&serde_json::json!(["cpu"]), &"11.3".into()));
    assert_words(json["cuda"]["problem"].as_str().unwrap(), &["too old"]);
}

/// An older driver gets PTX that it can compile, and its user is told; a driver of the toolkit's release gets machine code.
#[test]
fn an_older_driver_compiles_the_kernels() {
    let standin = emulator::directory();
    let by_12 = kernels::NVCC.is_some_and(|nvcc| nvcc.starts_with("12."));
    let cases = [
        ("11040", "", true),   // R470
        ("11080", "", true),   // R520
        ("12000", "", !by_12), // R525
        ("12080", "", !by_12), // R570
        ("13000", "", false),  // R580
        ("13000", "ptx", true),
        ("12020", "code", !by_12),
    ];
    for (version, form, compiles) in cases {
        let variables = [("DSR_STANDIN_VERSION", version), ("DSR_KERNELS", form), ("DSR_STANDIN_LAUNCHES", "1")];
        let (code, stdout, stderr) = info(standin, &variables, "--device cuda");
        assert_eq!(code, 0, "{version}: {stderr}");
        assert_words(&stdout, &["opened"]);
        let loaded = if compiles { "compiles PTX 7.0" } else { "loads machine code" };
        assert_eq!(stderr.matches(loaded).count(), kernels::IMAGES.len(), "{version} {form}: {stderr}");
        let note = stderr.lines().filter(|line| line.starts_with("note: the driver supports CUDA 1")).count();
        // A build without nvcc has nothing to be compiled.
        assert_eq!(note, usize::from(compiles && form != "ptx" && kernels::NVCC.is_some()), "{version} {form}: {stderr}");
    }
    let (code, _, stderr) = info(standin, &[("DSR_KERNELS", "fatbin")], "--device cuda");
    assert_eq!(code, 2, "{stderr}");
    assert_words(&stderr, &["error: DSR_KERNELS", "\"fatbin\" is neither code nor ptx"]);
    // A call that such a driver lacks would end the program.
    let line = "train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256 --epochs 1 --device cuda --quiet --out run";
    let (folder, mut command) = (tempfile::tempdir().unwrap(), Command::new(assert_cmd::cargo::cargo_bin("dsr")));
    command.current_dir(folder.path()).args(line.split(' ')).env("LD_LIBRARY_PATH", standin).env("DSR_STANDIN_VERSION", "11040");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The toolkit has a `libcuda.so` for the linker; on the library path it is found before the driver.
#[test]
fn a_stub_of_the_toolkit_does_not_hide_the_driver() {
    let folder = tempfile::tempdir().unwrap();
    let stub = folder.path().join("libcuda.so");
    std::fs::write(
        folder.path().join("stub.c"),
        "int cuDriverGetVersion(int* v) { *v = 13000; return 0; }\nint cuInit(unsigned f) { return f + 34; }\n",
    )
    .unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let built = Command::new(compiler).args(["-x", "c", "-shared", "-fPIC", "-o"]).arg(&stub).arg(folder.path().join("stub.c")).status();
    assert!(built.unwrap().success());
    let both = std::env::join_paths([folder.path(), emulator::directory()]).unwrap();
    let (code, stdout, stderr) = info(Path::new(&both), &[], "--device cuda");
    assert_eq!(code, 0, "{stderr}");
    assert_words(&stdout, &["dsr host stand-in", "opened"]);
    // Under the driver's own name nobody can tell it but by its answer.
    std::fs::copy(&stub, folder.path().join("libcuda.so.1")).unwrap();
    let (code, _, stderr) = info(Path::new(&both), &[], "--device cuda");
    assert_eq!(code, 1, "{stderr}");
    assert_words(&stderr, &["error: ", "stub of the CUDA toolkit", "LD_LIBRARY_PATH"]);
}

/// A recorded step is one launch: the variable that the hint names must have its kernels launched one by one.
#[test]
fn the_hint_for_a_fault_holds_for_recorded_steps() {
    let train = |variables: &[(&str, &str)]| {
        let line = "train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256 --epochs 1 --device cuda --quiet --out run";
        let (folder, mut command) = (tempfile::tempdir().unwrap(), Command::new(assert_cmd::cargo::cargo_bin("dsr")));
        command.current_dir(folder.path()).args(line.split(' ')).env("LD_LIBRARY_PATH", emulator::directory());
        command.env("DSR_STANDIN_KERNELS", emulator::test_kernels("far_loss")).envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{stderr}")).to_string()
    };
    assert_words(&train(&[]), &["an earlier kernel failed", "ILLEGAL_ADDRESS", "CUDA_LAUNCH_BLOCKING=1 names the kernel"]);
    assert_words(&train(&[("CUDA_LAUNCH_BLOCKING", "1")]), &["kernel loss_reduce (grid 1x1x1, block 256", "ILLEGAL_ADDRESS"]);
}
