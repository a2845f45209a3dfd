//! Faults that show only in what nvcc makes of the kernels, planted one at a time: `dsr check` on the driver stand-in finds each.
//!
//! One kernel file is run as nvcc compiles it, the others as g++ does. g++ sees the same text before and after most of these
//! changes, for they are in what only nvcc reads; the rest could be misread alike in the stand-in's own bodies.

#[path = "support/changed_kernels.rs"]
mod changed_kernels;

use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use changed_kernels::has_nvcc;
use emulator::Check;

/// What `dsr check` says, code and all output, where the kernel file is run as nvcc compiles it for sm_80.
fn check(kernels: &Path, file: &str, check: Check) -> (i32, String) {
    let library = kernels.join(file).with_extension("so");
    emulator::compiled_kernels(kernels, file, "80", check, &library).unwrap();
    check_on(emulator::directory(), &library)
}

fn check_on(driver: &Path, library: &Path) -> (i32, String) {
    let mut command = Command::new(cargo_bin("dsr"));
    command.args(["check", "--size", "small", "--device", "cuda"]);
    let output = command.env("LD_LIBRARY_PATH", driver).env("DSR_STANDIN_KERNELS", library).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Plants a fault, `new` for `old` in one file, and looks for words in what is said of a kernel file that has it.
fn find(changed: &str, old: &str, new: &str, kernel: &str, how: Check, words: &[&str]) {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    changed_kernels::change(Path::new("kernels"), folder.path(), changed, old, new);
    let (code, said) = check(folder.path(), kernel, how);
    assert!(code == 1 && words.iter().all(|word| said.contains(word)), "{words:?} in\n{said}");
}

#[test]
fn without_a_fault_nothing_is_found() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    changed_kernels::change(Path::new("kernels"), folder.path(), "optimizer.cu", "// optimizer.cu", "// the same");
    let (code, said) = check(folder.path(), "optimizer.cu", Check::None);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn operands_of_an_integer_product_changed_around() {
    let old = r#""+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)"#;
    let new = old.replace(r#""r"(b0), "r"(b1)"#, r#""r"(b1), "r"(b0)"#);
    find("include/device.cuh", old, &new, "spike_conv.cu", Check::None, &["FAULT", "spike_conv"]);
}

/// The text passes, for the stand-in's own body of the product is misread in the same way; the fragments of PTX are those of its ISA.
#[test]
fn fragments_misread_alike_in_a_kernel_and_in_the_driver() {
    let folder = tempfile::tempdir().unwrap();
    let (kernels, driver) = (folder.path().join("kernels"), folder.path().join("driver"));
    let of_bits = "const uint32_t word = step == 0 ? bits[m][r % 2].x : bits[m][r % 2].y;
                    a[m][r] = word >> (r / 2) & 0x01010101u;";
    let misread = of_bits.replace("r % 2", "MIDDLE").replace("r / 2", "r % 2").replace("MIDDLE", "r / 2");
    changed_kernels::change(Path::new("kernels"), &kernels, "include/spike_tile.cuh", of_bits, &misread);
    let of_bytes = "lane % 16) * BYTES_PITCH + step * 32 + lane / 16 * 16";
    let misread = "lane / 16 * 8 + lane % 8) * BYTES_PITCH + step * 32 + lane / 8 % 2 * 16";
    changed_kernels::edit(&kernels.join("include/spike_tile.cuh"), of_bytes, misread);
    std::fs::create_dir(&driver).unwrap();
    let product = driver.join("matrix.cpp");
    std::fs::copy("emulator/src/matrix.cpp", &product).unwrap();
    let fragments = "uint32_t* pairs = &to.pairs[lane / 4 + part % 2 * 8][lane % 4 * 2 + part / 2 * 8];";
    let misread = fragments.replace("part % 2", "MIDDLE").replace("part / 2", "part % 2").replace("MIDDLE", "part / 2");
    changed_kernels::edit(&product, fragments, &misread);
    emulator::changed_driver(&product, &driver).unwrap();

    let text = kernels.join("text.so");
    emulator::text_kernels(&kernels, "spike_conv.cu", &text).unwrap();
    let (code, said) = check_on(&driver, &text);
    assert_eq!(code, 0, "{said}");
    let (code, said) = check_on(emulator::directory(), &text);
    assert!(code == 1 && said.contains("FAULT"), "one of the two alone shows: {said}");
    if has_nvcc() {
        let (code, said) = check(&kernels, "spike_conv.cu", Check::None);
        assert!(code == 1 && ["FAULT", "spike_conv"].iter().all(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn size_of_an_asynchronous_copy_forgotten() {
    let old = r#""l"(global), "n"(BYTES), "r"(source_bytes)"#;
    let new = old.replace("BYTES", "4");
    find("include/device.cuh", old, &new, "spike_conv.cu", Check::None, &["FAULT", "cp.async of 8 of 4 bytes"]);
}

#[test]
fn wait_for_one_group_of_copies_too_few() {
    find(
        "include/device.cuh",
        r#""n"(N) : "memory""#,
        r#""n"(N + 1) : "memory""#,
        "conv_forward.cu",
        Check::None,
        &["FAULT", "ANN convolution"],
    );
}

#[test]
fn launch_bounds_below_the_block() {
    let old = "__launch_bounds__(256)\nsgd_step(";
    let words = ["FAULT", "sgd_step", "256 threads a block, but its launch bounds are 128"];
    find("optimizer.cu", old, &old.replace("256", "128"), "optimizer.cu", Check::None, &words);
}

#[test]
fn halves_of_a_packed_pair_changed_around() {
    let new = r#""=r"(bits) : "f"(low), "f"(high)"#;
    find("include/device.cuh", r#""=r"(bits) : "f"(high), "f"(low)"#, new, "spike_conv_weights.cu", Check::None, &["FAULT", "weights"]);
}

#[test]
fn transposition_of_a_matrix_load_forgotten() {
    let words = ["FAULT", "weight gradient"];
    find(
        "include/device.cuh",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared",
        "ldmatrix.sync.aligned.m8n8.x4.shared",
        "conv_weight_gradient.cu",
        Check::None,
        &words,
    );
}

#[test]
fn a_barrier_forgotten_is_a_race() {
    let old = "        __syncthreads();                             // the stage is there, and the one before is free\n";
    find("include/bf16_tile.cuh", old, "", "conv_forward.cu", Check::Races, &["FAULT", "race: ", "bf16_tile.cuh:"]);
}
