//! Norms, convolutions and residual blocks.

use super::{Needs, Size};
use crate::compute::Compute;
use crate::dnn::Convolution;
use crate::error::{GpuError, LoadError};
use crate::memory::Region;
use crate::ops::group_norm::{self, Groups, group_norm};
use crate::weights::Loader;

/// A group norm's weights.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    weight: Region,
    bias: Region,
    pub(super) channels: usize,
    groups: usize,
}

impl Norm {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        channels: usize,
        groups: usize,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            weight: loader.vectors(&[(format!("{name}.weight"), channels)])?,
            bias: loader.vectors(&[(format!("{name}.bias"), channels)])?,
            channels,
            groups,
        })
    }

    fn sizes(&self, size: Size) -> Groups {
        Groups {
            height: size.height,
            width: size.width,
            channels: size.channels,
            stride: size.stride(),
            groups: self.groups,
        }
    }

    pub(super) fn needs(&self, size: Size) -> Needs {
        Needs {
            statistics: self.sizes(size).scratch(),
            ..Needs::default()
        }
    }

    /// Rows that are added up together.
    pub(super) fn rows_together(&self, size: Size) -> usize {
        self.sizes(size).rows_together()
    }

    /// Adds up some rows of an image of a size, of which x holds these alone.
    pub(super) fn add_up(
        &self,
        compute: &Compute,
        whole: Size,
        rows: (usize, usize),
        x: Region,
        statistics: Region,
    ) -> Result<(), GpuError> {
        group_norm::add_up(&compute.gpu, self.sizes(whole), rows, x, statistics)
    }

    /// Makes statistics of what was added up of every row.
    pub(super) fn settle(
        &self,
        compute: &Compute,
        whole: Size,
        statistics: Region,
    ) -> Result<(), GpuError> {
        group_norm::settle(&compute.gpu, self.sizes(whole), statistics)
    }

    /// `y = norm(x)` by statistics, through silu. y may be x.
    pub(super) fn apply(
        &self,
        compute: &Compute,
        size: Size,
        images: (Region, Region),
        statistics: Region,
    ) -> Result<(), GpuError> {
        let weights = (self.weight, self.bias);
        let sizes = self.sizes(size);
        group_norm::apply(&compute.gpu, sizes, images, weights, statistics, true)
    }

    /// `y = norm(x)`, through silu with `activate`. y may be x.
    pub(super) fn run(
        &self,
        compute: &Compute,
        size: Size,
        (y, x): (Region, Region),
        statistics: Region,
        activate: bool,
    ) -> Result<(), GpuError> {
        let weights = (self.weight, self.bias);
        group_norm(
            &compute.gpu,
            self.sizes(size),
            (y, x),
            weights,
            statistics,
            activate,
        )
    }
}

/// A convolution's weights.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    weight: Region,
    bias: Region,
    pub(super) inputs: usize,
    outputs: usize,
    pub(super) kernel: usize,
}

impl Conv {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        (inputs, outputs): (usize, usize),
        kernel: usize,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            weight: loader.kernels(&format!("{name}.weight"), [outputs, inputs, kernel])?,
            bias: loader.vector(&format!("{name}.bias"), outputs)?,
            inputs,
            outputs,
            kernel,
        })
    }

    fn sizes(&self, size: Size) -> Convolution {
        Convolution {
            height: size.height,
            width: size.width,
            inputs: self.inputs.next_multiple_of(8),
            outputs: self.outputs.next_multiple_of(8),
            kernel: self.kernel,
            residual: false,
            halving: false,
        }
    }

    /// An image of the size of `x`.
    pub(super) fn run(
        &self,
        compute: &Compute,
        size: Size,
        y: Region,
        x: Region,
        residual: Option<Region>,
    ) -> Result<(), GpuError> {
        let convolution = Convolution {
            residual: residual.is_some(),
            ..self.sizes(size)
        };
        let weights = (self.weight, self.bias);
        compute.dnn.convolve(convolution, y, x, weights, residual)
    }

    /// An image of half the rows and columns of `x`.
    pub(super) fn halve(
        &self,
        compute: &Compute,
        size: Size,
        y: Region,
        x: Region,
    ) -> Result<(), GpuError> {
        let convolution = Convolution {
            halving: true,
            ..self.sizes(size)
        };
        let weights = (self.weight, self.bias);
        compute.dnn.convolve(convolution, y, x, weights, None)
    }

    /// The size of what it makes.
    pub(super) const fn after(&self, size: Size) -> Size {
        Size {
            channels: self.outputs,
            ..size
        }
    }
}

/// diffusers' `ResnetBlock2D` without a time embedding.
pub(super) struct Resnet {
    pub(super) norm1: Norm,
    pub(super) conv1: Conv,
    pub(super) norm2: Norm,
    pub(super) conv2: Conv,
    pub(super) conv_shortcut: Option<Conv>,
}

impl Resnet {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        name: &str,
        (from, to): (usize, usize),
        groups: usize,
    ) -> Result<Self, LoadError> {
        let part = |part: &str| format!("{name}.{part}");
        Ok(Self {
            norm1: Norm::load(loader, &part("norm1"), from, groups)?,
            conv1: Conv::load(loader, &part("conv1"), (from, to), 3)?,
            norm2: Norm::load(loader, &part("norm2"), to, groups)?,
            conv2: Conv::load(loader, &part("conv2"), (to, to), 3)?,
            conv_shortcut: match from == to {
                true => None,
                false => Some(Conv::load(loader, &part("conv_shortcut"), (from, to), 1)?),
            },
        })
    }

    pub(super) const fn after(&self, size: Size) -> Size {
        self.conv2.after(size)
    }
}

/// Layers without weights, to see what memory they need.
#[cfg(test)]
pub(super) mod sized {
    use super::{Conv, Norm, Region, Resnet};

    pub(in crate::vae) const fn norm(channels: usize) -> Norm {
        Norm {
            weight: Region::NONE,
            bias: Region::NONE,
            channels,
            groups: 32,
        }
    }

    pub(in crate::vae) const fn conv((inputs, outputs): (usize, usize), kernel: usize) -> Conv {
        Conv {
            weight: Region::NONE,
            bias: Region::NONE,
            inputs,
            outputs,
            kernel,
        }
    }

    pub(in crate::vae) fn resnet((from, to): (usize, usize)) -> Resnet {
        Resnet {
            norm1: norm(from),
            conv1: conv((from, to), 3),
            norm2: norm(to),
            conv2: conv((to, to), 3),
            conv_shortcut: (from != to).then(|| conv((from, to), 1)),
        }
    }
}
