//! Slow, exact arithmetic on the host, and what agrees with it.

use half::bf16;
use libtest_mimic::Failed;
use zimage_core::noise::Generator;
use zimage_cuda::ops::quantise::quantise;
use zimage_cuda::{Format, Gpu, GpuError, Matrix, Memory, ROTATED};

/// Normal numbers, rounded to bfloat16.
pub(crate) fn random(seed: u64, count: usize) -> Vec<f32> {
    let numbers = Generator::new(seed).randn(count);
    numbers.into_iter().map(rounded).collect()
}

pub(crate) fn rounded(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

pub(crate) fn mean_square(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32
}

pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// On the GPU in bfloat16.
pub(crate) fn upload_bf16(gpu: &Gpu, values: &[f32]) -> Result<Memory, GpuError> {
    let bits: Vec<u16> = values
        .iter()
        .map(|&value| bf16::from_f32(value).to_bits())
        .collect();
    let memory = gpu.allocate(bits.len() * 2)?;
    gpu.upload(memory.region(), &bits)?;
    Ok(memory)
}

/// On the GPU in float32.
pub(crate) fn upload_f32(gpu: &Gpu, values: &[f32]) -> Result<Memory, GpuError> {
    let memory = gpu.allocate(values.len() * 4)?;
    gpu.upload(memory.region(), values)?;
    Ok(memory)
}

/// Memory whose every number is no number, so that what is not written shows.
pub(crate) fn poisoned(gpu: &Gpu, bytes: usize) -> Result<Memory, GpuError> {
    let memory = gpu.allocate(bytes)?;
    gpu.upload(memory.region(), &vec![0xffu8; bytes])?;
    Ok(memory)
}

pub(crate) fn download_bf16(
    gpu: &Gpu,
    memory: &Memory,
    count: usize,
) -> Result<Vec<f32>, GpuError> {
    let bits = gpu.download::<u16>(memory.region(), count)?;
    Ok(bits
        .into_iter()
        .map(|bits| bf16::from_bits(bits).to_f32())
        .collect())
}

/// A matrix on the GPU, with the memory that it is in.
pub(crate) struct Stored {
    values: Memory,
    scales: Memory,
    format: Format,
    shape: (usize, usize),
}

impl Stored {
    /// Uninitialised: every number and every scale is no number.
    pub(crate) fn poisoned(
        gpu: &Gpu,
        format: Format,
        shape: (usize, usize),
    ) -> Result<Self, GpuError> {
        Ok(Self {
            values: poisoned(gpu, shape.0 * shape.1 * format.bytes())?,
            scales: poisoned(gpu, 4 * shape.0)?,
            format,
            shape,
        })
    }

    /// Of what bfloat16 holds, as the GPU quantises it.
    pub(crate) fn of(
        gpu: &Gpu,
        format: Format,
        shape: (usize, usize),
        from: &Memory,
    ) -> Result<Self, GpuError> {
        let stored = Self::poisoned(gpu, format, shape)?;
        if format == Format::Bf16 {
            let (to, from) = (stored.values.region(), from.region());
            gpu.copy(to, from, to.bytes())?;
        } else {
            quantise(gpu, stored.matrix()?, Matrix::bf16(from.region(), shape)?)?;
        }
        Ok(stored)
    }

    /// Integers and scales, those of each row of another size.
    pub(crate) fn integers(gpu: &Gpu, shape: (usize, usize), seed: u64) -> Result<Self, GpuError> {
        let stored = Self::poisoned(gpu, Format::S8, shape)?;
        let numbers = random(seed, shape.0 * shape.1);
        let byte =
            |number: f32| ((40.0 * number).round().clamp(-127.0, 127.0) as i8).cast_unsigned();
        let bytes: Vec<u8> = numbers.into_iter().map(byte).collect();
        gpu.upload(stored.values.region(), &bytes)?;
        let scales: Vec<f32> = (0..shape.0)
            .map(|row| [0.01, 0.003, 0.05][row % 3])
            .collect();
        stored.set_scales(gpu, &scales)?;
        Ok(stored)
    }

    pub(crate) fn matrix(&self) -> Result<Matrix, GpuError> {
        let values = self.values.region();
        match self.format {
            Format::Bf16 => Matrix::bf16(values, self.shape),
            format => Matrix::scaled(format, values, self.scales.region(), self.shape),
        }
    }

    pub(crate) fn set_scales(&self, gpu: &Gpu, scales: &[f32]) -> Result<(), GpuError> {
        gpu.upload(self.scales.region(), scales)
    }

    /// The scale of each row: one where the format has none.
    pub(crate) fn scales(&self, gpu: &Gpu) -> Result<Vec<f32>, GpuError> {
        match self.format {
            Format::Bf16 => Ok(vec![1.0; self.shape.0]),
            Format::E4m3 | Format::S8 => gpu.download(self.scales.region(), self.shape.0),
        }
    }

    /// The numbers, without their scales.
    pub(crate) fn numbers(&self, gpu: &Gpu) -> Result<Vec<f32>, GpuError> {
        let count = self.shape.0 * self.shape.1;
        if self.format == Format::Bf16 {
            return download_bf16(gpu, &self.values, count);
        }
        let bytes = gpu.download::<u8>(self.values.region(), count)?;
        let number = |byte: u8| match self.format {
            Format::S8 => f32::from(byte.cast_signed()),
            Format::Bf16 | Format::E4m3 => from_e4m3(byte),
        };
        Ok(bytes.into_iter().map(number).collect())
    }
}

/// Each 128 numbers of a row times a Hadamard matrix of ones, added up in the order in which the GPU does it, so that the bits
/// are the same.
pub(crate) fn rotated(row: &[f32]) -> Vec<f32> {
    let mut row = row.to_vec();
    for block in row.chunks_exact_mut(ROTATED) {
        for apart in (0..7).map(|bit| 1 << bit) {
            for first in (0..ROTATED).filter(|place| place & apart == 0) {
                let (one, other) = (block[first], block[first + apart]);
                block[first] = one + other;
                block[first + apart] = one - other;
            }
        }
    }
    row
}

/// Fails where integers and their scale are not what a row of numbers, rotated, becomes; `error` is how far a number may be
/// from what it is rounded from, in steps.
pub(crate) fn is_rotated(
    what: &str,
    (integers, scale): (&[f32], f32),
    row: &[f32],
    error: f32,
) -> Result<(), Failed> {
    let row = rotated(row);
    let most = row.iter().fold(0f32, |most, x| most.max(x.abs()));
    let (step, factor) = (most / 127.0, (ROTATED as f32).sqrt());
    let expected = if most == 0.0 { 1.0 } else { step / factor };
    if (scale / expected - 1.0).abs() > 1e-4 || scale.is_nan() {
        return Err(format!("{what}: scale {scale}, not {expected}").into());
    }
    for (place, (integer, x)) in integers.iter().zip(&row).enumerate() {
        let x = if most == 0.0 { 0.0 } else { x / step };
        let distance = (integer - x).abs();
        if distance > error || distance.is_nan() {
            let same = integers
                .iter()
                .zip(&row)
                .filter(|(i, x)| (*i - *x / step).abs() <= error);
            let (same, all) = (same.count(), row.len());
            return Err(format!(
                "{what}: number {place} is {integer}, not {x}; {same} of {all} are as expected"
            )
            .into());
        }
    }
    Ok(())
}

/// Four bits of exponent and three of mantissa.
pub(crate) fn from_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 128 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// The distance of two vectors over the length of the second; not a number when a number is none.
pub(crate) fn distance(actual: &[f32], expected: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let pairs = actual.iter().zip(expected);
    let difference: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let length: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    (difference / length.max(f64::MIN_POSITIVE)).sqrt()
}

/// Fails unless the relative distance is at most `most`.
pub(crate) fn agree(what: &str, actual: &[f32], expected: &[f32], most: f64) -> Result<(), Failed> {
    if actual.len() != expected.len() {
        return Err(format!("{what}: {} numbers, not {}", actual.len(), expected.len()).into());
    }
    let distance = distance(actual, expected);
    if distance <= most {
        return Ok(());
    }
    Err(format!("{what}: relative distance {distance:.3e}, at most {most:.1e} is right").into())
}
