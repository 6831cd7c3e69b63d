//! The autoencoder's residual and attention blocks.

use crate::attention::attend;
use crate::error::LoadError;
use crate::norm::GroupNorm;
use crate::part::Part;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::{Conv2d, Linear};

/// diffusers' `ResnetBlock2D` without a time embedding.
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl Resnet {
    pub(super) fn load(
        part: &Part<'_>,
        from: usize,
        to: usize,
        groups: usize,
    ) -> std::result::Result<Self, LoadError> {
        let shortcut = part.at("conv_shortcut");
        Ok(Self {
            norm1: GroupNorm::load(&part.at("norm1"), from, groups)?,
            conv1: part.at("conv1").conv(from, to, 3)?,
            norm2: GroupNorm::load(&part.at("norm2"), to, groups)?,
            conv2: part.at("conv2").conv(to, to, 3)?,
            conv_shortcut: (from != to)
                .then(|| shortcut.conv(from, to, 1))
                .transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.conv1.forward(&self.norm1.forward(x)?.silu()?)?;
        let hidden = self.conv2.forward(&self.norm2.forward(&hidden)?.silu()?)?;
        match &self.conv_shortcut {
            Some(conv) => conv.forward(x)? + hidden,
            None => x + hidden,
        }
    }
}

/// Attention of every latent pixel to every other, one head.
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    pub(super) fn load(
        part: &Part<'_>,
        channels: usize,
        groups: usize,
    ) -> std::result::Result<Self, LoadError> {
        let projection = |name: &str| part.at(name).linear(channels, channels);
        Ok(Self {
            group_norm: GroupNorm::load(&part.at("group_norm"), channels, groups)?,
            to_q: projection("to_q")?,
            to_k: projection("to_k")?,
            to_v: projection("to_v")?,
            to_out: projection("to_out.0")?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        // (1, channels, height, width) -> (1, pixels, channels)
        let pixels = self
            .group_norm
            .forward(x)?
            .reshape((channels, height * width))?
            .t()?
            .contiguous()?;
        let project = |linear: &Linear| linear.forward(&pixels)?.unsqueeze(0);
        let out = attend(
            &project(&self.to_q)?,
            &project(&self.to_k)?,
            &project(&self.to_v)?,
            false,
        )?;
        let out = self.to_out.forward(&out.squeeze(0)?)?;
        out.t()?.reshape((1, channels, height, width))? + x
    }
}

/// diffusers' `UNetMidBlock2D`.
pub(super) struct MiddleBlock {
    first: Resnet,
    attention: Attention,
    second: Resnet,
}

impl MiddleBlock {
    pub(super) fn load(
        part: &Part<'_>,
        channels: usize,
        groups: usize,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            first: Resnet::load(&part.at("resnets.0"), channels, channels, groups)?,
            attention: Attention::load(&part.at("attentions.0"), channels, groups)?,
            second: Resnet::load(&part.at("resnets.1"), channels, channels, groups)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second
            .forward(&self.attention.forward(&self.first.forward(x)?)?)
    }
}
