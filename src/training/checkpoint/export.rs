//! Writes a network for other programs: a safetensors file with the numbers that the forward pass uses.

use std::path::Path;

use safetensors::Dtype;

use super::{About, NORMS, UNCHOSEN, header};
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::network::{Exported, Network};

/// Writes `network`, which is one on the CPU, without what only training needs. With `fold_norms` there are no batch norms in it, and
/// weights and biases are F64, since their products with the norms are not exact in F32; else all is F32, and exact.
///
/// # Errors
/// [`Error`] with the path if the file cannot be written.
pub fn export(path: &Path, network: &Network, fold_norms: bool, about: About) -> Result<()> {
    let mut tensors = if fold_norms { network.folded() } else { network.exported() };
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let dtype = if fold_norms { Dtype::F64 } else { Dtype::F32 };
    let problem = |e: serde_json::Error| Error::file(path, format!("cannot be written: {e}"));
    let data = about.data.map_or(Ok(String::new()), serde_json::to_string).map_err(problem)?;
    let unchosen = about.unchosen_text().map_err(problem)?;
    // The format that torch writes, so that everybody takes it for what it is: a state_dict.
    let metadata = [
        ("format", "pt"),
        ("config", about.config_toml),
        ("data", &data),
        (NORMS, if fold_norms { "folded" } else { "kept" }),
        (UNCHOSEN, &unchosen),
    ];
    let metadata = metadata.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let shapes = tensors.iter().map(|Exported { name, shape, .. }| (name.as_str(), dtype, shape.as_slice()));
    let header = header(metadata, shapes).map_err(problem)?;
    atomic_file::write_with(path, |out| {
        out.write_all(&header)?;
        for value in tensors.iter().flat_map(|tensor| &tensor.values) {
            match dtype {
                Dtype::F64 => out.write_all(&value.to_le_bytes())?,
                _ => out.write_all(&(*value as f32).to_le_bytes())?,
            }
        }
        Ok(())
    })
}
