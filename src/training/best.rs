//! The best checkpoint of a run that goes on: it may be gone, damaged, or in the folder that the run comes from.

use std::path::Path;

use super::checkpoint::Progress;
use super::metrics::EpochMetrics;
use super::run_folder::{self, RunFolder};
use super::{Run, checkpoint, save};
use crate::error::Result;
use crate::settings::recipes;

/// Sees to it that `folder` has the best checkpoint of `run`, which goes on from `path`: from the folder of that file, or made anew where
/// the epoch that the run stands behind is the best. Where neither is possible a note says what there is instead.
///
/// # Errors
/// [`crate::error::Error`] with the path of a file that cannot be read or written.
pub(super) fn keep(run: &mut Run, folder: &RunFolder, path: &Path) -> Result<()> {
    if !folder.is_ours() {
        return Ok(());
    }
    let (own, is_first_epoch) = (folder.best(), run.progress.epoch == 0);
    let what = match checkpoint::check(&own) {
        Ok(found) => match foreign(run, &own, &found) {
            None => return Ok(()),
            Some(what) => what,
        },
        Err(error) if error.is_missing() && is_first_epoch => return Ok(()),
        Err(error) if error.is_missing() => "is missing",
        Err(_) => "is damaged",
    };
    let theirs = path.with_file_name(run_folder::BEST);
    if theirs != own && checkpoint::check(&theirs).is_ok_and(|found| foreign(run, &theirs, &found).is_none()) {
        return folder.copy(&theirs, &own);
    }
    let (own_shown, last) = (own.display(), folder.last());
    let best = 100.0 * run.progress.best_accuracy;
    if ends_with_best(&run.progress) {
        save(run, folder, &own)?;
        folder.note(&format!("{own_shown} {what}, and is made anew: the last epoch is the best"));
    } else {
        let when = if is_first_epoch { "with the first epoch".into() } else { format!("when an epoch is better than {best:.1} %") };
        folder.note(&format!("{own_shown} {what}, and comes back {when}; until then name {}", last.display()));
    }
    Ok(())
}

/// What is wrong with a file that says `best` of itself, if it is neither the best state that `run` has had nor that of its next epoch: a
/// process may be killed when it has written that and not yet the newest state.
fn foreign(run: &Run, path: &Path, best: &Progress) -> Option<&'static str> {
    let loss = |m: &EpochMetrics| (m.train_loss.to_bits(), m.test_loss.to_bits());
    let Progress { seed, epoch, best_accuracy, metrics, .. } = &run.progress;
    let has_history = metrics.iter().map(loss).zip(best.metrics.iter().map(loss)).all(|(ours, theirs)| ours == theirs);
    let is_best = best.epoch <= *epoch && best.best_accuracy == *best_accuracy;
    if best.seed != *seed || !has_history || !(is_best || best.epoch == epoch + 1) {
        return Some("is of another run");
    }
    (!is_best && !has_settings_of(run, path)).then_some("is of an epoch that other settings would bring")
}

/// Whether the checkpoint at `path` has the settings of `run`, wherever its data lay: else the epoch behind it may never come, since a
/// resumed run may change `lr` and `epochs`.
fn has_settings_of(run: &Run, path: &Path) -> bool {
    let trained = || recipes::trained(path, &checkpoint::config(path).ok()??).ok();
    let ours = &run.config;
    trained().is_some_and(|theirs| (theirs.lr, theirs.epochs) == (ours.lr, ours.epochs) && theirs.check_resume(ours).is_ok())
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
