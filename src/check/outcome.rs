//! What a comparison found: equal bits, the share of a tolerance that was used, or the first fault.

use bytemuck::Pod;
use serde::Serialize;
use std::fmt::Debug;

/// How the values of a check are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Every bit is that of the CPU.
    Bits,
    /// Each value may differ by a part of what it is a sum of, or of the length of its vector; the words say by how much.
    Within(&'static str),
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Compared::Bits => "bits",
            Compared::Within(tolerance) => tolerance,
        })
    }
}

/// A value that is not what the CPU has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The buffer.
    pub values: String,
    /// Element of it, in the order of memory.
    pub index: usize,
    pub expected: String,
    pub got: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fault { values, index, expected, got } = self;
        write!(f, "{values} at index {index}: expected {expected}, got {got}")
    }
}

/// The result of a check so far; after the first fault nothing more is compared.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Number of values that were compared.
    pub values: usize,
    /// Largest share of a tolerance that any value used; 0 where all bits are equal.
    pub used: f64,
    pub fault: Option<Fault>,
}

impl Outcome {
    /// Every element has the same bits.
    pub fn bits<T: Pod + Debug>(&mut self, values: &str, got: &[T], expected: &[T]) {
        if !self.goes_on(values, got.len(), expected.len()) {
            return;
        }
        let differs = |(got, expected): (&T, &T)| bytemuck::bytes_of(got) != bytemuck::bytes_of(expected);
        if let Some(at) = got.iter().zip(expected).position(differs) {
            self.fail(values, at, with_bits(&expected[at]), with_bits(&got[at]));
        }
    }

    /// Every element differs by at most what `allowed` says of its index.
    pub fn near<T: Into<f64> + Copy>(&mut self, values: &str, got: &[T], expected: &[f64], allowed: impl Fn(usize) -> f64) {
        if !self.goes_on(values, got.len(), expected.len()) {
            return;
        }
        for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
            let (got, allowed) = (got.into(), allowed(at));
            let share = if got == expected { 0.0 } else { (got - expected).abs() / allowed };
            // A value that is no number has no share.
            if share.is_nan() || share > 1.0 {
                return self.fail(values, at, format!("{expected:e} +- {allowed:.1e}"), format!("{got:e}"));
            }
            self.used = self.used.max(share);
        }
    }

    /// The length of the difference is at most `tolerance` times that of `expected` and `floor` together.
    ///
    /// The fault names the element that differs most.
    pub fn length(&mut self, values: &str, got: &[f32], expected: &[f32], floor: f64, tolerance: f64) {
        if !self.goes_on(values, got.len(), expected.len()) {
            return;
        }
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let off = |at: usize| (f64::from(got[at]) - f64::from(expected[at])).abs();
        let scale = length(&mut expected.iter().map(|v| f64::from(*v))) + floor;
        let distance = length(&mut (0..got.len()).map(off));
        let share = if distance == 0.0 { 0.0 } else { distance / (tolerance * scale) };
        if share.is_nan() || share > 1.0 {
            // The largest, and before all others what is no number.
            let worst = (0..got.len())
                .max_by(|&a, &b| (off(a).is_nan(), off(a)).partial_cmp(&(off(b).is_nan(), off(b))).unwrap_or(std::cmp::Ordering::Equal));
            let worst = worst.unwrap_or(0);
            let what = format!("{values} (off by {:.1e} of their length)", distance / scale);
            return self.fail(&what, worst, with_bits(&expected[worst]), with_bits(&got[worst]));
        }
        self.used = self.used.max(share);
    }

    /// Notes a fault, unless there is one.
    pub fn fail(&mut self, values: &str, index: usize, expected: impl Into<String>, got: impl Into<String>) {
        if self.fault.is_none() {
            self.fault = Some(Fault { values: values.into(), index, expected: expected.into(), got: got.into() });
        }
    }

    /// Counts the values; false after a fault, or if this is one.
    fn goes_on(&mut self, values: &str, got: usize, expected: usize) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if got != expected {
            self.fail(values, got.min(expected), format!("{expected} values"), format!("{got} values"));
            return false;
        }
        self.values += got;
        true
    }
}

/// A number and its bits: `0.5 (0x3f000000)`.
fn with_bits<T: Pod + Debug>(value: &T) -> String {
    let hex: String = bytemuck::bytes_of(value).iter().rev().map(|byte| format!("{byte:02x}")).collect();
    format!("{value:?} (0x{hex})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(compare: impl FnOnce(&mut Outcome)) -> String {
        let mut outcome = Outcome::default();
        compare(&mut outcome);
        outcome.fault.map_or("none".into(), |fault| fault.to_string())
    }

    #[test]
    fn the_first_element_with_other_bits_is_named() {
        let cases: [(&[f32], &[f32], &str); 6] = [
            (&[], &[], "none"),
            (&[1.0, f32::NAN], &[1.0, f32::NAN], "none"),
            (&[1.0, 2.0, 3.0, 9.0], &[1.0, 2.0, 4.0, 8.0], "sums at index 2: expected 4.0 (0x40800000), got 3.0 (0x40400000)"),
            (&[0.0], &[-0.0], "sums at index 0: expected -0.0 (0x80000000), got 0.0 (0x00000000)"),
            (&[1.0], &[1.0, 2.0], "sums at index 1: expected 2 values, got 1 values"),
            (&[f32::NAN], &[0.5], "sums at index 0: expected 0.5 (0x3f000000), got NaN (0x7fc00000)"),
        ];
        for (got, expected, says) in cases {
            assert_eq!(fault(|outcome| outcome.bits("sums", got, expected)), says);
        }
        let words = fault(|outcome| outcome.bits("spikes", &[1u32, 0x8000_0001], &[1, 1]));
        assert_eq!(words, "spikes at index 1: expected 1 (0x00000001), got 2147483649 (0x80000001)");
        let wide = fault(|outcome| outcome.bits("squares", &[-1i128], &[1]));
        assert!(wide.starts_with("squares at index 0: expected 1 (0x0000"), "{wide}");
    }

    #[test]
    fn a_tolerance_is_used_in_part_or_exceeded() {
        let mut outcome = Outcome::default();
        outcome.near("a", &[1.0f32, 2.5], &[1.0, 2.0], |at| [0.0, 1.0][at]);
        assert_eq!((outcome.used, outcome.values, outcome.fault.is_none()), (0.5, 2, true));
        outcome.near("b", &[1.0f32], &[1.25], |_| 1.0);
        assert_eq!((outcome.used, outcome.values), (0.5, 3), "the largest share counts");
        for (got, expected, allowed) in
            [(1.0f32, 1.5, 0.25), (f32::NAN, 1.0, 1.0), (1.0, 1.5, 0.0), (f32::INFINITY, 1.0, 1.0), (1.0, 2.0, f64::NAN)]
        {
            let says = fault(|outcome| outcome.near("values", &[0.0, got], &[0.0, expected], |_| allowed));
            assert!(says.starts_with(&format!("values at index 1: expected {expected:e} +- ")), "{says}");
            assert!(says.ends_with(&format!("got {got:e}")), "{says}");
        }
    }

    #[test]
    fn a_length_is_exceeded_where_it_differs_most() {
        let mut outcome = Outcome::default();
        outcome.length("g", &[3.0, 4.5], &[3.0, 4.0], 0.0, 0.2);
        assert_eq!((outcome.used, outcome.fault.is_none()), (0.5, true));
        let says = fault(|outcome| outcome.length("g", &[3.1, 4.0, 7.0], &[3.0, 4.0, 0.0], 0.0, 0.2));
        assert_eq!(says, "g (off by 1.4e0 of their length) at index 2: expected 0.0 (0x00000000), got 7.0 (0x40e00000)");
        let says = fault(|outcome| outcome.length("g", &[9.0, f32::NAN, 0.0], &[0.0, 1.0, 0.0], 1.0, 0.2));
        assert!(says.contains("at index 1: expected 1.0 (0x3f800000), got NaN"), "{says}");
    }

    #[test]
    fn after_a_fault_nothing_is_compared() {
        let mut outcome = Outcome::default();
        outcome.bits("first", &[1u8], &[2]);
        outcome.bits("second", &[3u8], &[4]);
        outcome.near("third", &[3.0f32], &[4.0], |_| 10.0);
        outcome.fail("fourth", 0, "", "");
        assert_eq!((outcome.fault.map(|fault| fault.values), outcome.values, outcome.used), (Some("first".into()), 1, 0.0));
    }
}
