//! The block that refiners and layers are made of.

use super::weights::{Block, Transformer};
use crate::compute::Compute;
use crate::error::GpuError;
use crate::matrix::{Format, Matrix};
use crate::memory::{Layout, Region};
use crate::ops::embed::swiglu;
use crate::ops::hopper::{self, gate_up_swiglu};
use crate::ops::norm::{Added, Next, Rows, add_norm, rms_norm};
use crate::ops::rope::{Pairs, norm_and_rotate};
use crate::ops::{BF16, F32};
use crate::shapes::{Attention, Heads};

/// Epsilon of the norms of queries and keys, which diffusers does not configure.
const QK_NORM_EPS: f32 = 1e-5;

/// Memory of blocks over a number of tokens.
pub(super) struct BlockWork {
    /// The hidden states, which blocks change.
    pub(super) x: Region,
    /// They, normed, in the format of the weight that they are multiplied by; and the attention's result in it.
    pub(super) y: Region,
    /// What a block adds.
    h: Region,
    qkv: Region,
    attended: Region,
    /// And what follows from it in the last weight's format.
    gate_and_up: Region,
    activated: Region,
}

impl BlockWork {
    pub(super) fn lay_out(
        layout: &mut Layout,
        transformer: &Transformer,
        tokens: usize,
    ) -> Result<Self, GpuError> {
        let row = transformer.config.dim * tokens * BF16;
        let ffn = transformer.ffn * tokens * BF16;
        let [x, y, h] = [layout.take(row)?, layout.take(row)?, layout.take(row)?];
        // Attention is over when the feed-forward layers begin.
        let shared = layout.take((4 * row).max(3 * ffn))?;
        Ok(Self {
            x,
            y,
            h,
            qkv: shared.part(0, 3 * row)?,
            attended: shared.part(3 * row, row)?,
            gate_and_up: shared.part(0, 2 * ffn)?,
            activated: shared.part(2 * ffn, ffn)?,
        })
    }
}

impl BlockWork {
    /// What the products read.
    pub(super) const fn products_operands(&self) -> [Region; 3] {
        [self.y, self.attended, self.activated]
    }
}

/// What the time does to a block: four vectors in float32.
#[derive(Clone, Copy)]
struct Modulation {
    scale_msa: Region,
    gate_msa: Region,
    scale_mlp: Region,
    gate_mlp: Region,
}

impl Modulation {
    /// Of a block by its place among those that the row is for.
    fn of(row: Region, place: usize, dim: usize) -> Result<Self, GpuError> {
        let part = |number: usize| row.part((4 * place + number) * dim * F32, dim * F32);
        Ok(Self {
            scale_msa: part(0)?,
            gate_msa: part(1)?,
            scale_mlp: part(2)?,
            gate_mlp: part(3)?,
        })
    }
}

impl Transformer {
    /// Runs blocks over the first `tokens` of the work. With modulations, a step's row and the first block's place in it.
    pub(super) fn run_blocks(
        &self,
        compute: &Compute,
        blocks: &[Block],
        (work, tokens): (&BlockWork, usize),
        table: Region,
        modulations: Option<(Region, usize)>,
    ) -> Result<(), GpuError> {
        let gpu = &compute.gpu;
        let dim = self.config.dim;
        let rows = Rows {
            count: tokens,
            width: dim,
            eps: self.config.norm_eps as f32,
        };
        let modulation = |place: usize| {
            modulations
                .map(|(row, first)| Modulation::of(row, first + place, dim))
                .transpose()
        };
        for (place, block) in blocks.iter().enumerate() {
            let own = modulation(place)?;
            if place == 0 {
                let scale = own.map(|own| own.scale_msa);
                let y = block.qkv.input(work.y, tokens)?;
                rms_norm(gpu, rows, y, work.x, block.attention_norm1, scale)?;
            }
            self.attend(compute, block, (work, tokens), table)?;
            let added = Added {
                h: work.h,
                weight: Some(block.attention_norm2),
                gate: own.map(|own| own.gate_msa),
            };
            let next = Next {
                y: block.gate_and_up.input(work.y, tokens)?,
                weight: block.ffn_norm1,
                scale: own.map(|own| own.scale_mlp),
            };
            add_norm(gpu, rows, work.x, added, Some(next))?;

            self.feed_forward(compute, block, work, tokens)?;
            let added = Added {
                h: work.h,
                weight: Some(block.ffn_norm2),
                gate: own.map(|own| own.gate_mlp),
            };
            // The norm that the next block begins with is computed while its input is at hand.
            let next = match blocks.get(place + 1) {
                Some(following) => Some(Next {
                    y: following.qkv.input(work.y, tokens)?,
                    weight: following.attention_norm1,
                    scale: modulation(place + 1)?.map(|following| following.scale_msa),
                }),
                None => None,
            };
            add_norm(gpu, rows, work.x, added, next)?;
        }
        Ok(())
    }

    /// The products of a block, each of whatever its operands hold.
    pub(super) fn multiply(
        &self,
        compute: &Compute,
        block: &Block,
        work: &BlockWork,
        tokens: usize,
    ) -> Result<(), GpuError> {
        let y = block.qkv.input(work.y, tokens)?;
        block.qkv.multiply(compute, work.qkv, y)?;
        block.project(compute, work, tokens)?;
        self.feed_forward(compute, block, work, tokens)
    }

    /// The feed-forward layers.
    fn feed_forward(
        &self,
        compute: &Compute,
        block: &Block,
        work: &BlockWork,
        tokens: usize,
    ) -> Result<(), GpuError> {
        let (gpu, both, size) = (&compute.gpu, block.gate_and_up, (tokens, self.ffn));
        let y = both.input(work.y, tokens)?;
        if y.format() != Format::Bf16 || hopper::pays(gpu, size) {
            let activated = Matrix::bf16(work.activated, size)?;
            gate_up_swiglu(gpu, activated, y, both.weight)?;
        } else {
            both.multiply(compute, work.gate_and_up, y)?;
            swiglu(gpu, work.activated, work.gate_and_up, size)?;
        }
        let (down, room) = (block.down, work.gate_and_up);
        let activated = down.quantised(gpu, tokens, work.activated, room)?;
        down.multiply(compute, work.h, activated)
    }

    /// From the normed hidden states to what is added to them.
    fn attend(
        &self,
        compute: &Compute,
        block: &Block,
        (work, tokens): (&BlockWork, usize),
        table: Region,
    ) -> Result<(), GpuError> {
        let heads = Heads {
            tokens,
            heads: self.config.n_heads,
            kv_heads: self.config.n_heads,
            width: self.config.head_dim(),
        };
        let y = block.qkv.input(work.y, tokens)?;
        block.qkv.multiply(compute, work.qkv, y)?;
        let norms = block.qk_norms.map(|(q, k)| (q, k, QK_NORM_EPS));
        norm_and_rotate(
            &compute.gpu,
            heads,
            Pairs::Interleaved,
            work.qkv,
            norms,
            table,
        )?;
        let attention = Attention {
            heads,
            causal: false,
        };
        compute.attend(attention, work.attended, work.qkv)?;
        block.project(compute, work, tokens)
    }
}

impl Block {
    /// From the attention's result to what is added to the hidden states.
    fn project(&self, compute: &Compute, work: &BlockWork, tokens: usize) -> Result<(), GpuError> {
        let gpu = &compute.gpu;
        let attended = self.out.quantised(gpu, tokens, work.attended, work.y)?;
        self.out.multiply(compute, work.h, attended)
    }
}
