//! The formats of a GGUF file's tensors, by their numbers.

use crate::stored::{BlockFormat, Format};
use crate::tensor::DType;

/// How many values have how many bytes in a format.
pub(super) struct Size {
    pub(super) format: Format,
    pub(super) values: usize,
    pub(super) bytes: usize,
}

impl Size {
    /// Of a `ggml_type`. None for one that is not read.
    pub(super) fn of(kind: u32) -> Option<Self> {
        let plain = |dtype: DType| Self {
            format: Format::Plain(dtype),
            values: 1,
            bytes: dtype.bytes(),
        };
        let format = match kind {
            0 => return Some(plain(DType::F32)),
            1 => return Some(plain(DType::F16)),
            30 => return Some(plain(DType::BF16)),
            2 => BlockFormat::Q4_0,
            3 => BlockFormat::Q4_1,
            6 => BlockFormat::Q5_0,
            7 => BlockFormat::Q5_1,
            8 => BlockFormat::Q8_0,
            10 => BlockFormat::Q2K,
            11 => BlockFormat::Q3K,
            12 => BlockFormat::Q4K,
            13 => BlockFormat::Q5K,
            14 => BlockFormat::Q6K,
            _ => return None,
        };
        Some(Self {
            format: Format::Blocks(format),
            values: format.values(),
            bytes: format.bytes(),
        })
    }
}

/// What ggml calls a format that is not read.
pub(super) fn name(kind: u32) -> String {
    let name = match kind {
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        39 => "MXFP4",
        _ => return format!("ggml type {kind}"),
    };
    name.to_owned()
}
