//! Rotary embeddings.

use candle_core::{Device, Result, Tensor};

/// Cosines and sines of angles, as two tensors (tokens, angles of a token).
pub(crate) fn cos_sin(angles: &[f32], tokens: usize) -> Result<(Tensor, Tensor)> {
    // Through double precision: the last bit of the single precision functions depends on the machine.
    let table = |function: fn(f64) -> f64| {
        let values = angles
            .iter()
            .map(|&angle| function(f64::from(angle)) as f32)
            .collect();
        Tensor::from_vec(values, (tokens, angles.len() / tokens), &Device::Cpu)
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}
