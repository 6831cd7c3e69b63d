//! The decoder of diffusers' `AutoencoderKL`.

use super::attention::MiddleBlock;
use super::layers::{Conv, Norm, Resnet};
use super::steps::Steps;
use super::strips::{StripWork, Strips};
use super::{Size, Work, supported};
use crate::compute::Compute;
use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::matrix::Format;
use crate::memory::{Layout, Memory, Region};
use crate::ops::image::{Bytes, Latents, from_latents, to_bytes};
use crate::weights::{Loader, Source};
use std::sync::atomic::{AtomicU64, Ordering};
use zimage_checkpoint::Component;
use zimage_checkpoint::config::VaeConfig;

/// Numbers of strips that are tried, the fewest first.
const STRIPS: [usize; 7] = [2, 3, 4, 6, 8, 12, 16];

/// Images of this process that were decoded in strips.
static IN_STRIPS: AtomicU64 = AtomicU64::new(0);

/// Images of this process for whose decoding memory was short: slower, and as right.
pub fn decoded_in_strips() -> u64 {
    IN_STRIPS.load(Ordering::Relaxed)
}

/// From latents to pixels.
pub(crate) struct Decoder {
    config: VaeConfig,
    conv_in: Conv,
    middle: MiddleBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: Norm,
    conv_out: Conv,
    memory: Vec<Memory>,
}

struct UpBlock {
    resnets: Vec<Resnet>,
    /// Missing in the last block, which has the image's size.
    upsampler: Option<Conv>,
}

impl Decoder {
    /// What holds all of its weights: another GPU copies them.
    pub(crate) fn memory(&self) -> &[Memory] {
        &self.memory
    }

    pub(crate) fn load(gpu: &Gpu, source: Source<'_>) -> Result<Self, LoadError> {
        let config = source.checkpoint.vae().clone();
        supported(&config)?;
        let mut loader = Loader::new(gpu, source, Component::Vae, |name| {
            name.starts_with("decoder.").then_some(Format::Bf16)
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
            memory: loader.finish()?,
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

    /// The layers from the upsampling before an up block on, and the size of the image that they read. Of no block: the
    /// last norm and convolution alone.
    fn tail(&self, first: usize, latents: Size) -> (Steps<'_>, Size) {
        let (before, blocks) = self.up_blocks.split_at(first);
        let mut steps = Steps::new();
        let mut size = self.conv_in.after(latents);
        for (number, block) in before.iter().enumerate() {
            for resnet in &block.resnets {
                size = resnet.after(size);
            }
            match &block.upsampler {
                Some(conv) if number + 1 == first => steps.upsample(conv),
                Some(_) => size = doubled(size),
                None => {}
            }
        }
        for block in blocks {
            for resnet in &block.resnets {
                steps.resnet(resnet);
            }
            if let Some(conv) = &block.upsampler {
                steps.upsample(conv);
            }
        }
        steps.norm_and_conv(&self.norm_out, &self.conv_out);
        (steps, size)
    }

    /// The layers of the up blocks before one, without the upsampling that comes last.
    fn head(&self, first: usize) -> Steps<'_> {
        let mut steps = Steps::new();
        for (number, block) in self.up_blocks[..first].iter().enumerate() {
            for resnet in &block.resnets {
                steps.resnet(resnet);
            }
            match &block.upsampler {
                Some(conv) if number + 1 < first => steps.upsample(conv),
                _ => {}
            }
        }
        steps
    }

    /// How an image is decoded within some memory: as a whole if there is room, else with as few layers in as few strips
    /// as fit; the least where nothing does.
    fn way(&self, latents: Size, most: usize) -> Result<Way<'_>, GpuError> {
        let blocks = self.up_blocks.len();
        let (steps, size) = self.tail(blocks, latents);
        let whole = Way {
            head: self.head(blocks),
            tail: Tail::Whole(steps, size),
        };
        if self.way_bytes(&whole, latents)? <= most {
            return Ok(whole);
        }
        let mut least: Option<(usize, Way<'_>)> = None;
        for first in (1..blocks).rev() {
            for count in STRIPS {
                let (steps, size) = self.tail(first, latents);
                let unit = Strips::unit(&steps, size);
                let rows = size.height.div_ceil(count).next_multiple_of(unit);
                let way = Way {
                    head: self.head(first),
                    tail: Tail::Strips(Strips { steps, size, rows }),
                };
                let bytes = self.way_bytes(&way, latents)?;
                if bytes <= most {
                    return Ok(way);
                }
                if least.as_ref().is_none_or(|(least, _)| bytes < *least) {
                    least = Some((bytes, way));
                }
            }
        }
        Ok(least.map_or(whole, |(_, way)| way))
    }

    fn way_bytes(&self, way: &Way<'_>, latents: Size) -> Result<usize, GpuError> {
        let mut layout = Layout::measure();
        self.lay_out(&mut layout, way, latents)?;
        Ok(layout.used())
    }

    /// Bytes that decoding latents of a height and width needs, where so many can be had.
    pub(crate) fn bytes(
        &self,
        (height, width): (usize, usize),
        most: usize,
    ) -> Result<usize, GpuError> {
        let latents = self.latents(height, width);
        self.way_bytes(&self.way(latents, most)?, latents)
    }

    fn lay_out(&self, layout: &mut Layout, way: &Way<'_>, latents: Size) -> Result<Laid, GpuError> {
        let size = self.conv_in.after(latents);
        let (mut head, _) = way.head.needs(size);
        head.image = head.image.max(latents.bytes());
        head.at_least(self.middle.needs(size)?);
        let scale = 1 << (self.up_blocks.len() - 1);
        let bytes = layout.take(Bytes::size(scale * scale * latents.pixels()))?;
        match &way.tail {
            Tail::Whole(steps, size) => {
                head.at_least(steps.needs(*size).0);
                Ok(Laid {
                    bytes,
                    work: head.lay_out(layout)?,
                    strips: None,
                })
            }
            Tail::Strips(strips) => {
                let image = layout.take(strips.size.bytes())?;
                // The first layers are over when the strips begin.
                let mut of_head = Layout::measure();
                head.lay_out(&mut of_head)?;
                let mut of_strips = Layout::measure();
                strips.lay_out(&mut of_strips)?;
                let shared = layout.take(of_head.used().max(of_strips.used()))?;
                Ok(Laid {
                    bytes,
                    work: head.lay_out(&mut Layout::over(shared))?,
                    strips: Some((image, strips.lay_out(&mut Layout::over(shared))?)),
                })
            }
        }
    }

    /// The pixels (8 * height, 8 * width, 3) of latents (channels, height, width) as [`Bytes`], at the beginning of
    /// the scratch memory. What is behind them is free again once they are there.
    pub(crate) fn decode(
        &self,
        compute: &Compute,
        scratch: Region,
        latents: Region,
        (height, width): (usize, usize),
    ) -> Result<Region, GpuError> {
        let gpu = &compute.gpu;
        let size = self.latents(height, width);
        let way = self.way(size, scratch.bytes())?;
        let Laid {
            bytes,
            mut work,
            strips,
        } = self.lay_out(&mut Layout::over(scratch), &way, size)?;
        let scales = (
            self.config.scaling_factor as f32,
            self.config.shift_factor as f32,
        );
        let of_latents = Latents {
            pixels: size.pixels(),
            channels: size.channels,
            stride: size.stride(),
        };
        let scale = 1 << (self.up_blocks.len() - 1);
        let to = Bytes::within(bytes, scale * scale * size.pixels())?;
        gpu.clear(to.broken)?;
        from_latents(gpu, of_latents, work.spare, latents, scales)?;
        self.conv_in.run(compute, size, work.x, work.spare, None)?;
        let size = self.conv_in.after(size);
        self.middle.run(compute, size, &mut work)?;
        work.take(&way.head, compute, size)?;
        match (&way.tail, strips) {
            (Tail::Strips(strips), Some((image, own))) => {
                IN_STRIPS.fetch_add(1, Ordering::Relaxed);
                gpu.copy(image, work.x, strips.size.bytes())?;
                strips.run(compute, &own, image, to)?;
            }
            (Tail::Strips(Strips { steps, size, .. }) | Tail::Whole(steps, size), _) => {
                work.take(steps, compute, *size)?;
                let (_, after) = steps.needs(*size);
                to_bytes(gpu, to, work.x, (after.pixels(), after.stride()))?;
            }
        }
        Ok(bytes)
    }
}

/// How an image is decoded.
struct Way<'a> {
    /// The up blocks that are computed as a whole.
    head: Steps<'a>,
    tail: Tail<'a>,
}

enum Tail<'a> {
    Whole(Steps<'a>, Size),
    Strips(Strips<'a>),
}

/// Memory of a way.
struct Laid {
    bytes: Region,
    work: Work,
    /// The image between head and strips, and the strips' own.
    strips: Option<(Region, StripWork)>,
}

const fn doubled(size: Size) -> Size {
    Size {
        height: 2 * size.height,
        width: 2 * size.width,
        ..size
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention;
    use super::super::layers::sized::{conv, norm, resnet};
    use super::*;

    const GIB: usize = 1 << 30;

    /// The released model's, without weights.
    fn decoder() -> Decoder {
        let block = |from, to, last: bool| UpBlock {
            resnets: vec![resnet((from, to)), resnet((to, to)), resnet((to, to))],
            upsampler: (!last).then(|| conv((to, to), 3)),
        };
        Decoder {
            config: VaeConfig {
                in_channels: 3,
                out_channels: 3,
                latent_channels: 16,
                block_out_channels: vec![128, 256, 512, 512],
                layers_per_block: 2,
                norm_num_groups: 32,
                scaling_factor: 0.3611,
                shift_factor: 0.1159,
            },
            conv_in: conv((16, 512), 3),
            middle: attention::sized(512),
            up_blocks: vec![
                block(512, 512, false),
                block(512, 512, false),
                block(512, 256, false),
                block(256, 128, true),
            ],
            norm_out: norm(128),
            conv_out: conv((128, 3), 3),
            memory: Vec::new(),
        }
    }

    #[test]
    fn a_large_image_is_decoded_in_the_memory_that_there_is() {
        let decoder = decoder();
        let latents = (256, 256);
        let whole = decoder.bytes(latents, usize::MAX).unwrap();
        assert!((5 * GIB..6 * GIB).contains(&whole), "{whole}");
        for most in [4 * GIB, 2 * GIB, 3 * GIB / 2] {
            let bytes = decoder.bytes(latents, most).unwrap();
            assert!(bytes <= most, "{bytes} of {most}");
        }
        // Where nothing is enough the least is asked for, and refused by whoever has the memory.
        let least = decoder.bytes(latents, 0).unwrap();
        assert!(least < 3 * GIB / 2, "{least}");
    }

    #[test]
    fn strips_are_as_long_as_the_norms_sums_and_reach_as_far_as_the_convolutions() {
        let decoder = decoder();
        for (height, width) in [(256, 256), (192, 130), (128, 128), (24, 64)] {
            for first in [1, 2, 3] {
                let (steps, size) = decoder.tail(first, decoder.latents(height, width));
                let unit = Strips::unit(&steps, size);
                for (norm, of) in steps.norms(size) {
                    let rows = unit * of.height / size.height;
                    assert!(
                        rows.is_multiple_of(norm.rows_together(of)),
                        "{height} {first}"
                    );
                }
            }
        }
        // Eight convolutions at the image's size, of which the first reads half of its rows.
        let (steps, size) = decoder.tail(3, decoder.latents(256, 256));
        let scale = steps.needs(size).1.height / size.height;
        assert_eq!((steps.reach(), scale), (4, 2));
    }
}
