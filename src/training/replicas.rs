//! Whether the ranks that share a run have the same bits.

use super::Run;
use crate::error::{Error, Result};
use crate::ranks::Ranks;

/// Every rank has taken the same steps, so all have the same bits; if they have not, no checkpoint is written.
///
/// # Errors
/// [`Error::Ranks`] naming the first rank that differs from rank 0.
pub(super) fn check_replicas(run: &mut Run, ranks: &Ranks) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    run.network.synchronize(&mut run.optimizer)?;
    let running = run.network.running();
    let arenas = [&run.network.values[..], &running].into_iter().chain(run.optimizer.arenas());
    let checksum = arenas.fold(0, |sum, values| crc32c::crc32c_append(sum, bytemuck::cast_slice(values)));
    let all = ranks.gather("checksum of the parameters", checksum.to_le_bytes().to_vec())?;
    let Some(other) = all.iter().position(|theirs| *theirs != all[0]) else { return Ok(()) };
    let problem =
        format!("rank {other} has other parameters than rank 0 after step {}: is its memory or processor faulty?", run.progress.iteration);
    Err(Error::Ranks { rank: ranks.rank(), problem })
}
