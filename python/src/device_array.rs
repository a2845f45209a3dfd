//! Results that stay on a CUDA device: others read them there by the DLPack protocol.

use std::sync::Arc;

use dlpark::ffi::{DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned};
use dlpark::metadata::Fixed;
use dlpark::python::{DlpackExporter, ExportRequest, export_dlpack};
use dlpark::{DlpackFlags, Managed, ManagedTensorBase};
use dsr::device::Given;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

/// Values on a CUDA device, float32, complete when the call that gave them has returned. `torch.from_dlpack` and others that know the
/// protocol read them where they are, and keep them as long as they need.
#[pyclass(module = "dsr", frozen)]
pub struct DeviceArray {
    memory: Arc<Given<f32>>,
    shape: [usize; 2],
    device: i32,
}

impl DeviceArray {
    /// Of this memory, which has as many elements.
    pub fn new(memory: Given<f32>, shape: [usize; 2], ordinal: usize) -> Self {
        DeviceArray { memory: Arc::new(memory), shape, device: ordinal as i32 }
    }

    fn tensor<M: ManagedTensorBase>(&self) -> PyResult<Managed<M>> {
        let failed = |problem: &dyn std::fmt::Display| PyBufferError::new_err(format!("logits_on_device: {problem}"));
        let shape = self.shape.map(|len| len as i64);
        let prepared = Fixed::new(shape, [shape[1], 1]).prepare_as::<M>().map_err(|problem| failed(&problem))?;
        let mut tensor = prepared.initialize(Arc::clone(&self.memory));
        tensor.set_data(self.memory.slice().address() as *mut _).set_device(self.device()).set_dtype(DLDataType::of::<f32>());
        // SAFETY: the memory has the elements of this shape, and the tensor keeps it.
        Ok(unsafe { tensor.finish() })
    }
}

impl DlpackExporter for DeviceArray {
    fn device(&self) -> DLDevice {
        DLDevice::cuda(self.device)
    }

    fn flags(&self) -> DlpackFlags {
        DlpackFlags::empty()
    }

    /// Nothing writes the values any more, so no stream has to wait.
    fn prepare_export(&self, _: Python<'_>, _: &ExportRequest<'_>) -> PyResult<()> {
        Ok(())
    }

    fn export_legacy(&self, _: Python<'_>) -> PyResult<Managed<DLManagedTensor>> {
        self.tensor()
    }

    fn export_versioned(&self, _: Python<'_>) -> PyResult<Managed<DLManagedTensorVersioned>> {
        self.tensor()
    }
}

#[pymethods]
impl DeviceArray {
    /// `(B, classes)`.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        self.shape.into()
    }

    /// A capsule for one reader, as the protocol has it; without a copy.
    ///
    /// Raises
    /// ------
    /// BufferError
    ///     If a copy is asked for, or another device.
    #[pyo3(signature = (*, stream = None, max_version = None, dl_device = None, copy = None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(u32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Py<PyAny>> {
        export_dlpack(self, py, ExportRequest::parse(stream, max_version, dl_device, copy)?)
    }

    /// `(2, N)` for `cuda:N`.
    fn __dlpack_device__(&self) -> (u32, i32) {
        let device = DlpackExporter::device(self);
        (device.device_type.0, device.device_id)
    }

    fn __repr__(&self) -> String {
        format!("dsr.DeviceArray({:?} float32 on cuda:{})", self.shape, self.device)
    }
}
