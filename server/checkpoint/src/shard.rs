//! One safetensors file, mapped into memory.

use crate::error::CheckpointError;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use std::borrow::Cow;
use std::fs::File;
use std::path::PathBuf;

/// How a tensor's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of a single precision number.
    BF16,
    /// IEEE 754 half precision.
    F16,
}

impl DType {
    /// Bytes of a value.
    const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }
}

/// A tensor in a mapped file.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// How the values are stored.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The values, little-endian, row by row. Not aligned. Owned where they are not what the file has.
    pub bytes: Cow<'a, [u8]>,
}

impl TensorView<'_> {
    /// The values as single precision numbers.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => values(&self.bytes, f32::from_le_bytes),
            DType::BF16 => values(&self.bytes, |bytes| {
                half::bf16::from_le_bytes(bytes).to_f32()
            }),
            DType::F16 => values(&self.bytes, |bytes| {
                half::f16::from_le_bytes(bytes).to_f32()
            }),
        }
    }
}

fn values<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.iter().map(|&number| read(number)).collect()
}

impl<'a> TensorView<'a> {
    /// Values that are in no file.
    pub(crate) fn owned(shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        Self {
            dtype: DType::F32,
            shape,
            bytes: Cow::Owned(bytes.collect()),
        }
    }

    /// The values in their order, divided into vectors of at most that many.
    pub(crate) fn pieces(&self, values: usize) -> impl Iterator<Item = TensorView<'_>> {
        let (dtype, size) = (self.dtype, self.dtype.bytes());
        let pieces = self.bytes.chunks(values * size);
        pieces.map(move |bytes| TensorView {
            dtype,
            shape: vec![bytes.len() / size],
            bytes: Cow::Borrowed(bytes),
        })
    }

    /// The first, second or third part of the rows: q, k or v of a joined projection.
    fn third(self, number: usize) -> Option<Self> {
        let rows = self.shape.first().filter(|rows| rows.is_multiple_of(3))? / 3;
        let length = self.bytes.len() / 3;
        let shape = [&[rows], &self.shape[1..]].concat();
        let range = number * length..(number + 1) * length;
        let bytes = match self.bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(range)?),
            Cow::Owned(bytes) => Cow::Owned(bytes.get(range)?.to_vec()),
        };
        Some(Self {
            shape,
            bytes,
            ..self
        })
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

/// A mapped file whose header is sound.
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    map: Mmap,
    /// Where the tensors' bytes begin.
    data: usize,
    metadata: Metadata,
}

impl Shard {
    pub(crate) fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        let file = File::open(&path).map_err(CheckpointError::while_doing(&path, "open"))?;
        let map = map(&file).map_err(CheckpointError::while_doing(&path, "map"))?;
        // Checks the header's length, that the tensors fill the file without gaps, and each tensor's size.
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(CheckpointError::while_doing(&path, "read the header"))?;
        let data = header + size_of::<u64>();
        Ok(Self {
            path,
            map,
            data,
            metadata,
        })
    }

    /// Names of its tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// A text that the header has beside the tensors.
    pub(crate) fn note(&self, name: &str) -> Option<&str> {
        let notes = self.metadata.metadata().as_ref()?;
        notes.get(name).map(String::as_str)
    }

    pub(crate) fn has(&self, stored: &str) -> bool {
        self.metadata.info(stored).is_some()
    }

    pub(crate) fn tensor(&self, place: &Place) -> Result<TensorView<'_>, CheckpointError> {
        let stored = &place.stored;
        let wrong = |problem: String| CheckpointError::new(&self.path, problem);
        let info = self.metadata.info(stored);
        let info = info.ok_or_else(|| wrong(format!("there is no tensor {stored:?}")))?;
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            other => {
                let problem =
                    format!("tensor {stored:?} is stored as {other:?}; F32, BF16 and F16 are read");
                return Err(wrong(problem));
            }
        };
        let (start, end) = info.data_offsets;
        let bytes = self.map.get(self.data + start..self.data + end);
        let whole = TensorView {
            dtype,
            shape: info.shape.clone(),
            bytes: bytes
                .map(Cow::Borrowed)
                .ok_or_else(|| wrong(format!("tensor {stored:?} lies behind the end")))?,
        };
        match place.third {
            None => Ok(whole),
            Some(number) => {
                let problem = format!(
                    "tensor {stored:?} has shape {:?}, whose rows are not q, k and v",
                    whole.shape
                );
                whole.third(number).ok_or_else(|| wrong(problem))
            }
        }
    }
}

#[expect(
    unsafe_code,
    reason = "weights are larger than memory may be; only a map reads them lazily"
)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private and read-only. What the kernel cannot rule out is that another process shortens the
    // file, which ends this one with SIGBUS: checkpoints are complete before they are opened (`write_once` renames) and
    // are never written again.
    unsafe { Mmap::map(file) }
}
