//! Matrices in device memory, and the formats of their numbers.
//!
//! Which format eight bits are to have was measured (`zimage-gpu-tests --formats`; the engine's own kernels on an H100 SXM, each
//! repeated for seconds, at the card's limit of 700 W):
//!
//! | us, TFLOP/s, pJ/FLOP | bfloat16 | e4m3 | int8 |
//! |---|---|---|---|
//! | gate, up and SwiGLU, 4160 rows | 973, 673, 1.02 | 530, 1234, 0.54 | 492, 1330, 0.53 |
//! | the same, 1088 rows | 285, 600, 1.17 | 158, 1084, 0.67 | 149, 1149, 0.61 |
//! | qkv, 4160 rows | 563, 654, 1.05 | 305, 1208, 0.58 | 284, 1296, 0.55 |
//! | down, 4160 rows | 493, 664, 1.05 | 260, 1260, 0.56 | 240, 1362, 0.51 |
//!
//! int8 is the faster one by 6 to 8 %, and with a rotation of blocks of 128 numbers by a Hadamard matrix its error is a third of
//! e4m3's; its sums are exact, so no tile and no number of GPUs changes them. So int8 is the format to use, and e4m3 the
//! alternative.

use crate::error::GpuError;
use crate::memory::Region;
use crate::shapes::F32;

/// Numbers of a row that are rotated together before they become integers: the width of a row is a multiple.
pub const ROTATED: usize = 128;

/// Where the scales begin in a matrix's region: a multiple of this, since kernels read two at once.
const SCALES_ALIGNMENT: usize = 16;

/// How a matrix's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// bfloat16.
    Bf16,
    /// Eight bits with four of exponent and three of mantissa, up to 448, times the scale of the row.
    E4m3,
    /// Integers of eight bits, from -127 to 127, times the scale of the row, of numbers that were rotated: each 128 of a row by
    /// the same Hadamard matrix. The product of two such matrices is that of the matrices before.
    S8,
}

impl Format {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::E4m3 | Self::S8 => 1,
        }
    }
}

/// A matrix, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    values: Region,
    scales: Option<Region>,
    format: Format,
    rows: usize,
    columns: usize,
}

impl Matrix {
    /// In bfloat16; (rows, columns).
    ///
    /// # Errors
    /// When the region is too small.
    pub fn bf16(values: Region, (rows, columns): (usize, usize)) -> Result<Self, GpuError> {
        let format = Format::Bf16;
        values.require(rows * columns * format.bytes())?;
        Ok(Self {
            values,
            scales: None,
            format,
            rows,
            columns,
        })
    }

    /// In eight bits, with a scale in float32 for each row.
    ///
    /// # Errors
    /// When a region is too small, or the format has no scales.
    pub fn scaled(
        format: Format,
        values: Region,
        scales: Region,
        (rows, columns): (usize, usize),
    ) -> Result<Self, GpuError> {
        if format == Format::Bf16 {
            return Err(GpuError::Bounds("bfloat16 has no scales".to_owned()));
        }
        values.require(rows * columns * format.bytes())?;
        scales.require(rows * F32)?;
        Ok(Self {
            values,
            scales: Some(scales),
            format,
            rows,
            columns,
        })
    }

    /// In bfloat16 and without memory, to see what memory else is needed.
    #[cfg(test)]
    pub(crate) const fn none((rows, columns): (usize, usize)) -> Self {
        Self {
            values: Region::NONE,
            scales: None,
            format: Format::Bf16,
            rows,
            columns,
        }
    }

    /// In a format, in one region: numbers, and behind them the scales where the format has any.
    ///
    /// # Errors
    /// When the region is too small.
    pub fn within(region: Region, format: Format, shape: (usize, usize)) -> Result<Self, GpuError> {
        if format == Format::Bf16 {
            return Self::bf16(region, shape);
        }
        let (rows, columns) = shape;
        let values = rows * columns * format.bytes();
        let scales = region.part(values.next_multiple_of(SCALES_ALIGNMENT), rows * F32)?;
        Self::scaled(format, region.part(0, values)?, scales, shape)
    }

    /// Bytes that [`Self::within`] needs.
    pub const fn bytes(format: Format, (rows, columns): (usize, usize)) -> usize {
        let values = rows * columns * format.bytes();
        match format {
            Format::Bf16 => values,
            Format::E4m3 | Format::S8 => values.next_multiple_of(SCALES_ALIGNMENT) + rows * F32,
        }
    }

    /// How its numbers are stored.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Its rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Its columns.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Where its numbers are.
    pub const fn region(&self) -> Region {
        self.values
    }

    /// Fails unless it has so many rows and columns.
    pub(crate) fn require(&self, shape: (usize, usize)) -> Result<(), GpuError> {
        if (self.rows, self.columns) == shape {
            return Ok(());
        }
        let (own, format) = ((self.rows, self.columns), self.format);
        Err(GpuError::Bounds(format!(
            "a {format:?} matrix of {own:?} is none of {shape:?}"
        )))
    }

    /// Where the scales are; null where the format has none.
    pub(crate) fn scales(&self) -> u64 {
        self.scales.map_or(0, Region::pointer)
    }

    pub(crate) const fn row_bytes(&self) -> usize {
        self.columns * self.format.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Layout;

    #[test]
    fn a_matrix_is_no_larger_than_its_memory() {
        let region = |bytes| Layout::measure().take(bytes).unwrap();
        assert!(Matrix::bf16(region(16), (2, 4)).is_ok());
        assert!(Matrix::bf16(region(15), (2, 4)).is_err());
        let scaled = |format, values, scales| {
            Matrix::scaled(format, region(values), region(scales), (2, 4)).is_ok()
        };
        assert!(scaled(Format::E4m3, 8, 8));
        assert!(!scaled(Format::E4m3, 7, 8));
        assert!(!scaled(Format::S8, 8, 7));
        assert!(!scaled(Format::Bf16, 16, 8));
    }

    #[test]
    fn a_matrix_in_one_region_has_its_scales_behind_its_numbers() {
        for (format, bytes) in [(Format::Bf16, 18), (Format::E4m3, 28), (Format::S8, 28)] {
            let shape = (3, 3);
            assert_eq!(Matrix::bytes(format, shape), bytes);
            let region = |bytes| Layout::measure().take(bytes).unwrap();
            assert!(Matrix::within(region(bytes - 1), format, shape).is_err());
            let matrix = Matrix::within(region(bytes), format, shape).unwrap();
            let scales = matrix
                .scales
                .map(|scales| scales.pointer() - matrix.values.pointer());
            assert_eq!(scales, (format != Format::Bf16).then_some(16));
        }
    }
}
