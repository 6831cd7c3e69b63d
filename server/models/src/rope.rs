//! Rotary embeddings.

use candle_core::{Device, Result, Tensor};
use zimage_core::rotary;

/// Cosines and sines of angles, as two tensors (tokens, angles of a token).
pub(crate) fn cos_sin(angles: &[f32], tokens: usize) -> Result<(Tensor, Tensor)> {
    let (cosines, sines): (Vec<f32>, Vec<f32>) =
        angles.iter().map(|&angle| rotary::cos_sin(angle)).unzip();
    let table = |values| Tensor::from_vec(values, (tokens, angles.len() / tokens), &Device::Cpu);
    Ok((table(cosines)?, table(sines)?))
}
