//! What every part of the model computes with, and the layer that most of it is made of.

use crate::dnn::Dnn;
use crate::error::{GpuError, LoadError};
use crate::gpu::{Gpu, GpuOptions};
use crate::matmul::{Algorithms, Matmuls, Output, Product};
use crate::matrix::{Format, Matrix};
use crate::memory::Region;
use crate::ops::hopper;
use crate::ops::quantise::quantise;
use crate::shapes::Attention;

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
        Self::with(options, |gpu| Matmuls::new(gpu, options))
    }

    /// As [`Self::open`], with the algorithms that another GPU of the process computes with.
    pub(crate) fn open_beside(
        options: &GpuOptions,
        algorithms: &Algorithms,
    ) -> Result<Self, LoadError> {
        Self::with(options, |gpu| Matmuls::shared(gpu, options, algorithms))
    }

    fn with(
        options: &GpuOptions,
        matmuls: impl FnOnce(&Gpu) -> Result<Matmuls, LoadError>,
    ) -> Result<Self, LoadError> {
        let gpu = Gpu::open(options)?;
        Ok(Self {
            matmuls: matmuls(&gpu)?,
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

/// `y = x * weight^T + bias`. Only of weights in bfloat16 there is a bias, or a y in float32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    /// (numbers of a row of y, numbers of a row of x)
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Region>,
    /// How y and the bias are stored.
    pub(crate) output: Output,
}

impl Linear {
    /// Numbers of a row of y.
    pub(crate) const fn outputs(&self) -> usize {
        self.weight.rows()
    }

    /// Numbers of a row of x.
    pub(crate) const fn inputs(&self) -> usize {
        self.weight.columns()
    }

    /// Of rows in bfloat16.
    pub(crate) fn run(
        &self,
        compute: &Compute,
        rows: usize,
        y: Region,
        x: Region,
    ) -> Result<(), GpuError> {
        self.multiply(compute, y, Matrix::bf16(x, (rows, self.inputs()))?)
    }

    /// Of rows in the weight's format, by the library in bfloat16 and by the engine's own kernel in integers.
    pub(crate) fn multiply(&self, compute: &Compute, y: Region, x: Matrix) -> Result<(), GpuError> {
        x.require((x.rows(), self.inputs()))?;
        if self.weight.format() != Format::Bf16 {
            let y = Matrix::bf16(y, (x.rows(), self.outputs()))?;
            return hopper::product(&compute.gpu, y, x, self.weight);
        }
        let product = Product {
            m: x.rows(),
            n: self.outputs(),
            k: self.inputs(),
            output: self.output,
        };
        let operands = (x.region(), self.weight.region());
        compute
            .matmuls
            .run(&compute.gpu, product, y, operands, self.bias)
    }

    /// Rows for x in the weight's format.
    pub(crate) fn input(&self, region: Region, rows: usize) -> Result<Matrix, GpuError> {
        Matrix::within(region, self.weight.format(), (rows, self.inputs()))
    }

    /// Rows of bfloat16 in the weight's format: themselves, or quantised into `room`.
    pub(crate) fn quantised(
        &self,
        gpu: &Gpu,
        rows: usize,
        x: Region,
        room: Region,
    ) -> Result<Matrix, GpuError> {
        let x = Matrix::bf16(x, (rows, self.inputs()))?;
        if self.weight.format() == Format::Bf16 {
            return Ok(x);
        }
        let y = self.input(room, rows)?;
        quantise(gpu, y, x)?;
        Ok(y)
    }
}
