//! A tensor's values as a file has them.

use std::borrow::Cow;

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
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// How the values are stored.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The values, little-endian, row by row. Not aligned.
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

impl TensorView<'_> {
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
}
