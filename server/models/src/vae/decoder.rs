//! The decoder of diffusers' `AutoencoderKL`.

use crate::error::LoadError;
use crate::norm::GroupNorm;
use crate::part::Part;
use crate::vae::layers::MiddleBlock;
use candle_core::{Module as _, Result, Tensor};
use candle_nn::Conv2d;
use candle_transformers::models::stable_diffusion::unet_2d_blocks::{
    UpDecoderBlock2D, UpDecoderBlock2DConfig,
};
use zimage_checkpoint::config::VaeConfig;
use zimage_checkpoint::{Checkpoint, Component};

/// From latents to pixels.
pub(crate) struct Decoder {
    config: VaeConfig,
    conv_in: Conv2d,
    mid_block: MiddleBlock,
    up_blocks: Vec<UpDecoderBlock2D>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(crate) fn load(checkpoint: &Checkpoint) -> std::result::Result<Self, LoadError> {
        let config = checkpoint.vae().clone();
        let part = Part::root(checkpoint, Component::Vae).at("decoder");
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (channels[0], channels[channels.len() - 1]);

        let mut up_blocks = Vec::with_capacity(channels.len());
        let mut previous = last;
        for (i, &width) in channels.iter().rev().enumerate() {
            let block = UpDecoderBlock2DConfig {
                num_layers: config.layers_per_block + 1,
                resnet_groups: groups,
                // The last block has the image's size.
                add_upsample: i + 1 < channels.len(),
                ..UpDecoderBlock2DConfig::default()
            };
            let weights = part.at("up_blocks").at(i).var_builder();
            up_blocks.push(UpDecoderBlock2D::new(weights, previous, width, block)?);
            previous = width;
        }
        Ok(Self {
            conv_in: part.at("conv_in").conv(config.latent_channels, last, 3)?,
            mid_block: MiddleBlock::load(&part.at("mid_block"), last, groups)?,
            up_blocks,
            norm_out: GroupNorm::load(&part.at("conv_norm_out"), first, groups)?,
            conv_out: part.at("conv_out").conv(first, config.out_channels, 3)?,
            config,
        })
    }

    /// The image (3, height, width), from -1 to 1 or a little beyond, of latents (channels, height / 8, width / 8).
    pub(crate) fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = ((latents / self.config.scaling_factor)? + self.config.shift_factor)?;
        let mut x = self.conv_in.forward(&latents.unsqueeze(0)?)?;
        x = self.mid_block.forward(&x)?;
        for block in &self.up_blocks {
            x = block.forward(&x)?;
        }
        self.conv_out
            .forward(&self.norm_out.forward(&x)?.silu()?)?
            .squeeze(0)
    }
}
