//! diffusers' `ZImageTransformer2DModel` in bfloat16, or with the products of a step in int8, for one image at a time.
//!
//! ```text
//! per schedule   times ──> Modulations (one row a step)
//! per prompt     hidden states ──> refine ──> caption tokens
//! per step       latents, caption, modulation row ──> forward ──> prediction (float32)
//! ```

mod block;
mod modulation;
mod weights;

use crate::compute::Compute;
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::matrix::Matrix;
use crate::memory::{Layout, Memory, Region};
use crate::ops::embed::repeat_row;
use crate::ops::norm::{Rows, layer_norm, rms_norm};
use crate::ops::sampler::{Patches, patchify, unpatchify};
use crate::ops::{BF16, F32};
use block::BlockWork;
use half::bf16;
pub(crate) use modulation::Modulations;
pub(crate) use weights::Transformer;
use zimage_core::noise::Generator;
use zimage_core::rotary::{self, Position, SEQUENCE_MULTIPLE};

/// Epsilon of the last layer's norm.
const LAST_NORM_EPS: f32 = 1e-6;

/// Random numbers that memory is filled with, again and again.
const SOME: usize = 1 << 18;

/// What a forward's plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    /// Rows of patches.
    pub(crate) rows: usize,
    /// Columns of patches.
    pub(crate) columns: usize,
    /// Tokens of the caption, padded.
    pub(crate) caption: usize,
}

impl Sizes {
    fn patches(self) -> usize {
        self.rows * self.columns
    }

    /// Patches, padded.
    fn image(self) -> usize {
        self.patches().next_multiple_of(SEQUENCE_MULTIPLE)
    }

    fn joint(self) -> usize {
        self.image() + self.caption
    }
}

/// Where a forward finds what it reads and puts what it makes.
pub(crate) struct Work {
    pub(crate) sizes: Sizes,
    /// (channels, 2 * rows, 2 * columns) in float32.
    pub(crate) latents: Region,
    /// As the latents.
    pub(crate) prediction: Region,
    /// One step's row of the modulations.
    pub(crate) modulation: Region,
    /// One step's row of the last layer's scales.
    pub(crate) last_scale: Region,
    /// (caption, dim)
    pub(crate) caption: Region,
    /// Cosines and sines of image and caption.
    table: Region,
    patches: Region,
    output: Region,
    image: Region,
    blocks: BlockWork,
}

impl Transformer {
    /// Lays a forward's memory out. `table` is what [`Self::table_of`] gave for these sizes.
    pub(crate) fn lay_out(
        &self,
        layout: &mut Layout,
        sizes: Sizes,
        table: Region,
    ) -> Result<Work, GpuError> {
        let Sizes { caption, .. } = sizes;
        let (dim, patch) = (self.config.dim, self.config.patch_dim());
        let patches = sizes.patches();
        let blocks = BlockWork::lay_out(layout, self, sizes.joint())?;
        let image = sizes.image() * dim * BF16;
        Ok(Work {
            sizes,
            latents: layout.take(patches * patch * F32)?,
            prediction: layout.take(patches * patch * F32)?,
            modulation: layout.take(self.modulation_row() * F32)?,
            last_scale: layout.take(dim * F32)?,
            table,
            patches: layout.take(patches * patch * BF16)?,
            output: layout.take(patches * patch * F32)?,
            image: blocks.x.part(0, image)?,
            caption: blocks.x.part(image, caption * dim * BF16)?,
            blocks,
        })
    }

    /// The rotary embedding of an image and its caption.
    pub(crate) fn table_of(&self, gpu: &Gpu, sizes: Sizes) -> Result<Memory, GpuError> {
        let Sizes {
            rows,
            columns,
            caption,
        } = sizes;
        let positions = [
            rotary::image(caption, rows, columns),
            rotary::caption(caption),
        ]
        .concat();
        let table = self.table(&positions);
        let memory = gpu.allocate(table.len() * F32)?;
        gpu.upload(memory.region(), &table)?;
        Ok(memory)
    }

    /// Bytes of a forward's memory, without the table.
    pub(crate) fn bytes(&self, sizes: Sizes) -> Result<usize, GpuError> {
        let mut layout = Layout::measure();
        self.lay_out(&mut layout, sizes, Region::NONE)?;
        Ok(layout.used())
    }

    /// Fills what a forward reads with normal numbers: a card draws less power and is faster on zeros.
    pub(crate) fn fill(&self, gpu: &Gpu, work: &Work) -> Result<(), GpuError> {
        let numbers = Generator::new(0).randn(SOME);
        let bits: Vec<u16> = numbers
            .iter()
            .map(|&number| bf16::from_f32(number).to_bits())
            .collect();
        for region in [work.latents, work.modulation, work.last_scale] {
            gpu.upload_repeated(region, &numbers)?;
        }
        for region in work.blocks.products_operands() {
            gpu.upload_repeated(region, &bits)?;
        }
        gpu.upload_repeated(work.caption, &bits)
    }

    /// Computes the products that a forward consists of, so that their algorithms are chosen for these sizes, and not for
    /// the refiner's, which are nearly the same.
    pub(crate) fn tune(&self, compute: &Compute, work: &Work) -> Result<(), GpuError> {
        match self.layers.first() {
            Some(block) => self.multiply(compute, block, &work.blocks, work.sizes.joint()),
            None => Ok(()),
        }
    }

    /// Puts one forward on the stream. Reads the work's latents, caption and modulation rows; the caption does not
    /// survive it.
    pub(crate) fn forward(&self, compute: &Compute, work: &Work) -> Result<(), GpuError> {
        let gpu = &compute.gpu;
        let (sizes, dim) = (work.sizes, self.config.dim);
        let (patches, image) = (sizes.patches(), sizes.image());
        let shape = self.patches(sizes.rows, sizes.columns);
        patchify(gpu, shape, work.patches, work.latents)?;
        self.x_embedder
            .run(compute, patches, work.image, work.patches)?;
        let padding = work
            .image
            .part(patches * dim * BF16, (image - patches) * dim * BF16)?;
        repeat_row(gpu, padding, self.x_pad_token, (image - patches, dim))?;

        let refiner = Some((work.modulation, 0));
        self.run_blocks(
            compute,
            &self.noise_refiner,
            (&work.blocks, image),
            work.table,
            refiner,
        )?;
        let layers = Some((work.modulation, self.noise_refiner.len()));
        self.run_blocks(
            compute,
            &self.layers,
            (&work.blocks, sizes.joint()),
            work.table,
            layers,
        )?;

        let rows = Rows {
            count: patches,
            width: dim,
            eps: LAST_NORM_EPS,
        };
        layer_norm(gpu, rows, work.blocks.y, work.blocks.x, work.last_scale)?;
        self.final_linear
            .run(compute, patches, work.output, work.blocks.y)?;
        unpatchify(gpu, shape, work.prediction, work.output)
    }

    /// Latents of an image.
    pub(crate) fn patches(&self, rows: usize, columns: usize) -> Patches {
        Patches {
            channels: self.config.in_channels,
            rows,
            columns,
        }
    }

    /// Bytes that [`Self::refine`] needs.
    pub(crate) fn refine_bytes(&self, tokens: usize) -> Result<usize, GpuError> {
        let mut layout = Layout::measure();
        self.lay_out_refine(&mut layout, tokens.next_multiple_of(SEQUENCE_MULTIPLE))?;
        Ok(layout.used())
    }

    fn lay_out_refine(
        &self,
        layout: &mut Layout,
        padded: usize,
    ) -> Result<(BlockWork, Region), GpuError> {
        let blocks = BlockWork::lay_out(layout, self, padded)?;
        Ok((blocks, layout.take(padded * self.config.head_dim() * F32)?))
    }

    /// Bytes of what [`Self::refine`] makes of so many tokens.
    pub(crate) const fn refined_bytes(&self, tokens: usize) -> usize {
        tokens.next_multiple_of(SEQUENCE_MULTIPLE) * self.config.dim * BF16
    }

    /// Embeds and refines a prompt's hidden states (tokens, hidden) into (padded, dim); gives the padded length.
    pub(crate) fn refine(
        &self,
        compute: &Compute,
        scratch: Region,
        (hidden, tokens): (Region, usize),
        refined: Region,
    ) -> Result<usize, GpuError> {
        let gpu = &compute.gpu;
        let (dim, padded) = (self.config.dim, tokens.next_multiple_of(SEQUENCE_MULTIPLE));
        let (work, table) = self.lay_out_refine(&mut Layout::over(scratch), padded)?;
        gpu.upload(table, &self.table(&rotary::caption(padded)))?;
        let rows = Rows {
            count: tokens,
            width: self.config.cap_feat_dim,
            eps: self.config.norm_eps as f32,
        };
        let normed = Matrix::bf16(hidden, (tokens, rows.width))?;
        rms_norm(gpu, rows, normed, hidden, self.cap_norm, None)?;
        self.cap_embedder.run(compute, tokens, work.x, hidden)?;
        let padding = work
            .x
            .part(tokens * dim * BF16, (padded - tokens) * dim * BF16)?;
        repeat_row(gpu, padding, self.cap_pad_token, (padded - tokens, dim))?;
        self.run_blocks(compute, &self.context_refiner, (&work, padded), table, None)?;
        gpu.copy(refined, work.x, padded * dim * BF16)?;
        Ok(padded)
    }

    /// A (cosine, sine) for each token and pair.
    fn table(&self, positions: &[Position]) -> Vec<f32> {
        let angles = rotary::angles(self.config.rope_theta, &self.config.axes_dims, positions);
        let turn = |&angle: &f32| <[f32; 2]>::from(rotary::cos_sin(angle));
        angles.iter().flat_map(turn).collect()
    }
}
