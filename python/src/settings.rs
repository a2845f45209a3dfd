//! Settings as Python has them: keyword arguments, with the names of the command line.

use std::path::PathBuf;

use dsr::settings::Config;
use dsr::settings::recipes::{self, Layer};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};
use toml::{Table, Value};

use crate::arrays::listed;
use crate::errors::{raised, wrong};
use crate::paths::UserPath;

/// Settings that a run need not have, and so are not among those of [`Config::default`].
const OPTIONAL: [&str; 3] = ["data_dir", "cache_dir", "threads"];
/// Those that are paths.
const PATHS: [&str; 2] = ["data_dir", "cache_dir"];
/// The flag of the command line that is called otherwise than its setting.
const SHORT: [(&str, &str); 2] = [("wd", "weight_decay"), ("T", "time_steps")];

/// Keyword arguments as a table; those that are None are left out.
///
/// # Errors
/// `ValueError` naming an unknown setting, or a value that none takes.
pub fn table(given: Option<&Bound<'_, PyDict>>) -> PyResult<Table> {
    let mut table = Table::new();
    let known = Config::default().to_complete_table().map_err(raised)?;
    for (key, value) in given.into_iter().flat_map(|given| given.iter()) {
        let name: String = key.extract()?;
        let name = SHORT.iter().find(|(short, _)| *short == name).map_or(name.as_str(), |(_, name)| name).to_string();
        if !known.contains_key(&name) && !OPTIONAL.contains(&name.as_str()) {
            let names: Vec<&str> = known.keys().map(String::as_str).chain(OPTIONAL).collect();
            return Err(wrong(&name, format!("there is no such setting; there are {}", names.join(", "))));
        }
        if !value.is_none() {
            let value = from_python(&name, &value)?;
            table.insert(name, value);
        }
    }
    Ok(table)
}

/// The same as the one layer of settings there is.
pub fn layers(table: &Table) -> Vec<Layer> {
    vec![recipes::given(table.clone())]
}

fn from_python(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_instance_of::<PyBool>() {
        return Ok(Value::Boolean(value.extract()?));
    }
    if value.is_instance_of::<PyInt>() {
        return value.extract().map(Value::Integer).map_err(|_| wrong(name, format!("{value} is too large")));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(Value::Float(value.extract()?));
    }
    if value.is_instance_of::<PyString>() && !PATHS.contains(&name) {
        return Ok(Value::String(value.extract()?));
    }
    if value.is_instance_of::<PyString>() || value.hasattr("__fspath__")? {
        let UserPath(path) = value.extract()?;
        return path_text(name, path).map(Value::String);
    }
    if value.hasattr("item")? && value.getattr("ndim").and_then(|axes| axes.extract::<usize>()).is_ok_and(|axes| axes == 0) {
        return from_python(name, &value.call_method0("item")?);
    }
    listed(name, value, |item| from_python(name, item)).map(Value::Array)
}

/// A setting as Python's own value.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Boolean(value) => Ok(PyBool::new(py, *value).to_owned().into_any()),
        Value::Integer(value) => Ok(value.into_pyobject(py)?.into_any()),
        Value::Float(value) => Ok(value.into_pyobject(py)?.into_any()),
        Value::String(value) => Ok(value.into_pyobject(py)?.into_any()),
        Value::Array(values) => {
            let values = values.iter().map(|value| to_python(py, value)).collect::<PyResult<Vec<_>>>()?;
            Ok(values.into_pyobject(py)?.into_any())
        }
        other => Ok(other.to_string().into_pyobject(py)?.into_any()),
    }
}

/// A path as settings have it.
///
/// # Errors
/// `ValueError` for one that is no UTF-8.
pub fn path_text(name: &str, path: PathBuf) -> PyResult<String> {
    path.into_os_string().into_string().map_err(|_| wrong(name, "is a path that is no UTF-8"))
}
