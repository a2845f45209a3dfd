//! `dsr.dataset`: the images of a set that is in memory.

use dsr::data;
use numpy::PyArrayDyn;
use pyo3::prelude::*;

use crate::arrays::shaped;
use crate::errors::wrong;
use crate::paths::UserPath;
use crate::threads;

/// The images of a data set, as they are stored.
///
/// Parameters
/// ----------
/// name : str
///     fashion-mnist-3k, digits-8x8 and photo-patches-10 come with the package; mnist, fashion-mnist, cifar10 and cifar100 are read from
///     `data_dir`.
/// split : {"train", "test"}
/// data_dir : path-like, optional
///
/// Returns
/// -------
/// images : numpy.ndarray
///     `[N, C, H, W]` uint8, which a network of this set takes.
/// labels : numpy.ndarray
///     `[N]` int64.
///
/// Raises
/// ------
/// ValueError, FileNotFoundError
///     For an unknown set, a file that is not what it should be, or a set that is read file by file.
#[pyfunction]
#[pyo3(signature = (name, split = "test", data_dir = None))]
pub fn dataset<'py>(
    py: Python<'py>,
    name: &str,
    split: &str,
    data_dir: Option<UserPath>,
) -> PyResult<(Bound<'py, PyArrayDyn<u8>>, Bound<'py, PyArrayDyn<i64>>)> {
    let opened = threads::work(py, || data::load(name, data_dir.as_ref().map(|path| path.0.as_path())))?;
    if opened.stream.is_some() {
        return Err(wrong("dataset", format!("{name} is read file by file while it is trained on; it is not in memory")));
    }
    let split = match split {
        "train" => opened.train,
        "test" => opened.test,
        other => return Err(wrong("split", format!("'{other}' is neither train nor test"))),
    };
    let [height, width, channels] = split.images.shape;
    let pixels = split.images.pixels;
    let image = height * width * channels;
    let mut planes = vec![0; pixels.len()];
    for (from, to) in pixels.chunks_exact(image.max(1)).zip(planes.chunks_exact_mut(image.max(1))) {
        for (at, &byte) in from.iter().enumerate() {
            to[at % channels * height * width + at / channels] = byte;
        }
    }
    let labels: Vec<i64> = split.labels.iter().map(|&label| label.into()).collect();
    Ok((shaped(py, &[labels.len(), channels, height, width], planes)?, shaped(py, &[labels.len()], labels)?))
}
