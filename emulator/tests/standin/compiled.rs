//! What only shows in what nvcc makes of a kernel (`tests/kernels/compiled.cu`), beside the same text compiled by g++.

use std::path::{Path, PathBuf};

use emulator::Check;

use super::changed_kernels::{change, has_nvcc};
use super::children::{CALL, FAULT, Outcome, run_child};

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels")
}

/// The library of `compiled.cu`, against the headers in `kernels`.
fn library(folder: &Path, kernels: &Path, architecture: &str, check: Check) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/compiled.cu");
    let library = folder.join(format!("compiled-{architecture}.so"));
    emulator::compiled_kernels(kernels, source.to_str().unwrap(), architecture, check, &library).unwrap();
    library
}

fn run(library: &str, case: &str) -> Outcome {
    run_child(FAULT, case, &[("STANDIN_TEST_LIBRARY", library)])
}

fn all_are(value: &str) -> String {
    format!("[{}]", vec![value; 256].join(", "))
}

#[test]
fn a_matrix_load_without_memory_in_its_clobbers_reads_what_was_there_before() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kernels = kernels();
    for architecture in ["80", "120"] {
        let sound = library(folder.path(), &kernels, architecture, Check::None);
        assert_eq!(run(sound.to_str().unwrap(), "loads_twice").value("results"), all_are("12.0"), "sm_{architecture}");
    }
    let faulty = folder.path().join("kernels");
    let old = "    asm volatile(\"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\"
                 : \"=r\"(r[0]), \"=r\"(r[1]), \"=r\"(r[2]), \"=r\"(r[3]) : \"r\"(shared_address(row)) : \"memory\");";
    change(&kernels, &faulty, "include/device.cuh", old, &old.replace("asm volatile", "asm").replace(" : \"memory\"", ""));
    let results = ["80", "120"].map(|architecture| {
        let library = library(folder.path(), &faulty, architecture, Check::None);
        run(library.to_str().unwrap(), "loads_twice").value("results").to_string()
    });
    // Two generations of the compiler: the older one happens to load again.
    assert_eq!(results, [all_are("12.0"), all_are("11.0")]);
}

#[test]
fn nvcc_takes_signed_overflow_for_impossible() {
    let text = run("compiled", "overflows");
    let said = ["the sum of signed integers is outside of their range", "compiled.cu:"].iter().all(|words| text.stderr.contains(words));
    assert!(said && text.value("code") == "CUDA_ERROR_LAUNCH_FAILED", "{}", text.stderr);
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kernels = kernels();
    let library = library(folder.path(), &kernels, "80", Check::None);
    assert_eq!(run(library.to_str().unwrap(), "overflows").value("results"), all_are("1.0"));
}

#[test]
fn a_wrong_restrict_is_named() {
    assert_eq!(run("compiled", "in place").value("code"), "CUDA_SUCCESS", "no one sees it in the text");
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kernels = kernels();
    let library = library(folder.path(), &kernels, "80", Check::Watch);
    let outcome = run(library.to_str().unwrap(), "in place");
    let said = ["watch: ", "by ld.global.nc", "a wrong __restrict__", "compiled.cu:"].iter().all(|words| outcome.stderr.contains(words));
    assert!(said && outcome.value("code") == "CUDA_ERROR_LAUNCH_FAILED", "{}", outcome.stderr);
    assert_eq!(run(library.to_str().unwrap(), "reads_its_neighbour").value("code"), "CUDA_SUCCESS");
}

#[test]
fn what_two_blocks_write_is_named() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path(), &kernels(), "80", Check::Watch).to_string_lossy().into_owned();
    for (kernel, blocks, is_sound) in [
        ("writes_where_another_block_writes", "1", true),
        ("writes_where_another_block_writes", "2", false),
        ("adds_where_another_block_adds", "2", true),
    ] {
        let outcome = run_child(FAULT, kernel, &[("STANDIN_TEST_LIBRARY", &library), ("STANDIN_TEST_BLOCKS", blocks)]);
        let expected = if is_sound { "CUDA_SUCCESS" } else { "CUDA_ERROR_LAUNCH_FAILED" };
        assert_eq!(outcome.value("code"), expected, "{kernel}, {blocks} blocks: {}", outcome.stderr);
        let said = outcome.stderr.contains("watch: writes what another block has written") && outcome.stderr.contains("compiled.cu:");
        assert_eq!(said, !is_sound, "{kernel}, {blocks} blocks: {}", outcome.stderr);
    }
}

#[test]
fn multiply_adds_that_nvcc_may_fuse_are_refused() {
    if !has_nvcc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    change(&kernels(), folder.path(), "nvcc.flags", " --fmad=false", "");
    let library = folder.path().join("optimizer.so");
    let refused = emulator::compiled_kernels(folder.path(), "optimizer.cu", "80", Check::None, &library).unwrap_err();
    let words = ["optimizer.ptx:", "kernel sgd_step", "no .rn: ptxas may fuse it", "--fmad=false"];
    assert!(words.iter().all(|words| refused.contains(words)), "{refused}");
}

#[test]
fn kernels_that_cannot_be_had_are_an_error() {
    let engine = ("DSR_STANDIN_ENGINE", "ptx");
    let cases = [
        (&[("DSR_STANDIN_ENGINE", "sass")][..], "DSR_STANDIN_ENGINE=sass is none of text, ptx"),
        (&[engine, ("NVCC", "none")], "need nvcc, and NVCC=none turns it off; scripts/install_cuda_toolchain.sh"),
        (&[engine, ("NVCC", "/no/nvcc")], "/no/nvcc: "),
        (&[engine, ("DSR_STANDIN_PTX_ARCH", "sm_80")], "DSR_STANDIN_PTX_ARCH=sm_80 is no architecture"),
        (&[("DSR_STANDIN_WATCH", "1")], "DSR_STANDIN_WATCH needs DSR_STANDIN_ENGINE=ptx"),
        (&[engine, ("DSR_STANDIN_WATCH", "1"), ("DSR_STANDIN_RACES", "1")], "one at a time"),
    ];
    for (environment, problem) in cases {
        let outcome = run_child(FAULT, "reads_its_neighbour", environment);
        assert!(outcome.status != Some(0) && outcome.stderr.contains(problem), "{environment:?}: {}", outcome.stderr);
    }
    // A process that only finds the driver.
    let driver = emulator::directory().to_str().unwrap();
    let outcome = run_child(CALL, "found by path", &[("LD_LIBRARY_PATH", driver), ("DSR_STANDIN_ENGINE", "sass")]);
    assert!(outcome.status != Some(0) && outcome.stderr.contains("kernels-sass: no kernels"), "{}", outcome.stderr);
}
