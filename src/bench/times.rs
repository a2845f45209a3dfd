//! Repeats what is measured, and says how its times are spread.

use std::time::Instant;

use serde::Serialize;

use crate::error::Result;

/// How often something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Runs before the timed ones.
    pub warmup: usize,
    /// Most timed runs.
    pub repeats: usize,
    /// Seconds after which no further run begins.
    pub seconds: f64,
}

/// Runs `body` until one of the limits is reached, at least once after the warm-up; gives the seconds that each timed run says it took.
///
/// # Errors
/// Those of `body`.
pub fn repeat(limits: &Limits, mut body: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    for _ in 0..limits.warmup {
        body()?;
    }
    let begin = Instant::now();
    let mut seconds = vec![body()?];
    while seconds.len() < limits.repeats && begin.elapsed().as_secs_f64() < limits.seconds {
        seconds.push(body()?);
    }
    Ok(seconds)
}

/// Seconds that `body` takes.
///
/// # Errors
/// Those of `body`.
pub fn timed(body: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    body()?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Spread of `n` times in seconds; all numbers but `n` are absent where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    pub n: usize,
    pub median_s: Option<f64>,
    pub min_s: Option<f64>,
    pub max_s: Option<f64>,
    /// Quartiles.
    pub p25_s: Option<f64>,
    pub p75_s: Option<f64>,
    pub p95_s: Option<f64>,
    pub p99_s: Option<f64>,
}

impl Times {
    /// Of these times.
    pub fn of(seconds: &[f64]) -> Times {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&sorted, share);
        Times {
            n: sorted.len(),
            median_s: at(0.5),
            min_s: at(0.0),
            max_s: at(1.0),
            p25_s: at(0.25),
            p75_s: at(0.75),
            p95_s: at(0.95),
            p99_s: at(0.99),
        }
    }
}

/// The value below which `share` of the sorted values lie, by a straight line between neighbours; none of no values.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    Some(sorted[below] + (place - below as f64) * (sorted[above] - sorted[below]))
}
