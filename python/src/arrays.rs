//! Arrays of NumPy and tensors of PyTorch, in and out.

use dsr::data::{DataCard, Pixels};
use dsr::device::room::{Bytes, Room};
use numpy::ndarray::{ArrayD, IxDyn};
use numpy::{IntoPyArray, PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyUserWarning};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::errors::{raised, wrong};

/// Samples as a network takes them.
pub struct Samples {
    /// `[B][frames][H][W][C]`.
    pub values: Vec<f32>,
    /// Number of samples.
    pub batch: usize,
    /// Images of a sample: 1, or T.
    pub frames: usize,
}

/// The order of the axes of images.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Channels first, as in PyTorch.
    Nchw,
    /// Channels last.
    Nhwc,
}

/// `NCHW` or `NHWC`.
pub fn layout(name: &str) -> PyResult<Layout> {
    match name {
        "NCHW" => Ok(Layout::Nchw),
        "NHWC" => Ok(Layout::Nhwc),
        other => Err(wrong("layout", format!("'{other}' is neither NCHW nor NHWC"))),
    }
}

/// A tensor as an array: one that is on a device is copied to the host.
fn on_host<'py>(name: &str, given: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let py = given.py();
    let mut array = given.clone();
    if given.hasattr("detach")? {
        if given.getattr("is_cuda").is_ok_and(|is_cuda| is_cuda.is_truthy().unwrap_or(false)) {
            let note = c"dsr: a CUDA tensor is copied to the host for this call; give a CPU tensor where there is one";
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), note, 2)?;
        }
        array = given.call_method0("detach")?.call_method0("cpu")?;
        if array.getattr("is_sparse").is_ok_and(|is_sparse| is_sparse.is_truthy().unwrap_or(false)) {
            return Err(wrong(name, "is a sparse tensor; use .to_dense()"));
        }
        array = array.call_method0("numpy")?;
    }
    if !array.is_instance_of::<PyUntypedArray>() {
        array = py.import("numpy")?.call_method1("asarray", (array,))?;
    }
    Ok(array.cast_into::<PyUntypedArray>()?)
}

/// Images `[B, C, H, W]` or, of recordings, `[B, T, C, H, W]`, in the order that the network takes.
///
/// # Errors
/// `ValueError` for another shape or type, or a value that is not finite.
pub fn samples(given: &Bound<'_, PyAny>, order: Layout, shape: [usize; 3], time_steps: usize, card: &DataCard) -> PyResult<Samples> {
    let array = on_host("images", given)?;
    let [height, width, channels] = shape;
    let axes = array.shape().to_vec();
    let (image, letters) = match order {
        Layout::Nchw => ([channels, height, width], "C, H, W"),
        Layout::Nhwc => ([height, width, channels], "H, W, C"),
    };
    let (batch, frames) = match axes[..] {
        [batch, a, b, c] if [a, b, c] == image => (batch, 1),
        [batch, frames, a, b, c] if [a, b, c] == image && (frames == 1 || frames == time_steps) => (batch, frames),
        _ => {
            let [a, b, c] = image;
            let expected = format!("[B, {letters}] = [B, {a}, {b}, {c}], or [B, T, {letters}] with T = {time_steps}");
            return Err(wrong("images", format!("have shape {axes:?}; this network takes {expected}")));
        }
    };
    if batch == 0 {
        return Err(wrong("images", "there is none in this batch"));
    }
    check_room(&axes)?;
    let order = if channels == 1 { Layout::Nhwc } else { order }; // the same bytes
    let values = if let Ok(array) = array.cast::<PyArrayDyn<f32>>() {
        let array = array.readonly();
        let standard = array.as_array().as_standard_layout().into_owned();
        let values = standard.into_raw_vec_and_offset().0;
        refuse_not_finite(&values, values.len() / batch)?;
        match order {
            Layout::Nhwc => values,
            Layout::Nchw => channels_last(&values, height * width, channels),
        }
    } else if let Ok(array) = array.cast::<PyArrayDyn<u8>>() {
        let array = array.readonly();
        let bytes = array.as_array().as_standard_layout().into_owned().into_raw_vec_and_offset().0;
        let bytes = match order {
            Layout::Nhwc => bytes,
            Layout::Nchw => channels_last(&bytes, height * width, channels),
        };
        let mut values = Vec::with_capacity(bytes.len());
        Pixels::of_card(card).append(&bytes, &mut values);
        values
    } else {
        let name = array.dtype().to_string();
        let problem = match name.as_str() {
            "float64" => "are float64; use float32: images.astype(numpy.float32), or images.float()".to_string(),
            other => format!("are {other}; use float32, or uint8 for pictures of one byte a value"),
        };
        return Err(wrong("images", problem));
    };
    Ok(Samples { values, batch, frames })
}

/// Bytes of images that are copied without a look at what memory there is.
const SMALL: u64 = 1 << 28;

/// Refuses more images than there is room for: an array that repeats one image, or lies in a file, has any size.
fn check_room(axes: &[usize]) -> PyResult<()> {
    let values = axes.iter().fold(1u64, |values, &n| values.saturating_mul(n as u64));
    let written = values.saturating_mul(size_of::<f32>() as u64);
    if written <= SMALL {
        return Ok(());
    }
    Room::now().check(Bytes { written, reserved: 0 }, "a copy of these images", "give fewer at once").map_err(raised)
}

fn refuse_not_finite(values: &[f32], sample: usize) -> PyResult<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let value = if values[at].is_nan() { "NaN".to_string() } else { values[at].to_string() };
            Err(wrong("images", format!("sample {} holds {value}; every value must be finite", at / sample.max(1))))
        }
    }
}

fn channels_last<T: Copy + Default>(values: &[T], positions: usize, channels: usize) -> Vec<T> {
    let mut out = vec![T::default(); values.len()];
    let image = positions * channels;
    for (from, to) in values.chunks_exact(image.max(1)).zip(out.chunks_exact_mut(image.max(1))) {
        for (c, plane) in from.chunks_exact(positions).enumerate() {
            plane.iter().enumerate().for_each(|(p, &value)| to[p * channels + c] = value);
        }
    }
    out
}

/// Classes `[B]`, of any type of integers.
///
/// # Errors
/// `ValueError` for another shape or type, or a class that there is not.
pub fn labels(given: &Bound<'_, PyAny>, batch: usize, classes: usize) -> PyResult<Vec<u32>> {
    let array = on_host("labels", given)?;
    if !matches!(array.dtype().kind(), b'i' | b'u') {
        return Err(wrong("labels", format!("are {}; use integers, the numbers of the classes", array.dtype())));
    }
    if array.shape() != [batch] {
        return Err(wrong("labels", format!("have shape {:?}; there are {batch} images", array.shape())));
    }
    let array = array.call_method1("astype", ("int64",))?.cast_into::<PyArray1<i64>>()?;
    let label = |value: &i64| u32::try_from(*value).ok().filter(|&label| (label as usize) < classes).ok_or(*value);
    let found: Result<Vec<u32>, i64> = array.readonly().as_array().iter().map(label).collect();
    found.map_err(|value| wrong("labels", format!("{value} is not in 0..{classes}")))
}

/// The values of a float array of this shape, for a tensor of this name.
///
/// # Errors
/// `ValueError` for another shape or type, or a value that is not finite.
pub fn floats(name: &str, given: &Bound<'_, PyAny>, shape: &[usize]) -> PyResult<Vec<f32>> {
    let array = on_host(name, given)?;
    let is_number = |shape: &[usize]| shape.iter().all(|&n| n == 1);
    if array.shape() != shape && !(is_number(array.shape()) && is_number(shape)) {
        return Err(wrong(name, format!("has shape {:?}; this network needs {shape:?}", array.shape())));
    }
    if array.dtype().kind() != b'f' {
        return Err(wrong(name, format!("is {}; use float32", array.dtype())));
    }
    let array = array.call_method1("astype", ("float32",))?.cast_into::<PyArrayDyn<f32>>()?;
    let values: Vec<f32> = array.readonly().as_array().iter().copied().collect();
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(wrong(name, format!("element {at} is {}; every value must be finite", values[at]))),
    }
}

/// Elements that a list of settings, names or numbers may have.
pub const MOST_ELEMENTS: usize = 1 << 16;

/// The elements of a list, one by one: a `range` has any length, and takes no memory for it.
///
/// # Errors
/// `ValueError` for more than [`MOST_ELEMENTS`], and what `element` says of one; `TypeError` for a text.
pub fn listed<'py, T>(name: &str, given: &Bound<'py, PyAny>, element: impl Fn(&Bound<'py, PyAny>) -> PyResult<T>) -> PyResult<Vec<T>> {
    if given.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err(format!("{name}: takes a list, not the text '{given}'")));
    }
    let mut elements = Vec::new();
    for item in given.try_iter().map_err(|_| wrong(name, format!("takes no {}", given.get_type())))? {
        if elements.len() == MOST_ELEMENTS {
            return Err(wrong(name, format!("has more than {MOST_ELEMENTS} elements")));
        }
        elements.push(element(&item?)?);
    }
    Ok(elements)
}

/// The one element of an array of integers.
///
/// # Errors
/// `ValueError` for anything else.
pub fn integer(name: &str, given: &Bound<'_, PyAny>) -> PyResult<i64> {
    let item = given.call_method0("item").and_then(|item| item.extract());
    item.or_else(|_| given.extract()).map_err(|_| wrong(name, "is no whole number"))
}

/// Values as an array of this shape.
pub fn shaped<'py, T: numpy::Element>(py: Python<'py>, shape: &[usize], values: Vec<T>) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let array = ArrayD::from_shape_vec(IxDyn(shape), values).map_err(|e| wrong("shape", e))?;
    Ok(array.into_pyarray(py))
}
