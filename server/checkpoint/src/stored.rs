//! How and where a file stores a tensor.

use crate::tensor::DType;
use std::collections::BTreeMap;
use std::ops::Range;

/// How a tensor's values are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One after the other.
    Plain(DType),
    /// In blocks.
    Blocks(BlockFormat),
    /// In a format of this name, which is not read.
    Unknown(String),
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) format: Format,
    /// Dimensions, outermost first.
    pub(crate) shape: Vec<usize>,
    /// Its bytes, inside the file.
    pub(crate) range: Range<usize>,
}

/// The tensors of a file by name.
pub(crate) type Table = BTreeMap<String, Stored>;

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

/// Where a tensor is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name there.
    pub(crate) stored: String,
    /// Which third of the rows it is, when three tensors are stored as one.
    pub(crate) third: Option<usize>,
}

/// The names that a stored tensor has here, with the third of it that each one is.
pub(crate) type Names = Vec<(String, Option<usize>)>;

/// The first, second or third part of the rows: q, k or v of a joined projection.
pub(crate) fn third(whole: &Stored, number: usize) -> Option<Stored> {
    let rows = whole.shape.first().filter(|rows| rows.is_multiple_of(3))? / 3;
    // Blocks lie within rows.
    let length = whole.range.len() / 3;
    let start = whole.range.start + number * length;
    Some(Stored {
        format: whole.format.clone(),
        shape: [&[rows], &whole.shape[1..]].concat(),
        range: start..start + length,
    })
}
