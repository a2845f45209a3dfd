//! What tensor cores multiply spikes and weights as.

use serde::Serialize;

use crate::error::{Error, Result};

/// Operands of the spike convolutions on a device. Sums are the same integers with either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Products {
    /// 8-bit integers, added in `i32`.
    Integer,
    /// bf16, added in `f32`, in layers whose sums are exact so.
    Bf16,
    /// 8-bit integers, by the instructions of sm_90a that run by themselves (`wgmma`), where neurons come straight from sums of layers whose
    /// convolutions all read spikes: in evaluation, and in training where sums are not stored; elsewhere as [`Products::Integer`]. No GPU
    /// has run it.
    Warpgroup,
}

impl Products {
    /// What a device of a compute capability multiplies faster: B300 (10.3) has about a thirtieth of its rate of FP8 in 8-bit integers.
    pub fn of_capability(capability: (u32, u32)) -> Products {
        if capability == (10, 3) { Products::Bf16 } else { Products::Integer }
    }

    /// The same, unless `DSR_PRODUCTS=integer` or `bf16` in the environment says otherwise, or `DSR_HOPPER=1` asks for
    /// [`Products::Warpgroup`], `has_warpgroups` where this build has code for it.
    ///
    /// # Errors
    /// [`Error::Config`] for another value of a variable, or where the device or the build has no such products.
    pub fn chosen(capability: (u32, u32), has_warpgroups: bool) -> Result<Products> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let products = variable("DSR_PRODUCTS");
        match variable("DSR_HOPPER").as_deref() {
            None | Some("0") => {}
            Some("1") if products.is_some() => return Err(Error::config("DSR_HOPPER", "1 and DSR_PRODUCTS exclude each other")),
            Some("1") if has_warpgroups => return Ok(Products::Warpgroup),
            Some("1") => {
                let (major, minor) = capability;
                let problem = format!(
                    "1 needs a device of compute capability 9.0, and machine code for it in this build; the device has {major}.{minor}"
                );
                return Err(Error::config("DSR_HOPPER", problem));
            }
            Some(other) => return Err(Error::config("DSR_HOPPER", format!("{other:?} is neither 0 nor 1"))),
        }
        match products.as_deref() {
            None => Ok(Products::of_capability(capability)),
            Some("integer") => Ok(Products::Integer),
            Some("bf16") => Ok(Products::Bf16),
            Some(other) => Err(Error::config("DSR_PRODUCTS", format!("{other:?} is neither integer nor bf16"))),
        }
    }

    /// In a report.
    pub fn name(self) -> &'static str {
        match self {
            Products::Integer => "integer",
            Products::Bf16 => "bf16",
            Products::Warpgroup => "warpgroup",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Products;

    #[test]
    fn only_b300_multiplies_in_bf16() {
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0), (12, 1)] {
            assert_eq!(Products::of_capability(capability), Products::Integer, "{capability:?}");
        }
        assert_eq!(Products::of_capability((10, 3)), Products::Bf16);
    }
}
