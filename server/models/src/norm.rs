//! Normalisation layers.

use crate::error::LoadError;
use crate::part::Part;
use candle_core::{D, Module, Result, Tensor};

/// Root-mean-square norm over the last dimension.
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(
        part: &Part<'_>,
        size: usize,
        eps: f64,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            weight: part.weight(size)?,
            eps: eps as f32,
        })
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.eps)
    }
}

/// Layer norm over the last dimension without weights, epsilon 1e-6.
pub(crate) fn layer_norm(x: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + 1e-6)?.sqrt()?)
}

/// Layer norm over the last dimension with weights.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    pub(crate) fn load(
        part: &Part<'_>,
        size: usize,
        eps: f64,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            weight: part.weight(size)?,
            bias: part.tensor("bias", &[size])?,
            eps: eps as f32,
        })
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps)
    }
}

/// Group norm of (1, channels, height, width), epsilon 1e-6.
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl GroupNorm {
    pub(crate) fn load(
        part: &Part<'_>,
        channels: usize,
        groups: usize,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            weight: part.weight(channels)?.reshape((1, channels, 1, 1))?,
            bias: part
                .tensor("bias", &[channels])?
                .reshape((1, channels, 1, 1))?,
            groups,
        })
    }
}

impl Module for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        // (groups, rows, width): a mean of means, because one sum over millions of numbers loses their last digits.
        let grouped = x.reshape((self.groups, channels / self.groups * height, width))?;
        let mean = |x: &Tensor| x.mean_keepdim(2)?.mean_keepdim(1);
        let centred = grouped.broadcast_sub(&mean(&grouped)?)?;
        let deviation = (mean(&centred.sqr()?)? + 1e-6)?.sqrt()?;
        let normed = centred.broadcast_div(&deviation)?.reshape(x.dims())?;
        normed
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }
}
