//! Opens a safetensors file and says in one line what is wrong with it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::device::room::{Bytes, Room};
use crate::error::{Error, Result};
use crate::regular_file;

/// Bytes a header may have: from `{}` to what the format allows.
const HEADER_LENGTHS: std::ops::RangeInclusive<u64> = 2..=100_000_000;

/// A file whose header was read and agrees with the file's length.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    file: File,
    header: Metadata,
}

impl Opened {
    /// Reads the header of `path`.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is no such file; [`Error::File`] if it is no safetensors file, damaged or of the wrong length;
    /// [`Error::Io`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Opened> {
        let bad = |problem: String| Error::file(path, problem);
        let not_ours =
            || bad("is not a safetensors file (write a PyTorch state_dict with safetensors.torch.save_file to use it here)".to_string());
        let missing = || Error::missing(path, "there is no such checkpoint: check the path");
        let mut file = regular_file::open(path).map_err(|e| if e.is_missing() { missing() } else { e })?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        if length == 0 {
            return Err(bad("is empty: use another checkpoint".to_string()));
        }
        let mut start = Vec::new();
        file.by_ref().take(9).read_to_end(&mut start).map_err(Error::io(path))?;
        let Some((header_length, first)) = start.split_first_chunk::<8>() else {
            return Err(bad(format!("has only {length} bytes: it is cut off, or no safetensors file; use another checkpoint")));
        };
        let header_length = u64::from_le_bytes(*header_length);
        if !HEADER_LENGTHS.contains(&header_length) || first.first().is_some_and(|&b| b != b'{') {
            return Err(not_ours());
        }
        let data_start = 8 + header_length;
        if length < data_start {
            return Err(bad(format!(
                "is cut off inside its header: it has {length} bytes, and at least {} are missing; use another checkpoint",
                data_start - length
            )));
        }
        let mut text = first.to_vec();
        file.by_ref().take(header_length - 1).read_to_end(&mut text).map_err(Error::io(path))?;
        let header: Metadata = serde_json::from_slice(&text)
            .map_err(|e| bad(format!("has a damaged header ({}): use another checkpoint", e.to_string().escape_debug())))?;
        let whole = data_start.saturating_add(header.data_len() as u64);
        if length < whole {
            let missing = whole - length;
            return Err(bad(format!("is cut off: {missing} of its {whole} bytes are missing; use another checkpoint")));
        }
        if length > whole {
            return Err(bad(format!("has {} bytes after its last tensor: it is damaged; use another checkpoint", length - whole)));
        }
        Ok(Opened { path: path.to_path_buf(), file, header })
    }

    /// Value of a metadata key.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref().and_then(|m| m.get(key)).map(String::as_str)
    }

    /// Reads the tensors; `check` sees the bytes of all of them.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; that of `check`.
    pub fn tensors(mut self, check: impl FnOnce(&Opened, &[u8]) -> Result<()>) -> Result<Tensors> {
        let needed = Bytes { written: self.header.data_len() as u64, reserved: 0 };
        Room::now().check(needed, &format!("reading {}", self.path.display()), "use another checkpoint")?;
        let mut data = vec![0; self.header.data_len()];
        self.file.read_exact(&mut data).map_err(Error::io(&self.path))?;
        check(&self, &data)?;
        let infos =
            self.header.offset_keys().into_iter().filter_map(|name| Some((name.clone(), self.header.info(&name)?.clone()))).collect();
        Ok(Tensors { path: self.path, infos, data })
    }
}

/// The tensors of a file, by name.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    infos: HashMap<String, TensorInfo>,
    data: Vec<u8>,
}

impl Tensors {
    /// Leaves away what all names have in front, up to a dot, unless a name is wanted as it is: DataParallel, compiled modules and
    /// modules inside of others put it there (`module.`, `_orig_mod.`, `model.`, `net.`, some of them more than once).
    pub fn leave_prefix_away(&mut self, is_wanted: impl Fn(&str) -> bool) {
        let Some(first) = self.infos.keys().next().cloned() else { return };
        let shared = self
            .infos
            .keys()
            .fold(first.len(), |shared, name| shared.min(first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count()));
        let Some(dot) = first.as_bytes()[..shared].iter().rposition(|&byte| byte == b'.') else { return };
        if !self.infos.keys().any(|name| is_wanted(name)) {
            self.infos = std::mem::take(&mut self.infos).into_iter().map(|(name, info)| (name[dot + 1..].to_string(), info)).collect();
        }
    }

    /// Shape of a tensor; none if there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.infos.get(name).map(|info| info.shape.as_slice())
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.infos.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.infos.contains_key(name)
    }

    fn find(&self, name: &str) -> Result<(&TensorInfo, &[u8])> {
        let info = self.infos.get(name).ok_or_else(|| Error::file(&self.path, format!("has no tensor {name}")))?;
        Ok((info, &self.data[info.data_offsets.0..info.data_offsets.1]))
    }

    /// Fails unless the tensor has `shape`, which is the network's; a single number may have any axes of length 1.
    ///
    /// # Errors
    /// [`Error::File`] with both shapes.
    pub fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let (info, _) = self.find(name)?;
        let is_number = |shape: &[usize]| shape.iter().all(|&n| n == 1);
        if info.shape == shape || (is_number(&info.shape) && is_number(shape)) {
            return Ok(());
        }
        let problem = format!("belongs to another network: {name} has shape {:?}, this network needs {shape:?}", info.shape);
        Err(Error::file(&self.path, problem))
    }

    /// Elements of a floating-point tensor as f32, all of them finite.
    ///
    /// # Errors
    /// [`Error::File`] for another type, or a value that is not finite as f32.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let (info, bytes) = self.find(name)?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|&b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| half(u16::from_le_bytes(b))).collect(),
            other => return Err(Error::file(&self.path, format!("{name} holds {other}: expected F32, F16, BF16 or F64"))),
        };
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let value = values[index];
                Err(Error::file(&self.path, format!("{name} holds {value} (element {index}): use a checkpoint from before that")))
            }
        }
    }

    /// The one element of an integer tensor, or of one of floats that is a whole number.
    ///
    /// # Errors
    /// [`Error::File`] for another type or value.
    pub fn integer(&self, name: &str) -> Result<i64> {
        let (info, bytes) = self.find(name)?;
        match (info.dtype, bytes) {
            (Dtype::I64, bytes) if bytes.len() == 8 => Ok(bytes.first_chunk().map_or(0, |&bytes| i64::from_le_bytes(bytes))),
            (Dtype::I32, bytes) if bytes.len() == 4 => Ok(bytes.first_chunk().map_or(0, |&bytes| i32::from_le_bytes(bytes).into())),
            (Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16, _) => match self.floats(name)?[..] {
                [value] if value.fract() == 0.0 && value.abs() < 1e15 => Ok(value as i64),
                _ => Err(Error::file(&self.path, format!("{name} is no whole number"))),
            },
            (other, _) => Err(Error::file(&self.path, format!("{name} holds {other}: expected I64"))),
        }
    }
}

/// IEEE half precision: a sign, 5 bits of exponent, 10 of fraction.
fn half(bits: u16) -> f32 {
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match u32::from(bits >> 10 & 0x1f) {
        0 => fraction as f32 * 2f32.powi(-24), // subnormal
        31 if fraction == 0 => f32::INFINITY,
        31 => f32::NAN,
        exponent => f32::from_bits((exponent + 112) << 23 | fraction << 13), // bias 15 becomes 127
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::half;

    #[test]
    fn every_half_is_sign_times_fraction_times_power() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
            let magnitude = match exponent {
                0 => fraction * 2f64.powi(-14),
                31 if fraction > 0.0 => f64::NAN,
                31 => f64::INFINITY,
                _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
            };
            let expected = if sign == 1 { -magnitude } else { magnitude };
            let got = f64::from(half(bits));
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{bits:#x}: {got}, expected {expected}");
        }
    }
}
