//! Arrays of NumPy and tensors of PyTorch, in and out.

use dsr::data::{DataCard, Pixels};
use dsr::device::room::{Bytes, Room};
use numpy::ndarray::{ArrayD, IxDyn};
use numpy::{IntoPyArray, PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::errors::{raised, wrong};
use crate::lent;

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
pub fn on_host<'py>(name: &str, given: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let mut array = given.clone();
    if given.hasattr("detach")? {
        array = given.call_method0("detach")?.call_method0("cpu")?;
        lent::refuse_sparse(name, &array)?;
        array = array.call_method0("numpy")?;
    }
    if !array.is_instance_of::<PyUntypedArray>() {
        let device = lent::cuda_device(given)?;
        let read = given.py().import("numpy")?.call_method1("asarray", (array,));
        // An object that NumPy knows nothing of becomes an array of one object.
        let is_read = read
            .as_ref()
            .is_ok_and(|read| read.getattr("dtype").and_then(|dtype| dtype.getattr("kind")).is_ok_and(|kind| kind.to_string() != "O"));
        array = match device {
            Some(device) if !is_read => {
                return Err(wrong(name, format!("are on cuda:{device}, from where NumPy does not read them; copy them to the host first")));
            }
            _ => read?,
        };
    }
    Ok(array.cast_into::<PyUntypedArray>()?)
}

/// The same values one behind the other: a view of a field of records has strides that are no whole values, and values at any address.
fn in_order<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let numpy = array.py().import("numpy")?;
    Ok(numpy.call_method1("require", (array, array.py().None(), ["C", "A"]))?.cast_into()?)
}

/// The values of images of the host, `[B][frames][H][W][C]`; their shape is known to fit, `[height, width, channels]` that of one.
///
/// # Errors
/// `ValueError` for another type, for too many, and for a value that is not finite.
pub fn values(
    array: &Bound<'_, PyUntypedArray>,
    order: Layout,
    [height, width, channels]: [usize; 3],
    card: &DataCard,
) -> PyResult<Vec<f32>> {
    check_room(array.shape())?;
    let array = in_order(array)?;
    let order = if channels == 1 { Layout::Nhwc } else { order }; // the same bytes
    if let Ok(array) = array.cast::<PyArrayDyn<f32>>() {
        let array = array.readonly();
        let batch = array.shape()[0];
        let standard = array.as_array().as_standard_layout().into_owned();
        let values = standard.into_raw_vec_and_offset().0;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(raised(not_finite(at / (values.len() / batch).max(1), values[at])));
        }
        return Ok(match order {
            Layout::Nhwc => values,
            Layout::Nchw => channels_last(&values, height * width, channels),
        });
    }
    let Ok(array) = array.cast::<PyArrayDyn<u8>>() else { return Err(lent::wrong_type("images", &array.dtype().to_string())) };
    let array = array.readonly();
    let bytes = array.as_array().as_standard_layout().into_owned().into_raw_vec_and_offset().0;
    let bytes = match order {
        Layout::Nhwc => bytes,
        Layout::Nchw => channels_last(&bytes, height * width, channels),
    };
    let mut values = Vec::with_capacity(bytes.len());
    Pixels::of_card(card).append(&bytes, &mut values);
    Ok(values)
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

/// What is wrong with a sample that holds this value.
pub fn not_finite(sample: usize, value: f32) -> dsr::Error {
    let value = if value.is_nan() { "NaN".to_string() } else { value.to_string() };
    dsr::Error::config("images", format!("sample {sample} holds {value}; every value must be finite"))
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
