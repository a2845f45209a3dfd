//! Images a second that loaders prepare.

use std::sync::Arc;

use super::times::{Limits, repeat, timed};
use crate::data::{Dataset, Loader};
use crate::device::room::{Bytes, Room};
use crate::error::{Error, Result};
use crate::settings::Config;

/// Which images, and what is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// The training split: shuffled, cropped, mirrored, normalised.
    Train,
    /// The test split: normalised.
    Test,
}

/// Addresses of a loader: the stacks of its two threads, and what comes with them.
const LOADER_BYTES: u64 = 6 << 20;
/// Addresses of each of the readers that a loader of files has besides.
const READER_BYTES: u64 = 3 << 20;

/// Seconds of whole passes: `loaders` of them at once, each with the threads that training gives it, each through the whole split.
///
/// # Errors
/// That of a sample that cannot be read; [`Error::Config`] for more loaders than there is room for.
pub fn time_passes(dataset: &Arc<Dataset>, pass: Pass, config: &Config, loaders: usize, limits: &Limits) -> Result<Vec<f64>> {
    // A thread without room for its stack may end the program, and not be refused.
    let readers = if dataset.stream.is_some() { rayon::current_num_threads() as u64 } else { 0 };
    let reserved = (loaders as u64).saturating_mul(LOADER_BYTES + readers * READER_BYTES);
    let room = Room::now().check(Bytes { written: 0, reserved }, "starting them", "take fewer");
    room.map_err(|e| Error::config("loaders", format!("{loaders}: {e}")))?;
    let augment = config.augment();
    let mut epoch = 0;
    repeat(limits, || {
        epoch += 1;
        timed(|| {
            std::thread::scope(|scope| {
                let mut passes = Vec::new();
                for reader in 0..loaders {
                    let loader = || match pass {
                        Pass::Train => Loader::train(Arc::clone(dataset), config.batch, augment, config.seed + reader as u64, epoch, 0),
                        Pass::Test => Loader::test(Arc::clone(dataset), config.batch),
                    };
                    let mut loader = loader();
                    let pass = std::thread::Builder::new().spawn_scoped(scope, move || {
                        loader.by_ref().for_each(|batch| drop(std::hint::black_box(batch)));
                        loader.outcome()
                    });
                    let refused = |e| Error::config("loaders", format!("{loaders}: the system starts no more threads ({e}); take fewer"));
                    passes.push(pass.map_err(refused)?);
                }
                passes.into_iter().try_for_each(|pass| pass.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })
    })
}

/// Images of one pass.
pub fn images(dataset: &Dataset, pass: Pass) -> usize {
    match pass {
        Pass::Train => dataset.train.len(),
        Pass::Test => dataset.test.len(),
    }
}
