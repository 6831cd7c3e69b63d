//! The autoencoder's middle block, and its attention.

use crate::attention::attend;
use crate::error::LoadError;
use crate::norm::GroupNorm;
use crate::part::Part;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::Linear;
use candle_transformers::models::stable_diffusion::resnet::{ResnetBlock2D, ResnetBlock2DConfig};

/// Attention of every latent pixel to every other, one head. candle-transformers' holds all scores of an image at once, a
/// gigabyte at 1024x1024.
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
    first: ResnetBlock2D,
    attention: Attention,
    second: ResnetBlock2D,
}

impl MiddleBlock {
    pub(super) fn load(
        part: &Part<'_>,
        channels: usize,
        groups: usize,
    ) -> std::result::Result<Self, LoadError> {
        let config = ResnetBlock2DConfig {
            temb_channels: None,
            groups,
            ..ResnetBlock2DConfig::default()
        };
        let resnet = |name: &str| ResnetBlock2D::new(part.at(name).var_builder(), channels, config);
        Ok(Self {
            first: resnet("resnets.0")?,
            attention: Attention::load(&part.at("attentions.0"), channels, groups)?,
            second: resnet("resnets.1")?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.attention.forward(&self.first.forward(x, None)?)?;
        self.second.forward(&x, None)
    }
}
