//! The encoder of diffusers' `AutoencoderKL`.

use super::attention::MiddleBlock;
use super::layers::{Conv, Norm, Resnet};
use super::{Needs, Size, Work, supported};
use crate::compute::Compute;
use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::matrix::Format;
use crate::memory::{Layout, Memory, Region};
use crate::ops::BF16;
use crate::weights::{Loader, Source};
use half::bf16;
use zimage_checkpoint::Component;
use zimage_checkpoint::config::VaeConfig;
use zimage_core::pixels::Pixels;

/// From pixels to latents.
pub(crate) struct Encoder {
    config: VaeConfig,
    conv_in: Conv,
    down_blocks: Vec<DownBlock>,
    middle: MiddleBlock,
    norm_out: Norm,
    conv_out: Conv,
    memory: Vec<Memory>,
}

struct DownBlock {
    resnets: Vec<Resnet>,
    /// Missing in the last block, which has the latents' size.
    downsampler: Option<Conv>,
}

impl Encoder {
    /// What holds all of its weights: another GPU copies them.
    pub(crate) fn memory(&self) -> &[Memory] {
        &self.memory
    }

    pub(crate) fn load(gpu: &Gpu, source: Source<'_>) -> Result<Self, LoadError> {
        let config = source.checkpoint.vae().clone();
        supported(&config)?;
        let mut loader = Loader::new(gpu, source, Component::Vae, |name| {
            name.starts_with("encoder.").then_some(Format::Bf16)
        })?;
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv_in = (config.in_channels, first);
        let conv_in = Conv::load(&mut loader, "encoder.conv_in", conv_in, 3)?;
        let mut down_blocks = Vec::with_capacity(channels.len());
        let mut previous = first;
        for (i, &width) in channels.iter().enumerate() {
            let name = format!("encoder.down_blocks.{i}");
            let mut resnets = Vec::with_capacity(config.layers_per_block);
            for j in 0..config.layers_per_block {
                let resnet = format!("{name}.resnets.{j}");
                resnets.push(Resnet::load(
                    &mut loader,
                    &resnet,
                    (previous, width),
                    groups,
                )?);
                previous = width;
            }
            let downsampler = match i + 1 < channels.len() {
                true => {
                    let conv = format!("{name}.downsamplers.0.conv");
                    Some(Conv::load(&mut loader, &conv, (width, width), 3)?)
                }
                false => None,
            };
            down_blocks.push(DownBlock {
                resnets,
                downsampler,
            });
        }
        let conv_out = (last, 2 * config.latent_channels);
        Ok(Self {
            middle: MiddleBlock::load(&mut loader, "encoder.mid_block", last, groups)?,
            norm_out: Norm::load(&mut loader, "encoder.conv_norm_out", last, groups)?,
            conv_out: Conv::load(&mut loader, "encoder.conv_out", conv_out, 3)?,
            conv_in,
            down_blocks,
            memory: loader.finish()?,
            config,
        })
    }

    fn image(&self, height: usize, width: usize) -> Size {
        Size {
            height,
            width,
            channels: self.config.in_channels,
        }
    }

    /// Bytes that encoding an image of a height and width needs.
    pub(crate) fn bytes(&self, height: usize, width: usize) -> Result<usize, GpuError> {
        let mut layout = Layout::measure();
        self.lay_out(&mut layout, self.image(height, width))?;
        Ok(layout.used())
    }

    fn lay_out(&self, layout: &mut Layout, image: Size) -> Result<Work, GpuError> {
        let mut needs = Needs {
            image: image.bytes(),
            ..Needs::default()
        };
        let mut size = self.conv_in.after(image);
        needs.image = needs.image.max(size.bytes());
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                needs.at_least(resnet.needs(size));
                size = resnet.after(size);
            }
            if block.downsampler.is_some() {
                size = halved(size);
            }
        }
        needs.at_least(self.middle.needs(size)?);
        needs.at_least(self.norm_out.needs(size));
        needs.image = needs.image.max(self.conv_out.after(size).bytes());
        needs.lay_out(layout)
    }

    /// Latents (channels, height / 8, width / 8) of an image. `noise`, one number for each value of the latents, says
    /// which of the latents that the image may have. Waits for the GPU.
    pub(crate) fn encode(
        &self,
        compute: &Compute,
        scratch: Region,
        pixels: &Pixels,
        noise: &[f32],
    ) -> Result<Vec<f32>, GpuError> {
        let gpu = &compute.gpu;
        let mut size = self.image(pixels.height() as usize, pixels.width() as usize);
        let mut work = self.lay_out(&mut Layout::over(scratch), size)?;
        gpu.upload(work.spare, &from_pixels(pixels, size.stride()))?;
        self.conv_in.run(compute, size, work.x, work.spare, None)?;
        size = self.conv_in.after(size);
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                size = resnet.run(compute, size, &mut work)?;
            }
            if let Some(conv) = &block.downsampler {
                conv.halve(compute, size, work.spare, work.x)?;
                work.swap();
                size = halved(size);
            }
        }
        self.middle.run(compute, size, &mut work)?;
        let images = (work.x, work.x);
        self.norm_out
            .run(compute, size, images, work.statistics, true)?;
        self.conv_out.run(compute, size, work.spare, work.x, None)?;
        let size = self.conv_out.after(size);
        let moments = gpu.download::<u16>(work.spare, size.bytes() / BF16)?;
        Ok(self.sample(size, &moments, noise))
    }

    /// Latents by channel of moments by pixel: means, and then logarithms of variances.
    fn sample(&self, size: Size, moments: &[u16], noise: &[f32]) -> Vec<f32> {
        let (pixels, channels) = (size.pixels(), self.config.latent_channels);
        let (scaling, shift) = (
            self.config.scaling_factor as f32,
            self.config.shift_factor as f32,
        );
        let moment = |pixel: usize, channel: usize| {
            bf16::from_bits(moments[pixel * size.stride() + channel]).to_f32()
        };
        let value = |(at, noise): (usize, &f32)| {
            let (channel, pixel) = (at / pixels, at % pixels);
            let deviation = (moment(pixel, channels + channel).clamp(-30.0, 20.0) * 0.5).exp();
            (moment(pixel, channel) + deviation * noise - shift) * scaling
        };
        noise.iter().enumerate().map(value).collect()
    }
}

const fn halved(size: Size) -> Size {
    Size {
        height: size.height / 2,
        width: size.width / 2,
        ..size
    }
}

/// Bytes as an image from -1 to 1, as bits of bfloat16.
fn from_pixels(pixels: &Pixels, stride: usize) -> Vec<u16> {
    let level = |&level: &u8| bf16::from_f32(2.0 * (f32::from(level) / 255.0) - 1.0).to_bits();
    let pixel = |rgb: &[u8]| {
        let mut values: Vec<u16> = rgb.iter().map(level).collect();
        values.resize(stride, 0);
        values
    };
    pixels.rgb().chunks_exact(3).flat_map(pixel).collect()
}
