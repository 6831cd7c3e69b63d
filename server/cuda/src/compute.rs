//! What every part of the model computes with, and the layer that most of it is made of.

use crate::dnn::{Attention, Dnn};
use crate::error::{GpuError, LoadError};
use crate::gpu::{Gpu, GpuOptions};
use crate::matmul::{Matmuls, Output, Product};
use crate::memory::Region;
use crate::ops::hopper;

/// A GPU and its libraries.
pub struct Compute {
    /// Matrix products.
    pub matmuls: Matmuls,
    /// Attention and convolutions.
    pub dnn: Dnn,
    /// The GPU, which goes last.
    pub gpu: Gpu,
}

impl Compute {
    /// Checks the GPU and opens its libraries.
    ///
    /// # Errors
    /// Says what is missing, too old, or broken.
    pub fn open(options: &GpuOptions) -> Result<Self, LoadError> {
        let gpu = Gpu::open(options)?;
        Ok(Self {
            matmuls: Matmuls::new(&gpu, options)?,
            dnn: Dnn::new(&gpu)?,
            gpu,
        })
    }

    /// Scaled dot-product attention over fused rows of (q | k | v) into rows of heads: by the engine's own kernel where
    /// there is one, which is faster, and else by cuDNN.
    ///
    /// # Errors
    /// When a region is too small or the driver reports a fault.
    pub(crate) fn attend(
        &self,
        attention: Attention,
        y: Region,
        rows: Region,
    ) -> Result<(), GpuError> {
        if hopper::serves(&self.gpu, attention) {
            return hopper::attend(&self.gpu, attention.heads, y, rows);
        }
        self.dnn.attend(&self.gpu, attention, y, rows)
    }
}

/// `y = x * weight^T + bias`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Region,
    pub(crate) bias: Option<Region>,
    /// Numbers of a row of y.
    pub(crate) outputs: usize,
    /// Numbers of a row of x.
    pub(crate) inputs: usize,
    /// How y and the bias are stored.
    pub(crate) output: Output,
}

impl Linear {
    pub(crate) fn run(
        &self,
        compute: &Compute,
        rows: usize,
        y: Region,
        x: Region,
    ) -> Result<(), GpuError> {
        let product = Product {
            m: rows,
            n: self.outputs,
            k: self.inputs,
            output: self.output,
        };
        compute
            .matmuls
            .run(&compute.gpu, product, y, (x, self.weight), self.bias)
    }
}
