//! The errors of the library as exceptions, each with its one line.

use dsr::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyFileNotFoundError, PyFloatingPointError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(dsr, DeviceError, PyRuntimeError, "A CUDA device, its driver or a kernel failed.");

/// The exception of an error.
pub fn raised(error: Error) -> PyErr {
    let text = error.to_string().replace('\n', " ");
    if error.is_missing() {
        return PyFileNotFoundError::new_err(text);
    }
    match error {
        Error::Config { .. } | Error::ShapeMismatch { .. } | Error::File { .. } => PyValueError::new_err(text),
        Error::Device { .. } => DeviceError::new_err(text),
        Error::NotFinite { .. } => PyFloatingPointError::new_err(text),
        Error::Io { .. } => PyOSError::new_err(text),
        Error::Missing { .. } | Error::Ranks { .. } => PyRuntimeError::new_err(text),
    }
}

/// A wrong argument: its name, and what is wrong with it.
pub fn wrong(name: &str, problem: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{name}: {problem}"))
}
