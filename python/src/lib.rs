//! `import dsr`: networks, training and checkpoints of the engine for Python.
//!
//! The interpreter goes on while the engine works: every long call lets go of the GIL and hands its work to the threads of `threads`.

mod access;
mod arrays;
mod autograd;
mod datasets;
mod device_array;
mod errors;
mod forward;
mod graph;
mod lent;
mod models;
mod network;
mod optimizer;
mod paths;
mod samples;
mod settings;
mod start;
mod state;
mod step;
mod threads;
mod train;

use pyo3::prelude::*;

#[pymodule]
fn _dsr(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("DeviceError", m.py().get_type::<errors::DeviceError>())?;
    m.add_class::<network::Network>()?;
    m.add_class::<forward::Output>()?;
    m.add_class::<device_array::DeviceArray>()?;
    m.add_class::<optimizer::Optimizer>()?;
    m.add_function(wrap_pyfunction!(models::load, m)?)?;
    m.add_function(wrap_pyfunction!(train::train, m)?)?;
    m.add_function(wrap_pyfunction!(optimizer::sgd, m)?)?;
    m.add_function(wrap_pyfunction!(optimizer::adam, m)?)?;
    m.add_function(wrap_pyfunction!(optimizer::adamw, m)?)?;
    m.add_function(wrap_pyfunction!(models::_network, m)?)?;
    m.add_function(wrap_pyfunction!(models::_build, m)?)?;
    m.add_function(wrap_pyfunction!(datasets::dataset, m)?)?;
    m.add_function(wrap_pyfunction!(threads::set_threads, m)?)?;
    m.add_function(wrap_pyfunction!(threads::get_threads, m)?)
}
