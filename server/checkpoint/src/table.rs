//! What a weight file's header says: which tensors it has, how they are stored and where.

use crate::gguf;
use crate::stored::{Format, Stored, Table};
use crate::tensor::DType;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;

/// What a header says.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) tensors: Table,
    /// Texts that a safetensors file has beside the tensors.
    pub(crate) notes: HashMap<String, String>,
}

/// Reads the header of a GGUF or a safetensors file of `length` bytes. `head` is the file's beginning.
///
/// # Errors
/// When it is not sound, or `head` does not hold all of it: what the table says of places and sizes can be relied on.
pub(crate) fn read(head: &[u8], length: usize) -> Result<Header, String> {
    if head.starts_with(gguf::MAGIC) {
        let tensors = gguf::read(head, length)?;
        return Ok(Header {
            tensors,
            notes: HashMap::new(),
        });
    }
    match head {
        [] => Err("the file is empty".to_owned()),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] => {
            Err("it is a pointer of Git LFS, not the weights: git lfs pull gets them".to_owned())
        }
        [b'<', ..] => Err("it is a web page, not the weights: download it again".to_owned()),
        _ => safetensors(head, length),
    }
}

fn safetensors(head: &[u8], length: usize) -> Result<Header, String> {
    let Some((size, rest)) = head.split_first_chunk() else {
        return Err(format!("the file has {length} bytes"));
    };
    let size = usize::try_from(u64::from_le_bytes(*size));
    let fits = size.ok().filter(|&size| size <= length - size_of::<u64>());
    let size = fits.ok_or_else(|| {
        format!("it is no safetensors file: its header would be larger than its {length} bytes")
    })?;
    let header = rest.get(..size).ok_or("its header is too large")?;
    // Checks that the tensors follow each other without gaps, and each tensor's size.
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    let data = size_of::<u64>() + size;
    let end = data.checked_add(metadata.data_len());
    if end != Some(length) {
        let end = end.map_or_else(|| "more".to_owned(), |end| end.to_string());
        return Err(format!(
            "the tensors need {end} bytes, and the file has {length}"
        ));
    }
    let stored = |(name, info): (String, &TensorInfo)| {
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
    Ok(Header {
        tensors: metadata.tensors().into_iter().map(stored).collect(),
        notes: metadata.metadata().clone().unwrap_or_default(),
    })
}
