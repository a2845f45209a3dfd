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
    if run.progress.epoch == 0 || !folder.is_ours() {
        return Ok(());
    }
    let own = folder.best();
    let what = match checkpoint::check(&own) {
        Ok(found) if is_of(run, &found) => return Ok(()),
        Ok(_) => "is of another run",
        Err(error) if error.is_missing() => "is missing",
        Err(_) => "is damaged",
    };
    let theirs = path.with_file_name(run_folder::BEST);
    if theirs != own && checkpoint::check(&theirs).is_ok_and(|theirs| is_of(run, &theirs)) {
        return folder.copy(&theirs, &own);
    }
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

/// Whether `best` is the best state that `run` has had, or that of its next epoch: a process may be killed when it has written that and not
/// yet the newest state.
fn is_of(run: &Run, best: &Progress) -> bool {
    let loss = |m: &EpochMetrics| (m.train_loss.to_bits(), m.test_loss.to_bits());
    let Progress { seed, epoch, best_accuracy, metrics, .. } = &run.progress;
    let is_at_best = if best.epoch <= *epoch { best.best_accuracy == *best_accuracy } else { best.epoch == epoch + 1 };
    best.seed == *seed && is_at_best && metrics.iter().map(loss).zip(best.metrics.iter().map(loss)).all(|(ours, theirs)| ours == theirs)
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
