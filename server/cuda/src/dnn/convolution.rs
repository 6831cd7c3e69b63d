//! Convolutions of images (height, width, channels) with bias and residual in one pass.

use super::graph::{BFLOAT16, Extent, FLOAT, Graph};
use crate::error::GpuError;
use crate::ops::BF16;
use cudarc::cudnn::sys::cudnnPointwiseMode_t as Pointwise;

/// A convolution with odd square kernels (outputs, kernel, kernel, inputs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Rows of x.
    pub height: usize,
    /// Columns of x.
    pub width: usize,
    /// Channels of x: a multiple of eight.
    pub inputs: usize,
    /// Channels of y: a multiple of eight.
    pub outputs: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Whether another image is added.
    pub residual: bool,
    /// Whether y has half the rows and columns, as diffusers' downsampling: padded behind the last alone.
    pub halving: bool,
}

/// Sizes as the library orders them, strides of channels that lie together.
fn image(channels: i64, height: i64, width: i64) -> Extent {
    let strides = [height * width * channels, 1, width * channels, channels];
    ([1, channels, height, width], strides)
}

impl Convolution {
    /// Rows and columns of y.
    pub const fn output_size(self) -> (usize, usize) {
        match self.halving {
            true => (self.height / 2, self.width / 2),
            false => (self.height, self.width),
        }
    }

    /// Bytes of x, the weight and y.
    pub(super) const fn bytes(self) -> [usize; 3] {
        let (height, width) = self.output_size();
        [
            self.height * self.width * self.inputs * BF16,
            self.outputs * self.kernel * self.kernel * self.inputs * BF16,
            height * width * self.outputs * BF16,
        ]
    }

    /// The residual is added before the bias: for that order the library has engines that need no compilation.
    /// Tensors: x, weight, y, bias, residual.
    ///
    /// # Errors
    /// With the library's message when it refuses a part.
    pub fn graph(&self) -> Result<Graph, GpuError> {
        let [height, width, inputs, outputs, kernel] = [
            self.height,
            self.width,
            self.inputs,
            self.outputs,
            self.kernel,
        ]
        .map(|size| size as i64);
        let (rows, columns) = self.output_size();
        let y_extent = image(outputs, rows as i64, columns as i64);
        let (_, weight_strides) = image(inputs, kernel, kernel);
        let bias_extent = ([1, outputs, 1, 1], [outputs, 1, outputs, outputs]);

        let mut graph = Graph::default();
        let x = graph.real(BFLOAT16, image(inputs, height, width))?;
        let weight = graph.real(
            BFLOAT16,
            ([outputs, inputs, kernel, kernel], weight_strides),
        )?;
        let y = graph.real(BFLOAT16, y_extent)?;
        let bias = graph.real(BFLOAT16, bias_extent)?;
        let mut sum = graph.between(FLOAT, y_extent)?;
        let padding = if self.halving {
            (0, 1)
        } else {
            (kernel / 2, kernel / 2)
        };
        graph.convolve((x, weight, sum), padding, if self.halving { 2 } else { 1 })?;
        if self.residual {
            let residual = graph.real(BFLOAT16, y_extent)?;
            let added = graph.between(FLOAT, y_extent)?;
            graph.pointwise(
                Pointwise::CUDNN_POINTWISE_ADD,
                FLOAT,
                (sum, &[residual]),
                added,
            )?;
            sum = added;
        }
        graph.pointwise(Pointwise::CUDNN_POINTWISE_ADD, FLOAT, (sum, &[bias]), y)?;
        Ok(graph)
    }
}
