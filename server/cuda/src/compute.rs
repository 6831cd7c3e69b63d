//! What every part of the model computes with, and the layer that most of it is made of.

use crate::dnn::Dnn;
use crate::error::{GpuError, LoadError};
use crate::gpu::{Gpu, GpuOptions};
use crate::matmul::{Matmuls, Output, Product};
use crate::memory::Region;

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
