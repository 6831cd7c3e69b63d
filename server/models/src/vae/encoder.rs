//! The encoder of diffusers' `AutoencoderKL`.

use crate::error::LoadError;
use crate::norm::GroupNorm;
use crate::part::Part;
use crate::vae::layers::MiddleBlock;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::Conv2d;
use candle_transformers::models::stable_diffusion::unet_2d_blocks::{
    DownEncoderBlock2D, DownEncoderBlock2DConfig,
};
use zimage_checkpoint::config::VaeConfig;
use zimage_checkpoint::{Checkpoint, Component};

/// From pixels to latents.
pub(crate) struct Encoder {
    config: VaeConfig,
    conv_in: Conv2d,
    down_blocks: Vec<DownEncoderBlock2D>,
    mid_block: MiddleBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(crate) fn load(checkpoint: &Checkpoint) -> std::result::Result<Self, LoadError> {
        let config = checkpoint.vae().clone();
        let part = Part::root(checkpoint, Component::Vae).at("encoder");
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (channels[0], channels[channels.len() - 1]);

        let mut down_blocks = Vec::with_capacity(channels.len());
        let mut previous = first;
        for (i, &width) in channels.iter().enumerate() {
            let block = DownEncoderBlock2DConfig {
                num_layers: config.layers_per_block,
                resnet_groups: groups,
                // The last block has the latents' size.
                add_downsample: i + 1 < channels.len(),
                // One row below and one column to the right.
                downsample_padding: 0,
                ..DownEncoderBlock2DConfig::default()
            };
            let weights = part.at("down_blocks").at(i).var_builder();
            down_blocks.push(DownEncoderBlock2D::new(weights, previous, width, block)?);
            previous = width;
        }
        Ok(Self {
            conv_in: part.at("conv_in").conv(config.in_channels, first, 3)?,
            down_blocks,
            mid_block: MiddleBlock::load(&part.at("mid_block"), last, groups)?,
            norm_out: GroupNorm::load(&part.at("conv_norm_out"), last, groups)?,
            conv_out: part
                .at("conv_out")
                .conv(last, 2 * config.latent_channels, 3)?,
            config,
        })
    }

    /// Latents (channels, height / 8, width / 8) of an image (3, height, width) from -1 to 1. `noise`, one number for
    /// each value of the latents, says which of the latents that the image may have.
    pub(crate) fn forward(&self, image: &Tensor, noise: Vec<f32>) -> Result<Tensor> {
        let moments = self.moments(image)?;
        let deviation = (moments[1].clamp(-30f32, 20f32)? * 0.5)?.exp()?;
        let noise = Tensor::from_vec(noise, moments[0].dims(), image.device())?;
        self.scale((&moments[0] + (deviation * noise)?)?)
    }

    /// The likeliest latents of an image: their distribution's mode.
    pub(crate) fn mode(&self, image: &Tensor) -> Result<Tensor> {
        self.scale(self.moments(image)?.swap_remove(0))
    }

    /// Mean and logarithm of the variance.
    fn moments(&self, image: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = self.conv_in.forward(&image.unsqueeze(0)?)?;
        for block in &self.down_blocks {
            x = block.forward(&x)?;
        }
        x = self
            .norm_out
            .forward(&self.mid_block.forward(&x)?)?
            .silu()?;
        self.conv_out.forward(&x)?.squeeze(0)?.chunk(2, 0)
    }

    fn scale(&self, latents: Tensor) -> Result<Tensor> {
        (latents - self.config.shift_factor)? * self.config.scaling_factor
    }
}
