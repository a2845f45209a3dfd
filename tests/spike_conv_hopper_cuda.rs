//! Products of warpgroups on Hopper, whose kernels the driver stand-in runs as nvcc makes them for sm_90a; no GPU has run them.
//! All shapes of layers are in `spike_conv_cuda.rs`, `neurons_by_wgmma_equal_the_cpu`.

#[path = "support/changed_kernels.rs"]
mod changed_kernels;

use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use changed_kernels::has_nvcc;
use emulator::Check;

/// Exit code, stdout and stderr of `dsr` on a pretended device of this capability, with a library of kernels where one is named.
fn dsr(folder: &Path, variables: &[(&str, &str)], library: Option<&Path>, line: &str) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin("dsr"));
    command.current_dir(folder).args(line.split(' ')).env_remove("DSR_PRODUCTS").env_remove("DSR_HOPPER");
    // The kernels of the library are always those of sm_90a, and the others their text, whatever the tests around this file run on.
    command.env_remove("DSR_STANDIN_ENGINE").env_remove("DSR_STANDIN_PTX_ARCH").env_remove("DSR_DEPENDENT_LAUNCH");
    command.env("LD_LIBRARY_PATH", emulator::directory()).envs(variables.iter().copied());
    if let Some(library) = library {
        command.env("DSR_STANDIN_KERNELS", library);
    }
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

fn compiled(kernels: &Path, folder: &Path) -> std::path::PathBuf {
    let library = folder.join("hopper.so");
    emulator::compiled_kernels(&std::path::absolute(kernels).unwrap(), "spike_conv_hopper.cu", "90a", Check::Watch, &library).unwrap();
    library
}

#[test]
fn only_who_asks_has_them_and_only_on_hopper() {
    let folder = tempfile::tempdir().unwrap();
    let products = |capability, asked| {
        let variables = [("DSR_STANDIN_CAPABILITY", capability), ("DSR_HOPPER", asked)];
        let (code, stdout, stderr) = dsr(folder.path(), &variables, None, "info --device cuda -o json");
        assert_eq!(code, 0, "{stderr}");
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        json["cuda"]["products"].as_str().unwrap().to_string()
    };
    let found =
        [("9.0", ""), ("9.0", "0"), ("9.0", "1"), ("8.0", ""), ("10.3", "0")].map(|(capability, asked)| products(capability, asked));
    assert_eq!(found, ["integer", "integer", "warpgroup", "integer", "bf16"]);
    for (variables, problem) in [
        (&[("DSR_HOPPER", "1")][..], "needs a device of compute capability 9.0"),
        (&[("DSR_HOPPER", "1"), ("DSR_STANDIN_CAPABILITY", "12.0")], "the device has 12.0"),
        (&[("DSR_HOPPER", "1"), ("DSR_STANDIN_CAPABILITY", "9.0"), ("DSR_KERNELS", "ptx")], "machine code for it"),
        (&[("DSR_HOPPER", "1"), ("DSR_PRODUCTS", "bf16")], "1 and DSR_PRODUCTS exclude each other"),
        (&[("DSR_HOPPER", "yes")], "\"yes\" is neither 0 nor 1"),
    ] {
        let (code, _, stderr) = dsr(folder.path(), variables, None, "info --device cuda");
        assert!(code == 2 && stderr.contains("error: DSR_HOPPER") && stderr.contains(problem), "{code}: {stderr}");
    }
}

#[test]
fn a_run_ends_in_the_same_bytes() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(Path::new("kernels"), folder.path());
    let mut ends = Vec::new();
    for asked in ["0", "1"] {
        // They begin early, too, so the watch looks at how they read what the layer before them has written.
        let variables =
            [("DSR_STANDIN_CAPABILITY", "9.0"), ("DSR_HOPPER", asked), ("DSR_DEPENDENT_LAUNCH", asked), ("DSR_STANDIN_LAUNCHES", "1")];
        let line = format!("train -d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256 --epochs 1 --device cuda --quiet --out run-{asked}");
        let (code, _, stderr) = dsr(folder.path(), &variables, Some(&library), &line);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(stderr.contains("first launch of spike_conv_neurons_16_hopper"), asked == "1", "{stderr}");
        ends.push(std::fs::read(folder.path().join(format!("run-{asked}")).join("last.safetensors")).unwrap());
    }
    assert!(ends[0] == ends[1], "other bytes");
}

/// What `dsr check` says on a pretended Hopper so small that blocks take two groups of channels, with kernels in which `new` stands for
/// `old` in a file.
fn check(file: &str, old: &str, new: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    changed_kernels::change(Path::new("kernels"), folder.path(), file, old, new);
    let library = compiled(folder.path(), folder.path());
    let variables = [
        ("DSR_STANDIN_CAPABILITY", "9.0"),
        ("DSR_STANDIN_MULTIPROCESSORS", "1"),
        ("DSR_STANDIN_ORDER", "lifo"),
        ("DSR_STANDIN_LAUNCHES", "1"),
    ];
    let (code, stdout, stderr) = dsr(folder.path(), &variables, Some(&library), "check --size small --device cuda");
    (code, stdout + &stderr)
}

#[test]
fn a_check_of_such_a_device_has_them() {
    if !has_nvcc() {
        return;
    }
    let (code, said) = check("include/spike_hopper.cuh", "// spike_hopper.cuh", "// the same");
    assert!(code == 0 && said.contains("spike_conv neurons by wgmma") && said.contains("spike_conv_neurons_8_pairs_hopper"), "{said}");
}

/// Whether a check notices a fault, and says these words.
fn is_noticed(file: &str, old: &str, new: &str, words: &[&str]) {
    if !has_nvcc() {
        return;
    }
    let (code, said) = check(file, old, new);
    assert!(code == 1 && ["FAULT", "by wgmma"].iter().chain(words).all(|words| said.contains(words)), "{said}");
}

#[test]
fn products_that_nobody_waits_for() {
    let (old, new) = ("        wgmma_wait<0>();                             // products", "        // products");
    is_noticed("include/spike_hopper.cuh", old, new, &["a wgmma.mma_async under way"]);
}

#[test]
fn half_a_stage_without_some_bits() {
    is_noticed("include/spike_hopper.cuh", "half >> 1);", "half);", &[]);
}

#[test]
fn upper_bytes_with_another_weight() {
    is_noticed("include/spike_hopper.cuh", "sum[i] * 256u", "sum[i] * 255u", &[]);
}

#[test]
fn a_second_group_with_weights_of_the_first() {
    is_noticed("include/spike_hopper.cuh", "weights + i * of_all, OF_GROUP", "weights, OF_GROUP", &[]);
}

#[test]
fn a_second_convolution_of_another_group() {
    let (old, new) = ("group, p.layer.second.geometry", "2 * blockIdx.y, p.layer.second.geometry");
    is_noticed("spike_conv_hopper.cu", old, new, &[]);
}
