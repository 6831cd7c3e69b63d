//! What a weight file's header says: which tensors it has, how they are stored and where.

use crate::gguf::{self, BlockFormat};
use crate::shard::DType;
use safetensors::SafeTensors;
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

/// Reads the header of a GGUF or a safetensors file.
///
/// # Errors
/// When it is not sound: what the table says of places and sizes can be relied on.
pub(crate) fn read(file: &[u8]) -> Result<Table, String> {
    if file.starts_with(gguf::MAGIC) {
        gguf::read(file)
    } else {
        safetensors(file)
    }
}

/// A text that a safetensors header has beside the tensors.
pub(crate) fn note(file: &[u8], name: &str) -> Option<String> {
    let (_, metadata) = SafeTensors::read_metadata(file).ok()?;
    metadata.metadata().as_ref()?.get(name).cloned()
}

fn safetensors(file: &[u8]) -> Result<Table, String> {
    // Checks the header's length, that the tensors fill the file without gaps, and each tensor's size.
    let (header, metadata) = SafeTensors::read_metadata(file).map_err(|error| error.to_string())?;
    let data = header + size_of::<u64>();
    let tensors = metadata.tensors().into_iter();
    let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let format = match info.dtype {
            safetensors::Dtype::F32 => Format::Plain(DType::F32),
            safetensors::Dtype::BF16 => Format::Plain(DType::BF16),
            safetensors::Dtype::F16 => Format::Plain(DType::F16),
            other => Format::Unknown(format!("{other:?}")),
        };
        let (start, end) = info.data_offsets;
        let stored = Stored {
            format,
            shape: info.shape.clone(),
            range: data + start..data + end,
        };
        (name, stored)
    };
    Ok(tensors.map(stored).collect())
}
