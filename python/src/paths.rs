//! Paths as users write them.

use std::path::PathBuf;

use pyo3::prelude::*;

/// A path whose `~` stands for the home folder, as a shell takes it: `dsr train --data-dir ~/data` and `data_dir="~/data"` are the same.
pub struct UserPath(pub PathBuf);

impl<'py> FromPyObject<'_, 'py> for UserPath {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let expanded = given.py().import("os.path")?.call_method1("expanduser", (given,))?;
        expanded.extract().map(UserPath)
    }
}
