//! Tests of the driver stand-in; one binary, so that it is linked once.

mod calls;
#[path = "../../../tests/support/changed_kernels.rs"]
mod changed_kernels;
mod children;
mod compiled;
mod dependent;
mod device;
mod faults;
mod hopper;
mod kernels;
mod streams;

/// Not a test by itself: what other tests run in a process of their own.
#[test]
fn in_child() {
    match children::own_case() {
        Some((children::FAULT, case)) => faults::run(&case),
        Some((children::HOPPER, case)) => hopper::run(&case),
        Some((children::DEPENDENT, case)) => dependent::run(&case),
        Some((_, case)) => calls::run(&case),
        None => {}
    }
}

/// The tests of `kernels` again, with other threads ahead.
#[test]
fn kernels_in_other_orders() {
    for (order, seed) in [("lifo", "1"), ("random", "1"), ("random", "2")] {
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        let output = tests.arg("kernels::").env("DSR_STANDIN_ORDER", order).env("DSR_STANDIN_SEED", seed).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("11 passed"), "{order}, seed {seed}: {text}");
    }
}
