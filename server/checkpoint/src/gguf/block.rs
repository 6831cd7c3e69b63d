//! The formats of a GGUF file's tensors.

use super::{DType, Format};

/// A format that stores values in blocks, each with a scale of its own. Named as in ggml's `ggml_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are all there is to say")]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Turns whole blocks into single precision numbers. A tensor library knows how; this crate has none.
///
/// # Errors
/// Says in a few words what failed.
pub type Dequantize = fn(BlockFormat, &[u8]) -> Result<Vec<f32>, String>;

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Values of a block.
    pub const fn values(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

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
