//! A block with its products in integers, for figures.

use crate::block::{Block, DIM, FFN};
use crate::oracle::Stored;
use zimage_cuda::ops::hopper::{self, gate_up_swiglu};
use zimage_cuda::ops::quantise::quantise;
use zimage_cuda::{Format, GpuError, Matrix, Memory};

/// The block's weights, and what the products read.
pub(crate) struct Integers<'a> {
    block: &'a Block<'a>,
    weights: [Stored; 4],
    y: Stored,
    attended: Stored,
    activated: Stored,
}

impl<'a> Integers<'a> {
    pub(crate) fn new(block: &'a Block<'a>) -> Result<Self, GpuError> {
        let (gpu, tokens) = (&block.compute.gpu, block.tokens);
        let of = |shape: (usize, usize), from: &Memory| Stored::of(gpu, Format::S8, shape, from);
        let [qkv, out, both, down] = &block.weights;
        Ok(Self {
            block,
            weights: [
                of((3 * DIM, DIM), qkv)?,
                of((DIM, DIM), out)?,
                of((2 * FFN, DIM), both)?,
                of((DIM, FFN), down)?,
            ],
            y: of((tokens, DIM), &block.y)?,
            attended: of((tokens, DIM), &block.attended)?,
            activated: of((tokens, FFN), &block.activated)?,
        })
    }

    fn product(&self, y: &Memory, x: &Stored, weight: usize) -> Result<(), GpuError> {
        let weight = self.weights[weight].matrix()?;
        let y = Matrix::bf16(y.region(), (self.block.tokens, weight.rows()))?;
        hopper::product(&self.block.compute.gpu, y, x.matrix()?, weight)
    }

    fn quantise(&self, y: &Stored, x: &Memory) -> Result<(), GpuError> {
        let y = y.matrix()?;
        let x = Matrix::bf16(x.region(), (y.rows(), y.columns()))?;
        quantise(&self.block.compute.gpu, y, x)
    }

    pub(crate) fn qkv(&self) -> Result<(), GpuError> {
        self.product(&self.block.qkv, &self.y, 0)
    }

    pub(crate) fn quantise_attended(&self) -> Result<(), GpuError> {
        self.quantise(&self.attended, &self.block.attended)
    }

    pub(crate) fn out(&self) -> Result<(), GpuError> {
        self.product(&self.block.h, &self.attended, 1)
    }

    pub(crate) fn add_norm(&self) -> Result<(), GpuError> {
        self.block.add_norm_to(self.y.matrix()?)
    }

    pub(crate) fn gate_up_swiglu(&self) -> Result<(), GpuError> {
        let activated = Matrix::bf16(self.block.activated.region(), (self.block.tokens, FFN))?;
        let (x, weight) = (self.y.matrix()?, self.weights[2].matrix()?);
        gate_up_swiglu(&self.block.compute.gpu, activated, x, weight)
    }

    pub(crate) fn quantise_activated(&self) -> Result<(), GpuError> {
        self.quantise(&self.activated, &self.block.activated)
    }

    pub(crate) fn down(&self) -> Result<(), GpuError> {
        self.product(&self.block.h, &self.activated, 3)
    }

    /// All of it, in the order in which the model computes it.
    pub(crate) fn run(&self) -> Result<(), GpuError> {
        self.qkv()?;
        self.block.norm_and_rotate()?;
        self.block.attend_ourselves()?;
        self.quantise_attended()?;
        self.out()?;
        self.add_norm()?;
        self.gate_up_swiglu()?;
        self.quantise_activated()?;
        self.down()?;
        self.add_norm()
    }
}
