//! A trained network on samples of its data, for cases that measure it instead of a new one on random images.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::throughput::check_room;
use crate::data::{Dataset, Loader};
use crate::error::Result;

/// Samples that are read at once.
const AT_ONCE: usize = 64;

/// A checkpoint, and the first samples of the test split of its data set.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The checkpoint.
    pub path: PathBuf,
    /// Name of the data set.
    pub dataset: String,
    /// Classes that it has.
    pub classes: usize,
    /// Frames of a sample: 1 or T.
    pub frames: usize,
    /// `[N][frames][H][W][C]`.
    pub images: Vec<f32>,
    /// Class of each sample, `[N]`.
    pub labels: Vec<u32>,
}

impl Trained {
    /// Reads up to `most` samples; the parameters stay in the file.
    ///
    /// # Errors
    /// That of a sample that cannot be read; [`crate::error::Error::Config`] for more of them than fit into memory.
    pub fn first(path: &Path, dataset: &Arc<Dataset>, most: usize) -> Result<Trained> {
        let wanted = most.min(dataset.test.len());
        check_room(wanted, dataset.sample_values())?;
        let (mut images, mut labels, frames) = (Vec::new(), Vec::new(), dataset.frames);
        let mut loader = Loader::test(Arc::clone(dataset), AT_ONCE);
        for batch in &mut loader {
            images.extend_from_slice(&batch.data);
            labels.extend_from_slice(&batch.labels);
            if labels.len() >= wanted {
                break;
            }
        }
        loader.outcome()?;
        labels.truncate(wanted);
        images.truncate(wanted * dataset.sample_values());
        Ok(Trained { path: path.to_path_buf(), dataset: dataset.label(), classes: dataset.classes.len(), frames, images, labels })
    }

    /// Images, `[B][frames][H][W][C]`, and labels of a batch: the first samples, and these again where there are fewer.
    pub(super) fn batch(&self, batch: usize) -> (Vec<f32>, Vec<u32>) {
        let sample = self.images.len() / self.labels.len().max(1);
        let images = self.images.chunks_exact(sample.max(1)).cycle().take(batch).flatten().copied().collect();
        (images, self.labels.iter().copied().cycle().take(batch).collect())
    }
}
