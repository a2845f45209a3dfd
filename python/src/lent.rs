//! Tensors of a CUDA device that others lend by the DLPack protocol: read where they are, and given back when the call is done.
//!
//! Capsules and their deleters are left to the crate `dlpark`; what a tensor says of its memory is held against the driver.

use std::sync::Arc;

use dlpark::ffi::{DLDataTypeCode, DLDevice, DLDeviceType};
use dlpark::python::consumer::stream;
use dlpark::python::{DlpackStream, ImportRequest, ImportedDlpack, StreamArg, from_dlpack};
use dsr::device::{Device, Gpu};
use dsr::ops::augment::{Strided, reach};
use dsr::{Error, Network as Engine};
use pyo3::exceptions::{PyBufferError, PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{raised, wrong};

/// Axes of an array of the engine.
pub const AXES: usize = 5;

/// A tensor that another program lends.
pub struct Lent {
    /// Calls the deleter when dropped, once.
    tensor: Option<ImportedDlpack>,
    pub gpu: Arc<Gpu>,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// Its values: axes that it has not come first, with one index each.
#[derive(Clone, Copy)]
pub enum Values {
    Real(Strided<f32>),
    Bytes(Strided<u8>),
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Every call waits for the kernels that read it, also one that fails ([`crate::access`]); one that panics does not.
        if std::thread::panicking() {
            std::mem::forget(self.tensor.take());
        }
    }
}

/// The stream that reads a tensor, for who lends it.
struct Reader<'a>(&'a Gpu);

// SAFETY: the stream lives as long as the device, and is a handle of CUDA as the protocol wants it.
unsafe impl DlpackStream for Reader<'_> {
    fn as_python_arg(&self, _: Python<'_>, _: DLDevice) -> PyResult<StreamArg> {
        Ok(stream::cuda(self.0.lenders_stream() as *mut _))
    }
}

/// The CUDA device that a tensor says it is on, by its index; none for arrays of the host.
pub fn cuda_device(given: &Bound<'_, PyAny>) -> PyResult<Option<i32>> {
    if !given.hasattr("__dlpack_device__")? {
        return Ok(None);
    }
    // A kind of device that the protocol does not know, as PyTorch's meta, is an error there; to copy it may still do.
    match given.call_method0("__dlpack_device__").and_then(|device| device.extract::<(u32, i32)>()) {
        Ok((kind, index)) => Ok((kind == DLDeviceType::CUDA.0).then_some(index)),
        Err(error) if error.is_instance_of::<PyException>(given.py()) => Ok(None),
        Err(error) => Err(error), // Ctrl-C
    }
}

/// The device that the network computes on.
pub fn gpu_of(engine: &Engine) -> Option<Arc<Gpu>> {
    match engine.device() {
        Device::Cuda(gpu) => Some(gpu),
        Device::Cpu => None,
    }
}

/// A tensor that lies on the device `gpu`; none for one that lies elsewhere, or is not lent as it is. `fits` is asked about its shape before
/// anything else.
///
/// # Errors
/// `ValueError` for another type, for a shape that its memory does not hold, and what `fits` says.
pub fn lent<'py>(
    name: &str,
    given: &Bound<'py, PyAny>,
    gpu: Option<&Arc<Gpu>>,
    fits: impl Fn(&[usize]) -> PyResult<()>,
) -> PyResult<Option<Lent>> {
    let Some(gpu) = gpu else { return Ok(None) };
    if cuda_device(given)? != i32::try_from(gpu.ordinal()).ok() {
        return Ok(None);
    }
    let given = if given.hasattr("detach")? { given.call_method0("detach")? } else { given.clone() };
    refuse_sparse(name, &given)?;
    // Older versions of PyTorch lend by the stream of the current device.
    let tensor = match gpu.while_current(|| import(&given, gpu)).map_err(raised)? {
        Err(error) if error.is_instance_of::<PyBufferError>(given.py()) => return Ok(None), // it cannot be lent as it is
        other => other?,
    };
    let about = tensor.validate().map_err(|problem| wrong(name, format!("cannot be read: {problem}")))?;
    let shape: Option<Vec<usize>> = about.shape().iter().map(|&len| usize::try_from(len).ok()).collect();
    let shape = shape.ok_or_else(|| wrong(name, "have an axis of negative length"))?;
    fits(&shape)?;
    let steps = about.strides_or_compact().map_err(|problem| wrong(name, format!("cannot be read: {problem}")))?;
    let kind = about.dtype();
    let start = (about.data_ptr() as u64).wrapping_add(about.byte_offset());
    let values = match (kind.code, kind.bits, kind.lanes) {
        (DLDataTypeCode::FLOAT, 32, 1) => values_at(name, gpu, start, &shape, &steps)?.map(Values::Real),
        (DLDataTypeCode::UINT, 8, 1) => values_at(name, gpu, start, &shape, &steps)?.map(Values::Bytes),
        _ => return Err(wrong_type(name, &type_name(kind.code, kind.bits))),
    };
    Ok(values.map(|values| Lent { tensor: Some(tensor), gpu: gpu.clone(), shape, values }))
}

/// Refuses what has no strides.
pub fn refuse_sparse(name: &str, given: &Bound<'_, PyAny>) -> PyResult<()> {
    let is_sparse = given.getattr("is_sparse").is_ok_and(|is_sparse| is_sparse.is_truthy().unwrap_or(false));
    if is_sparse { Err(wrong(name, "is a sparse tensor; use .to_dense()")) } else { Ok(()) }
}

/// Says which types there are in place of this one.
pub fn wrong_type(name: &str, found: &str) -> PyErr {
    let problem = match found {
        "float64" => "are float64; use float32: images.astype(numpy.float32), or images.float()".to_string(),
        other => format!("are {other}; use float32, or uint8 for pictures of one byte a value"),
    };
    wrong(name, problem)
}

/// Takes the tensor over; whoever computes it has then put the stream that reads it behind that.
fn import(given: &Bound<'_, PyAny>, gpu: &Gpu) -> PyResult<ImportedDlpack> {
    let py = given.py();
    match ImportRequest::new(given.as_borrowed())?.import(Some(&Reader(gpu)), None) {
        // Of a program from before versions of the protocol, which knows no argument for them.
        Err(error) if error.is_instance_of::<PyTypeError>(py) => {
            let stream = PyDict::new(py);
            stream.set_item("stream", gpu.lenders_stream())?;
            let capsule = given.call_method("__dlpack__", (), Some(&stream));
            // Of the two, the one that says what is the matter.
            let capsule = capsule.map_err(|second| if second.is_instance_of::<PyTypeError>(py) { error } else { second })?;
            from_dlpack(capsule.as_borrowed(), None, None)
        }
        other => other,
    }
}

/// The values from an address on, if the memory is of this device and context.
fn values_at<T: bytemuck::Pod>(name: &str, gpu: &Gpu, start: u64, shape: &[usize], steps: &[i64]) -> PyResult<Option<Strided<T>>> {
    let size = size_of::<T>() as i64;
    let too_far = || wrong(name, format!("say that they have shape {shape:?} with strides {steps:?}, which no memory holds"));
    let [lowest, highest] = reach(shape, steps).ok_or_else(too_far)?;
    let len = highest.checked_sub(lowest).and_then(|last| usize::try_from(last.checked_add(1)?).ok()).ok_or_else(too_far)?;
    let address = lowest.checked_mul(size).and_then(|lowest| start.checked_add_signed(lowest)).ok_or_else(too_far)?;
    // SAFETY: the tensor is kept until the kernels that read it are done: `Lent`.
    let memory = unsafe { gpu.lent::<T>(address, len) };
    let memory = memory.map_err(|error| if matches!(error, Error::Device { .. }) { raised(error) } else { wrong(name, error) })?;
    let Some(memory) = memory else { return Ok(None) };
    let (mut lengths, mut strides) = ([1; AXES], [0; AXES]);
    let missing = AXES.checked_sub(shape.len()).ok_or_else(too_far)?;
    lengths[missing..].copy_from_slice(shape);
    strides[missing..].copy_from_slice(steps);
    let first = lowest.checked_neg().and_then(|first| usize::try_from(first).ok()).ok_or_else(too_far)?;
    Strided::new(memory, first, lengths, strides).map(Some).map_err(|error| wrong(name, error))
}

/// A type as NumPy calls it.
fn type_name(code: DLDataTypeCode, bits: u8) -> String {
    match code {
        DLDataTypeCode::INT => format!("int{bits}"),
        DLDataTypeCode::UINT => format!("uint{bits}"),
        DLDataTypeCode::FLOAT => format!("float{bits}"),
        DLDataTypeCode::BFLOAT => format!("bfloat{bits}"),
        DLDataTypeCode::COMPLEX => format!("complex{bits}"),
        DLDataTypeCode::BOOL => "bool".to_string(),
        other => format!("of type {} with {bits} bits", other.0),
    }
}

/// That a network computes where a tensor was lent.
///
/// # Errors
/// Another thread may have moved it meanwhile.
pub fn same_device(name: &str, engine: &Engine, lent: &Arc<Gpu>) -> dsr::Result<()> {
    match engine.device() {
        Device::Cuda(gpu) if Arc::ptr_eq(&gpu, lent) => Ok(()),
        _ => Err(dsr::Error::config(name, "another thread has moved the network to another device during this call; call again")),
    }
}
