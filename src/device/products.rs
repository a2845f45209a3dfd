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
}

impl Products {
    /// What a device of a compute capability multiplies faster: B300 (10.3) has about a thirtieth of its rate of FP8 in 8-bit integers.
    pub fn of_capability(capability: (u32, u32)) -> Products {
        if capability == (10, 3) { Products::Bf16 } else { Products::Integer }
    }

    /// The same, unless `DSR_PRODUCTS=integer` or `bf16` in the environment says otherwise.
    ///
    /// # Errors
    /// [`Error::Config`] for another value of the variable.
    pub fn chosen(capability: (u32, u32)) -> Result<Products> {
        match std::env::var("DSR_PRODUCTS").ok().filter(|value| !value.is_empty()).as_deref() {
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
