//! How far long work is, on stderr: a bar on a terminal, a plain line now and then in a log file.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Global, complain};

const TEMPLATE: &str = "{prefix} {pos}/{len} {wide_bar} {msg} eta {eta}";

/// One piece of work after the other.
pub struct Progress {
    bar: ProgressBar,
    /// None on a terminal, and where nobody wants to read of it.
    log: Option<Mutex<Log>>,
}

/// When the last line was written.
struct Log {
    every: Duration,
    told: Instant,
    /// Of which piece of work it was, where that began, and when.
    first: Option<(String, u64, Instant)>,
}

impl Progress {
    /// Work of `total` parts.
    pub fn new(global: &Global, total: usize) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal && !global.quiet { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        let log = || Mutex::new(Log { every: Duration::from_secs(global.progress_every), told: Instant::now(), first: None });
        Progress { bar, log: (!is_terminal && !global.quiet).then(log) }
    }

    /// So many of `total` parts are done; `what` stands before their number, `message` behind it. Another `what` is another piece of work.
    pub fn at(&self, what: &str, done: usize, total: usize, message: &str) {
        let (done, total) = (done as u64, total as u64);
        if self.bar.prefix() != what {
            self.bar.reset();
        }
        self.bar.set_prefix(what.to_string());
        self.bar.set_message(message.to_string());
        self.bar.set_length(total);
        self.bar.set_position(done);
        let Some(mut log) = self.log.as_ref().and_then(|log| log.lock().ok()) else { return };
        let now = Instant::now();
        if log.first.as_ref().is_none_or(|(of, ..)| of != what) {
            log.first = Some((what.to_string(), done, now));
        }
        let (from, begin) = log.first.as_ref().map_or((done, now), |(_, from, begin)| (*from, *begin));
        if done < total && now - log.told >= log.every {
            log.told = now;
            complain(&line(what, [done, total], message, left(now - begin, done.saturating_sub(from), total - done)));
        }
    }

    /// Runs `print` while no bar is in its way.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `epoch 3/90 step 1200/8897 loss 2.310 train 45.2, 18:42 left`
fn line(what: &str, [done, total]: [u64; 2], message: &str, left: Option<Duration>) -> String {
    let message = if message.is_empty() { String::new() } else { format!(" {message}") };
    let left = left.map_or(String::new(), |left| format!(", {} left", clock(left)));
    format!("{what} {done}/{total}{message}{left}")
}

/// The time that is left if the rest goes as fast as what was done.
fn left(taken: Duration, done: u64, rest: u64) -> Option<Duration> {
    if done == 0 { None } else { Duration::try_from_secs_f64(taken.as_secs_f64() / done as f64 * rest as f64).ok() }
}

/// `0:07`, `18:42`, `1:02:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_left() {
        let left_of = |seconds, done, rest| left(Duration::from_secs(seconds), done, rest);
        assert_eq!(left_of(10, 0, 5), None);
        assert_eq!(left_of(175, 1200, 7697), Some(Duration::from_secs_f64(175.0 / 1200.0 * 7697.0)));
        let words = line("epoch 3/90 step", [1200, 8897], "loss 2.310 train 45.2", left_of(175, 1200, 7697));
        assert_eq!(words, "epoch 3/90 step 1200/8897 loss 2.310 train 45.2, 18:42 left");
        assert_eq!(line("image", [0, 5], "", None), "image 0/5");
        assert_eq!([7, 60, 3723].map(|seconds| clock(Duration::from_secs(seconds))), ["0:07", "1:00", "1:02:03"]);
    }

    #[test]
    fn the_bar_has_its_template() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
