//! A block of the real model's sizes, for figures of its operations.

use crate::oracle::{random, upload_bf16, upload_f32};
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::embed::swiglu;
use zimage_cuda::ops::hopper::{self, gate_up_swiglu};
use zimage_cuda::ops::norm::{Added, Next, Rows, add_norm};
use zimage_cuda::ops::rope::{Pairs, norm_and_rotate};
use zimage_cuda::shapes::Attention;
use zimage_cuda::shapes::Heads;
use zimage_cuda::{Compute, GpuError, Matrix, Memory};

/// Numbers of a token.
pub(crate) const DIM: usize = 3840;

/// Numbers of a token between the feed-forward layers.
pub(crate) const FFN: usize = 10_240;

/// Its weights and what it computes in. What the numbers are does not matter, as long as they are not zero.
pub(crate) struct Block<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) tokens: usize,
    x: Memory,
    pub(crate) y: Memory,
    pub(crate) h: Memory,
    pub(crate) qkv: Memory,
    pub(crate) attended: Memory,
    both: Memory,
    pub(crate) activated: Memory,
    pub(crate) weights: [Memory; 4],
    table: Memory,
    vector: Memory,
}

impl Block<'_> {
    pub(crate) fn new(compute: &Compute, tokens: usize) -> Result<Block<'_>, GpuError> {
        let gpu = &compute.gpu;
        let some = random(1, 1 << 20);
        let scaled: Vec<f32> = some.iter().map(|number| number * 0.02).collect();
        let fill = |from: &[f32], count: usize| {
            let all: Vec<f32> = from.iter().copied().cycle().take(count).collect();
            upload_bf16(gpu, &all)
        };
        let numbers = |width: usize| fill(&some, tokens * width);
        let weight = |size: usize| fill(&scaled, size);
        Ok(Block {
            compute,
            tokens,
            x: numbers(DIM)?,
            y: numbers(DIM)?,
            h: numbers(DIM)?,
            qkv: numbers(3 * DIM)?,
            attended: numbers(DIM)?,
            both: numbers(2 * FFN)?,
            activated: numbers(FFN)?,
            weights: [
                weight(3 * DIM * DIM)?,
                weight(DIM * DIM)?,
                weight(2 * FFN * DIM)?,
                weight(FFN * DIM)?,
            ],
            table: upload_f32(gpu, &random(3, tokens * 128))?,
            vector: upload_f32(gpu, &vec![0.1; DIM])?,
        })
    }

    const fn heads(&self) -> Heads {
        Heads {
            tokens: self.tokens,
            heads: 30,
            kv_heads: 30,
            width: 128,
        }
    }

    fn product(
        &self,
        y: &Memory,
        x: &Memory,
        weight: usize,
        (n, k): (usize, usize),
    ) -> Result<(), GpuError> {
        let product = Product {
            m: self.tokens,
            n,
            k,
            output: Output::Bf16,
        };
        let operands = (x.region(), self.weights[weight].region());
        let matmuls = &self.compute.matmuls;
        matmuls.run(&self.compute.gpu, product, y.region(), operands, None)
    }

    pub(crate) fn qkv(&self) -> Result<(), GpuError> {
        self.product(&self.qkv, &self.y, 0, (3 * DIM, DIM))
    }

    pub(crate) fn norm_and_rotate(&self) -> Result<(), GpuError> {
        let (qkv, norm) = (self.qkv.region(), self.weights[0].region());
        let norms = Some((norm, norm, 1e-5));
        let table = self.table.region();
        norm_and_rotate(
            &self.compute.gpu,
            self.heads(),
            Pairs::Interleaved,
            qkv,
            norms,
            table,
        )
    }

    /// By cuDNN.
    pub(crate) fn attend(&self) -> Result<(), GpuError> {
        let attention = Attention {
            heads: self.heads(),
            causal: false,
        };
        let (attended, qkv) = (self.attended.region(), self.qkv.region());
        let Compute { dnn, gpu, .. } = self.compute;
        dnn.attend(gpu, attention, attended, qkv)
    }

    /// By Hopper's kernel.
    pub(crate) fn attend_ourselves(&self) -> Result<(), GpuError> {
        let (attended, qkv) = (self.attended.region(), self.qkv.region());
        hopper::attend(&self.compute.gpu, self.heads(), attended, qkv)
    }

    pub(crate) fn out(&self) -> Result<(), GpuError> {
        self.product(&self.h, &self.attended, 1, (DIM, DIM))
    }

    pub(crate) fn add_norm(&self) -> Result<(), GpuError> {
        self.add_norm_to(Matrix::bf16(self.y.region(), (self.tokens, DIM))?)
    }

    /// With the norm's result elsewhere, or in another format.
    pub(crate) fn add_norm_to(&self, y: Matrix) -> Result<(), GpuError> {
        let rows = Rows {
            count: self.tokens,
            width: DIM,
            eps: 1e-5,
        };
        let norm = self.weights[0].region();
        let added = Added {
            h: self.h.region(),
            weight: Some(norm),
            gate: Some(self.vector.region()),
        };
        let next = Next {
            y,
            weight: norm,
            scale: Some(self.vector.region()),
        };
        add_norm(&self.compute.gpu, rows, self.x.region(), added, Some(next))
    }

    pub(crate) fn gate_and_up(&self) -> Result<(), GpuError> {
        self.product(&self.both, &self.y, 2, (2 * FFN, DIM))
    }

    pub(crate) fn swiglu(&self) -> Result<(), GpuError> {
        let (activated, both) = (self.activated.region(), self.both.region());
        swiglu(&self.compute.gpu, activated, both, (self.tokens, FFN))
    }

    /// The two before in one, by Hopper's kernel.
    pub(crate) fn gate_up_swiglu(&self) -> Result<(), GpuError> {
        let x = Matrix::bf16(self.y.region(), (self.tokens, DIM))?;
        let weight = Matrix::bf16(self.weights[2].region(), (2 * FFN, DIM))?;
        let y = Matrix::bf16(self.activated.region(), (self.tokens, FFN))?;
        gate_up_swiglu(&self.compute.gpu, y, x, weight)
    }

    pub(crate) fn down(&self) -> Result<(), GpuError> {
        self.product(&self.h, &self.activated, 3, (DIM, FFN))
    }
}
