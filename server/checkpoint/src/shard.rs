//! One weight file and its header.

use crate::error::CheckpointError;
use crate::stored::{Dequantize, Format, Place, Stored, third};
use crate::table::{self, Header};
use crate::tensor::TensorView;
use crate::weight_file::WeightFile;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Bytes of a file that are read first for its header.
const FIRST: usize = 1 << 20;
/// No header is larger.
const LARGEST_HEADER: usize = 128 << 20;

/// A file whose header is sound.
pub(crate) struct Shard {
    file: WeightFile,
    header: Header,
    /// For tensors that are stored in blocks.
    dequantize: Option<Dequantize>,
}

impl Shard {
    /// A safetensors or a GGUF file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        let file = WeightFile::open(path)?;
        Ok(Self {
            header: header(&file)?,
            file,
            dequantize: None,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Lets tensors that are stored in blocks be read.
    pub(crate) fn dequantized_by(self, dequantize: Dequantize) -> Self {
        Self {
            dequantize: Some(dequantize),
            ..self
        }
    }

    /// Names of its tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.tensors.keys().cloned().collect()
    }

    /// A text that the header has beside the tensors.
    pub(crate) fn note(&self, name: &str) -> Option<&str> {
        self.header.notes.get(name).map(String::as_str)
    }

    pub(crate) fn has(&self, stored: &str) -> bool {
        self.header.tensors.contains_key(stored)
    }

    /// The shape that [`Self::tensor`] gives a tensor, which is not read.
    pub(crate) fn shape(&self, place: &Place) -> Result<Vec<usize>, CheckpointError> {
        Ok(self.part(place)?.shape)
    }

    /// A tensor's values; single precision where they are stored in blocks.
    pub(crate) fn tensor(&self, place: &Place) -> Result<TensorView<'_>, CheckpointError> {
        let Stored {
            format,
            shape,
            range,
        } = self.part(place)?;
        let bytes = self.file.read(range)?;
        let stored = &place.stored;
        let wrong = |problem: String| CheckpointError::new(self.path(), problem);
        let format = match format {
            Format::Plain(dtype) => {
                return Ok(TensorView {
                    dtype,
                    shape,
                    bytes: Cow::Owned(bytes),
                });
            }
            Format::Blocks(format) => format,
            Format::Unknown(name) => return Err(wrong(unread(stored, &name))),
        };
        let dequantize = self.dequantize.ok_or_else(|| {
            let name = format!("{format:?} blocks");
            wrong(unread(stored, &name))
        })?;
        let values = dequantize(format, &bytes)
            .map_err(|cause| wrong(format!("failed to read tensor {stored:?}: {cause}")))?;
        if values.len() != shape.iter().product::<usize>() {
            let (count, shape) = (values.len(), &shape);
            let problem = format!("tensor {stored:?} of shape {shape:?} gave {count} values");
            return Err(wrong(problem));
        }
        Ok(TensorView::owned(shape, &values))
    }

    /// What the header says of a tensor or its third, and up to `most` of its first bytes.
    pub(crate) fn beginning(
        &self,
        place: &Place,
        most: usize,
    ) -> Result<(Stored, Vec<u8>), CheckpointError> {
        let part = self.part(place)?;
        let (start, length) = (part.range.start, part.range.len().min(most));
        let bytes = self.file.read(start..start + length)?;
        Ok((part, bytes))
    }

    /// What the header says of a tensor or its third.
    fn part(&self, place: &Place) -> Result<Stored, CheckpointError> {
        let stored = &place.stored;
        let wrong = |problem: String| CheckpointError::new(self.path(), problem);
        let whole = self.header.tensors.get(stored);
        let whole = whole.ok_or_else(|| wrong(format!("there is no tensor {stored:?}")))?;
        if let Format::Unknown(name) = &whole.format {
            return Err(wrong(unread(stored, name)));
        }
        let Some(number) = place.third else {
            return Ok(whole.clone());
        };
        third(whole, number).ok_or_else(|| {
            let shape = &whole.shape;
            wrong(format!(
                "tensor {stored:?} has shape {shape:?}, whose rows are not q, k and v"
            ))
        })
    }
}

fn unread(stored: &str, format: &str) -> String {
    format!(
        "tensor {stored:?} is stored as {format}; F32, BF16 and F16 are read, and of GGUF's formats Q4_0 to Q8_0 and Q2_K to Q6_K"
    )
}

/// Reads more and more of a file until its header is sound, or cannot be larger: GGUF does not say how large it is.
fn header(file: &WeightFile) -> Result<Header, CheckpointError> {
    let mut most = FIRST;
    loop {
        let length = file.length();
        let head = file.read(0..length.min(most))?;
        match table::read(&head, length) {
            Ok(header) => return Ok(header),
            Err(_) if most < length.min(LARGEST_HEADER) => {
                most = (most * 8).min(LARGEST_HEADER);
            }
            Err(cause) => {
                let problem = format!("failed to read the header: {cause}");
                return Err(CheckpointError::new(file.path(), problem));
            }
        }
    }
}
