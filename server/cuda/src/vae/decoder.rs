//! The decoder of diffusers' `AutoencoderKL`.

use super::attention::MiddleBlock;
use super::layers::{Conv, Norm, Resnet};
use super::{Needs, Size, Work, supported};
use crate::compute::Compute;
use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::memory::{Layout, Memory, Region};
use crate::ops::image::{Latents, from_latents, to_bytes, upsample};
use crate::weights::Loader;
use zimage_checkpoint::config::VaeConfig;
use zimage_checkpoint::{Checkpoint, Component};

/// From latents to pixels.
pub(crate) struct Decoder {
    config: VaeConfig,
    conv_in: Conv,
    middle: MiddleBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: Norm,
    conv_out: Conv,
    _memory: Vec<Memory>,
}

struct UpBlock {
    resnets: Vec<Resnet>,
    /// Missing in the last block, which has the image's size.
    upsampler: Option<Conv>,
}

impl Decoder {
    pub(crate) fn load(gpu: &Gpu, checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let config = checkpoint.vae().clone();
        supported(&config)?;
        let mut loader = Loader::new(gpu, checkpoint, Component::Vae, |name| {
            name.starts_with("decoder.")
        })?;
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv_in = (config.latent_channels, last);
        let conv_in = Conv::load(&mut loader, "decoder.conv_in", conv_in, 3)?;
        let middle = MiddleBlock::load(&mut loader, "decoder.mid_block", last, groups)?;
        let mut up_blocks = Vec::with_capacity(channels.len());
        let mut previous = last;
        for (i, &width) in channels.iter().rev().enumerate() {
            let name = format!("decoder.up_blocks.{i}");
            let mut resnets = Vec::with_capacity(config.layers_per_block + 1);
            for j in 0..=config.layers_per_block {
                let resnet = format!("{name}.resnets.{j}");
                resnets.push(Resnet::load(
                    &mut loader,
                    &resnet,
                    (previous, width),
                    groups,
                )?);
                previous = width;
            }
            let upsampler = match i + 1 < channels.len() {
                true => {
                    let conv = format!("{name}.upsamplers.0.conv");
                    Some(Conv::load(&mut loader, &conv, (width, width), 3)?)
                }
                false => None,
            };
            up_blocks.push(UpBlock { resnets, upsampler });
        }
        let conv_out = (first, config.out_channels);
        Ok(Self {
            norm_out: Norm::load(&mut loader, "decoder.conv_norm_out", first, groups)?,
            conv_out: Conv::load(&mut loader, "decoder.conv_out", conv_out, 3)?,
            conv_in,
            middle,
            up_blocks,
            _memory: loader.finish()?,
            config,
        })
    }

    fn latents(&self, height: usize, width: usize) -> Size {
        Size {
            height,
            width,
            channels: self.config.latent_channels,
        }
    }

    /// Bytes that decoding latents of a height and width needs.
    pub(crate) fn bytes(&self, height: usize, width: usize) -> Result<usize, GpuError> {
        let mut layout = Layout::measure();
        self.lay_out(&mut layout, self.latents(height, width))?;
        Ok(layout.used())
    }

    fn lay_out(&self, layout: &mut Layout, latents: Size) -> Result<(Work, Region), GpuError> {
        let mut needs = Needs {
            image: latents.bytes(),
            ..Needs::default()
        };
        let mut size = self.conv_in.after(latents);
        needs.at_least(self.middle.needs(size)?);
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                needs.at_least(resnet.needs(size));
                size = resnet.after(size);
            }
            if block.upsampler.is_some() {
                size = doubled(size);
                needs.image = needs.image.max(size.bytes());
            }
        }
        needs.at_least(self.norm_out.needs(size));
        let bytes = layout.take(3 * size.pixels())?;
        Ok((needs.lay_out(layout)?, bytes))
    }

    /// The pixels (8 * height, 8 * width, 3) of latents (channels, height, width), within the scratch memory.
    pub(crate) fn decode(
        &self,
        compute: &Compute,
        scratch: Region,
        latents: Region,
        (height, width): (usize, usize),
    ) -> Result<Region, GpuError> {
        let gpu = &compute.gpu;
        let mut size = self.latents(height, width);
        let (mut work, bytes) = self.lay_out(&mut Layout::over(scratch), size)?;
        let scales = (
            self.config.scaling_factor as f32,
            self.config.shift_factor as f32,
        );
        let of_latents = Latents {
            pixels: size.pixels(),
            channels: size.channels,
            stride: size.stride(),
        };
        from_latents(gpu, of_latents, work.spare, latents, scales)?;
        self.conv_in.run(compute, size, work.x, work.spare, None)?;
        size = self.conv_in.after(size);
        self.middle.run(compute, size, &mut work)?;
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                size = resnet.run(compute, size, &mut work)?;
            }
            if let Some(conv) = &block.upsampler {
                let from = (size.height, size.width, size.stride());
                upsample(gpu, work.spare, work.x, from)?;
                size = doubled(size);
                conv.run(compute, size, work.x, work.spare, None)?;
            }
        }
        let images = (work.x, work.x);
        self.norm_out
            .run(compute, size, images, work.statistics, true)?;
        self.conv_out.run(compute, size, work.spare, work.x, None)?;
        let stride = self.conv_out.after(size).stride();
        to_bytes(gpu, bytes, work.spare, (size.pixels(), stride))?;
        Ok(bytes)
    }
}

const fn doubled(size: Size) -> Size {
    Size {
        height: 2 * size.height,
        width: 2 * size.width,
        ..size
    }
}
