//! Attention of every latent pixel to every other: one head, too wide for the fused kernels.

use super::layers::{Norm, Resnet};
use super::{Needs, Size, Work};
use crate::compute::{Compute, Linear};
use crate::error::{GpuError, LoadError};
use crate::matmul::{Output, Product};
use crate::memory::{Layout, Region};
use crate::ops::attention::softmax;
use crate::ops::norm::{Added, Rows, add_norm};
use crate::ops::{BF16, F32};
use crate::weights::Loader;

/// Bytes of the scores that are computed at once, in float32.
const SCORES: usize = 128 << 20;

/// diffusers' `Attention` of the middle block.
struct Attention {
    group_norm: Norm,
    to_q: Linear,
    to_k: Linear,
    /// As the product's first operand, so that it comes out transposed; its bias is added behind the softmax, whose
    /// rows add up to one.
    to_v: Linear,
    to_out: Linear,
    channels: usize,
}

/// Memory of the attention, within the resnets' memory of the same image.
struct AttentionWork {
    normed: Region,
    q: Region,
    k: Region,
    v: Region,
    out: Region,
    scores: Region,
    weights: Region,
}

/// Filled up to the eight numbers that the kernels read at once.
const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

/// Queries that are computed at once.
fn chunk(pixels: usize) -> usize {
    (SCORES / (keys(pixels) * F32)).clamp(1, pixels)
}

/// Keys are a product's columns, which are multiples of eight.
const fn keys(pixels: usize) -> usize {
    pixels.next_multiple_of(8)
}

impl Attention {
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        channels: usize,
        groups: usize,
    ) -> Result<Self, LoadError> {
        let width = padded(channels);
        let mut linear = |part: &str| -> Result<Linear, LoadError> {
            let weight = (format!("{name}.{part}.weight"), channels);
            Ok(Linear {
                bias: Some(loader.vector(&format!("{name}.{part}.bias"), channels)?),
                ..loader.joined_padded(&[weight], channels, (width, width))?
            })
        };
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
            group_norm: Norm::load(loader, &format!("{name}.group_norm"), channels, groups)?,
            channels,
        })
    }

    fn lay_out(&self, layout: &mut Layout, pixels: usize) -> Result<AttentionWork, GpuError> {
        let image = keys(pixels) * padded(self.channels) * BF16;
        let scores = chunk(pixels) * keys(pixels);
        Ok(AttentionWork {
            normed: layout.take(image)?,
            q: layout.take(image)?,
            k: layout.take(image)?,
            v: layout.take(image)?,
            out: layout.take(image)?,
            scores: layout.take(scores * F32)?,
            weights: layout.take(scores * BF16)?,
        })
    }

    fn needs(&self, size: Size) -> Result<Needs, GpuError> {
        let mut layout = Layout::measure();
        self.lay_out(&mut layout, size.pixels())?;
        let mut needs = self.group_norm.needs(size);
        needs.inner = layout.used();
        Ok(needs)
    }

    /// Adds to `work.x`.
    fn run(&self, compute: &Compute, size: Size, work: &Work) -> Result<(), GpuError> {
        let gpu = &compute.gpu;
        let (pixels, width) = (size.pixels(), padded(self.channels));
        let keys = keys(pixels);
        let own = self.lay_out(&mut Layout::over(work.inner), pixels)?;
        // The keys behind the last pixel must be numbers.
        gpu.clear(own.normed)?;
        self.group_norm
            .run(compute, size, (own.normed, work.x), work.statistics, false)?;
        self.to_q.run(compute, keys, own.q, own.normed)?;
        self.to_k.run(compute, keys, own.k, own.normed)?;
        let values = Product {
            m: width,
            n: keys,
            k: width,
            output: Output::Bf16,
        };
        compute.matmuls.run(
            gpu,
            values,
            own.v,
            (self.to_v.weight.region(), own.normed),
            None,
        )?;

        let scale = 1.0 / (self.channels as f32).sqrt();
        for start in (0..pixels).step_by(chunk(pixels)) {
            let rows = chunk(pixels).min(pixels - start);
            let of_rows = |region: Region| region.part(start * width * BF16, rows * width * BF16);
            let scores = Product {
                m: rows,
                n: keys,
                k: width,
                output: Output::F32,
            };
            compute
                .matmuls
                .run(gpu, scores, own.scores, (of_rows(own.q)?, own.k), None)?;
            softmax(gpu, (rows, pixels, keys), own.weights, own.scores, scale)?;
            let sums = Product {
                m: rows,
                n: width,
                k: keys,
                output: Output::Bf16,
            };
            let operands = (own.weights, own.v);
            compute
                .matmuls
                .run(gpu, sums, of_rows(own.out)?, operands, self.to_v.bias)?;
        }
        self.to_out.run(compute, pixels, own.q, own.out)?;
        let rows = Rows {
            count: pixels,
            width,
            eps: 0.0,
        };
        let added = Added {
            h: own.q,
            weight: None,
            gate: None,
        };
        add_norm(gpu, rows, work.x, added, None)
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
        loader: &mut Loader<'_>,
        name: &str,
        channels: usize,
        groups: usize,
    ) -> Result<Self, LoadError> {
        let same = (channels, channels);
        let attention = format!("{name}.attentions.0");
        Ok(Self {
            first: Resnet::load(loader, &format!("{name}.resnets.0"), same, groups)?,
            attention: Attention::load(loader, &attention, channels, groups)?,
            second: Resnet::load(loader, &format!("{name}.resnets.1"), same, groups)?,
        })
    }

    pub(super) fn needs(&self, size: Size) -> Result<Needs, GpuError> {
        let mut needs = self.first.needs(size);
        needs.at_least(self.attention.needs(size)?);
        Ok(needs)
    }

    /// From `work.x` to `work.x`.
    pub(super) fn run(
        &self,
        compute: &Compute,
        size: Size,
        work: &mut Work,
    ) -> Result<(), GpuError> {
        self.first.run(compute, size, work)?;
        self.attention.run(compute, size, work)?;
        self.second.run(compute, size, work)?;
        Ok(())
    }
}

/// A block without weights, to see what memory it needs.
#[cfg(test)]
pub(super) fn sized(channels: usize) -> MiddleBlock {
    use super::layers::sized::{norm, resnet};
    use crate::matrix::Matrix;
    let linear = Linear {
        weight: Matrix::none((channels, channels)),
        bias: None,
        output: Output::Bf16,
    };
    MiddleBlock {
        first: resnet((channels, channels)),
        attention: Attention {
            group_norm: norm(channels),
            to_q: linear,
            to_k: linear,
            to_v: linear,
            to_out: linear,
            channels,
        },
        second: resnet((channels, channels)),
    }
}
