//! The best checkpoint of a run that goes on: it may be gone, damaged, or in the folder that the run comes from.

use std::path::Path;

use super::checkpoint::Progress;
use super::metrics::EpochMetrics;
use super::run_folder::{self, RunFolder};
use super::{Run, checkpoint, save};
use crate::error::Result;

/// Sees to it that `folder` has the best checkpoint of `run`, which goes on from `path`: from the folder of that file, or made anew where
/// the epoch that the run stands behind is the best. Where neither is possible a note says what there is instead.
///
/// # Errors
/// [`crate::error::Error`] with the path of a file that cannot be read or written.
pub(super) fn keep(run: &mut Run, folder: &RunFolder, path: &Path) -> Result<()> {
    let own = folder.best();
    let found = checkpoint::check(&own);
    if run.progress.epoch == 0 || !folder.is_ours() || found.is_ok() {
        return Ok(());
    }
    let theirs = path.with_file_name(run_folder::BEST);
    if theirs != own && is_of(run, &theirs) {
        return folder.copy(&theirs, &own);
    }
    let what = match found {
        Err(error) if !error.is_missing() => "is damaged",
        _ => "is missing",
    };
    let (own_shown, last) = (own.display(), folder.last());
    let best = 100.0 * run.progress.best_accuracy;
    if ends_with_best(&run.progress) {
        save(run, folder, &own)?;
        folder.note(&format!("{own_shown} {what}, and is made anew: the last epoch is the best"));
    } else {
        let last = last.display();
        folder.note(&format!("{own_shown} {what}, and comes back when an epoch is better than {best:.1} %; until then name {last}"));
    }
    Ok(())
}

/// Whether the file holds an earlier state, or this one, of `run`.
fn is_of(run: &Run, file: &Path) -> bool {
    let history = |metrics: &[EpochMetrics]| metrics.iter().map(|m| (m.train_loss.to_bits(), m.test_loss.to_bits())).collect::<Vec<_>>();
    let Progress { seed, best_accuracy, metrics, .. } = &run.progress;
    checkpoint::check(file).is_ok_and(|best| {
        best.seed == *seed
            && best.best_accuracy == *best_accuracy
            && metrics.get(..best.epoch).is_some_and(|earlier| history(earlier) == history(&best.metrics))
    })
}

/// Whether the run stands behind its best epoch, so that its state is what the best checkpoint holds.
fn ends_with_best(progress: &Progress) -> bool {
    let is_best = match &progress.metrics[..] {
        [] => false,
        [_] => true,
        [.., before, last] => last.best_accuracy > before.best_accuracy,
    };
    progress.step == 0 && is_best
}
