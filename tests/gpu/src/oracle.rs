//! Slow, exact arithmetic on the host, and what agrees with it.

use half::bf16;
use libtest_mimic::Failed;
use zimage_core::noise::Generator;
use zimage_cuda::{Gpu, GpuError, Memory};

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
