//! What the compiler says of the CUDA kernels: limits of every kernel on every target, without a GPU.
//! A build without nvcc has nothing to look at; `REQUIRE_NVCC=1` (as CI sets it) makes such a build fail.

use assert_cmd::cargo::cargo_bin;
use dsr::device::kernels::{self, Kernel};
use dsr::device::limits::{self, Limits};
use serde_json::Value;

/// Each kernel with each target, or none in a build without nvcc, which is said.
fn cases() -> Vec<(&'static Kernel, &'static str)> {
    if kernels::NVCC.is_none() {
        println!("built without nvcc: no kernel was looked at");
    }
    kernels::ALL.iter().flat_map(|kernel| kernels::TARGETS.iter().map(move |&target| (kernel, target))).collect()
}

/// Fails with every case for which `fault` says something.
fn none_at_fault(fault: impl Fn(&Kernel, &Limits) -> Option<String>) {
    let describe = |(kernel, target): (&Kernel, &str)| {
        let found = Limits::of(kernel, target).map_or(Some("is not in the image".into()), |limits| fault(kernel, limits));
        found.map(|fault| format!("{} on {target}: {fault}", kernel.name))
    };
    let faults: Vec<String> = cases().into_iter().filter_map(describe).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_kernel_is_there_for_every_target() {
    none_at_fault(|_, limits| (limits.registers == 0).then(|| "has no number of registers".into()));
    assert_eq!(limits::ALL.len(), cases().len(), "a kernel of the images has no KERNEL line");
    if std::env::var("REQUIRE_NVCC").is_ok_and(|value| value == "1") {
        assert!(kernels::NVCC.is_some(), "REQUIRE_NVCC=1, and this was built without nvcc");
    }
}

#[test]
fn no_kernel_spills_or_uses_local_memory() {
    none_at_fault(|_, limits| {
        let bytes = (limits.spill_bytes, limits.local_bytes);
        (bytes != (0, 0)).then(|| format!("{} bytes of spills, {} bytes of local memory", bytes.0, bytes.1))
    });
}

#[test]
fn spike_convolutions_use_tensor_cores() {
    none_at_fault(|kernel, limits| {
        let of_spikes = kernel.name.starts_with("spike_conv");
        let is_elsewhere = kernel.name.ends_with("_hopper") && limits.target != "sm_90";
        let operands = if kernel.name.ends_with("_bf16") { "bf16" } else { "integer" };
        (of_spikes && !is_elsewhere && limits.products == Some(0)).then(|| format!("no {operands} tensor-core instruction"))
    });
    let of_spikes = |limits: &&Limits| limits.kernel.starts_with("spike_conv");
    if limits::ALL.iter().filter(of_spikes).any(|limits| limits.products.is_none()) {
        println!("no cuobjdump beside nvcc: instructions were not looked at");
    }
}

/// A kernel that may begin before the one before it has ended touches no global memory until that has.
#[test]
fn kernels_that_wait_do_so_first() {
    none_at_fault(|kernel, limits| {
        let is_elsewhere = kernel.name.ends_with("_hopper") && limits.target != "sm_90";
        let number: u32 = limits.target.trim_start_matches("sm_").parse().unwrap();
        let wanted = (kernel.waits && number >= 90).then_some(0);
        let looked_at = limits::ALL.iter().any(|limits| limits.products.is_some()); // the machine code was
        let is_as_wanted = !looked_at || is_elsewhere || limits.before_wait == wanted;
        (!is_as_wanted).then(|| format!("{:?} instructions before its wait may touch global memory, wanted {wanted:?}", limits.before_wait))
    });
}

#[test]
fn every_kernel_fits_a_multiprocessor() {
    none_at_fault(|kernel, limits| {
        let occupancy = limits.occupancy(kernel.block);
        (!occupancy.is_some_and(|share| share > 0.0)).then(|| format!("occupancy {occupancy:?} at block {}", kernel.block))
    });
}

#[test]
fn info_prints_the_limits() {
    let info = |line: &str| {
        let output = std::process::Command::new(cargo_bin("dsr")).args(line.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "dsr {line}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(&info("info --kernels --output json")).unwrap();
    let rows = json["kernels"].as_array().unwrap();
    assert_eq!(rows.len(), cases().len());
    for (row, (kernel, target)) in rows.iter().zip(cases()) {
        assert_eq!((row["kernel"].as_str(), row["target"].as_str()), (Some(kernel.name), Some(target)));
        for number in ["registers", "spill_bytes", "local_bytes", "shared_bytes", "occupancy"] {
            assert!(row[number].is_number(), "{row}");
        }
    }
    let text = info("info --kernels");
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    for (kernel, _) in cases() {
        assert!(text.lines().any(|line| line.starts_with(kernel.name)), "{text}");
    }
}

/// Registers, shared memory and occupancy do not drift unseen; another compiler has numbers of its own.
#[test]
fn the_documented_limits_are_those_of_this_build() {
    let document = std::fs::read_to_string("docs/kernels.md").unwrap();
    let Some(nvcc) = kernels::NVCC else {
        println!("built without nvcc: nothing to compare");
        return;
    };
    if !document.contains(&format!("by nvcc {nvcc} for {}", kernels::TARGETS.join(", "))) {
        println!("docs/kernels.md is of another compiler, or of other targets");
        return;
    }
    let output = std::process::Command::new(cargo_bin("dsr")).args(["info", "--kernels"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(document.contains(&table), "docs/kernels.md is out of date: scripts/kernel_limits.sh writes it anew\n{table}");
}
