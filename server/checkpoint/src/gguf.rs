//! The header of a GGUF file: which tensors there are, how they are stored and where.
//!
//! Follows <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian. Metadata is
//! stepped over but for the alignment and the shapes that ComfyUI-GGUF keeps there.

mod block;
mod cursor;

use crate::stored::{Format, Stored, Table};
use block::Size;
use cursor::Cursor;
use std::collections::HashMap;

/// What a file begins with.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// Most dimensions of a tensor, ggml's own limit.
const MAX_DIMENSIONS: u32 = 4;

/// Before the name of a tensor that was reshaped to be quantised: its value is the shape before, outermost first.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// The tensors of a file of `length` bytes by name. `head` is the file's beginning.
///
/// # Errors
/// When the header is no sound one, or says that a tensor lies where the file does not reach.
pub(crate) fn read(head: &[u8], length: usize) -> Result<Table, String> {
    let mut cursor = Cursor::new(head);
    if cursor.bytes(MAGIC.len() as u64)? != MAGIC {
        return Err("it does not begin with \"GGUF\"".to_owned());
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!(
            "its version is {version}; 2 and 3 are read, little-endian"
        ));
    }
    // Each tensor has a name's length, a number of dimensions, a type and an offset at least; each value a key's length,
    // a type and a byte.
    let tensors = cursor.count(24)?;
    let values = cursor.count(13)?;
    let mut metadata = Metadata::default();
    for _ in 0..values {
        metadata.read(&mut cursor)?;
    }
    let mut infos = Vec::with_capacity(tensors);
    for _ in 0..tensors {
        infos.push(Info::read(&mut cursor)?);
    }
    let data = cursor.position().next_multiple_of(metadata.alignment);
    let mut table = Table::new();
    for info in infos {
        let name = info.name.clone();
        let stored = info.stored(&metadata, data, length)?;
        if table.insert(name.clone(), stored).is_some() {
            return Err(format!("tensor {name:?} is there twice"));
        }
    }
    Ok(table)
}

/// What is kept of a file's metadata.
struct Metadata {
    alignment: usize,
    shapes: HashMap<String, Vec<usize>>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            alignment: 32,
            shapes: HashMap::new(),
        }
    }
}

impl Metadata {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        if key == "general.alignment" {
            let alignment = cursor.unsigned(kind)?;
            // The blocks' own alignment is at most 4.
            let sound = alignment.is_power_of_two() && (8..=1 << 20).contains(&alignment);
            self.alignment = usize::try_from(alignment)
                .ok()
                .filter(|_| sound)
                .ok_or_else(|| format!("general.alignment is {alignment}"))?;
        } else if let Some(name) = key.strip_prefix(ORIGINAL_SHAPE) {
            let shape = cursor.unsigned_array(kind)?;
            self.shapes.insert(name.to_owned(), shape);
        } else {
            cursor.skip(kind)?;
        }
        Ok(())
    }
}

/// What the header says of a tensor.
struct Info {
    name: String,
    /// Outermost first, the other way round than in the file.
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

impl Info {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, String> {
        let name = cursor.text()?.to_owned();
        let dimensions = cursor.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(format!(
                "tensor {name:?} has {dimensions} dimensions; {MAX_DIMENSIONS} is the most"
            ));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let length = usize::try_from(cursor.u64()?);
            shape.push(length.map_err(|_| format!("tensor {name:?} is too large"))?);
        }
        shape.reverse();
        Ok(Self {
            name,
            shape,
            kind: cursor.u32()?,
            offset: cursor.u64()?,
        })
    }

    fn stored(self, metadata: &Metadata, data: usize, end: usize) -> Result<Stored, String> {
        let Self { name, shape, .. } = &self;
        let wrong = |problem: String| format!("tensor {name:?} {problem}");
        if !self.offset.is_multiple_of(metadata.alignment as u64) {
            return Err(wrong(format!("begins at {}, unaligned", self.offset)));
        }
        let Some(size) = Size::of(self.kind) else {
            let format = Format::Unknown(block::name(self.kind));
            return Ok(Stored {
                format,
                shape: self.shape,
                range: 0..0,
            });
        };
        let values = shape
            .iter()
            .try_fold(1_usize, |all, &length| all.checked_mul(length));
        let row = shape.last().copied().unwrap_or(1);
        let whole = values.filter(|_| row.is_multiple_of(size.values));
        let range = whole
            .and_then(|values| (values / size.values).checked_mul(size.bytes))
            .zip(
                usize::try_from(self.offset)
                    .ok()
                    .and_then(|offset| data.checked_add(offset)),
            )
            .and_then(|(length, start)| Some(start..start.checked_add(length)?))
            .ok_or_else(|| wrong(format!("has shape {shape:?}, which its format cannot have")))?;
        if range.end > end {
            return Err(wrong(format!(
                "ends at {}, and the file at {end}",
                range.end
            )));
        }
        let shape = match metadata.shapes.get(name) {
            Some(original) if product(original) == values => original.clone(),
            Some(original) => {
                return Err(wrong(format!(
                    "has shape {shape:?}, which was not {original:?}"
                )));
            }
            None => self.shape,
        };
        Ok(Stored {
            format: size.format,
            shape,
            range,
        })
    }
}

fn product(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |all, &length| all.checked_mul(length))
}

#[cfg(test)]
mod tests;
