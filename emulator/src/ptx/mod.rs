//! C++ of the PTX that nvcc makes of a kernel file, for the driver: one function a kernel.
//!
//! Unknown is an error here, or when the C++ compiler finds no function of the name in `runtime/`. What an instruction means is
//! taken from the PTX ISA, whose sections the numbers in comments are, and not from `host/`, so that no misreading is made twice.

mod emit;
mod instructions;
mod memory;
mod operands;
mod parse;
mod products;
mod warp;

/// The C++ text of a PTX text; `file` names it in errors.
///
/// # Errors
/// What is not understood or not modelled, with file and line.
pub fn translate(text: &str, file: &str) -> Result<String, String> {
    let name = file.rsplit('/').next().unwrap_or(file);
    parse::module(text).and_then(|module| emit::module(&module, name)).map_err(|problem| match problem.strip_prefix("line ") {
        Some(place) => format!("{file}:{place}"),
        None => format!("{file}: {problem}"),
    })
}
