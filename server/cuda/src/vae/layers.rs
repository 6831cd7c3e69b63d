//! Norms, convolutions and residual blocks.

use super::{Needs, Size, Work};
use crate::compute::Compute;
use crate::dnn::Convolution;
use crate::error::{GpuError, LoadError};
use crate::memory::Region;
use crate::ops::group_norm::{Groups, group_norm};
use crate::weights::Loader;

/// A group norm's weights.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    weight: Region,
    bias: Region,
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
            groups,
        })
    }

    fn sizes(&self, size: Size) -> Groups {
        Groups {
            pixels: size.pixels(),
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
    inputs: usize,
    outputs: usize,
    kernel: usize,
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
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    conv_shortcut: Option<Conv>,
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

    pub(super) fn needs(&self, size: Size) -> Needs {
        let after = self.after(size);
        let mut needs = Needs {
            image: size.bytes().max(after.bytes()),
            inner: after.bytes(),
            ..Needs::default()
        };
        needs.at_least(self.norm1.needs(size));
        needs.at_least(self.norm2.needs(after));
        needs
    }

    /// From `work.x` to `work.x`.
    pub(super) fn run(
        &self,
        compute: &Compute,
        size: Size,
        work: &mut Work,
    ) -> Result<Size, GpuError> {
        let after = self.after(size);
        self.norm1
            .run(compute, size, (work.spare, work.x), work.statistics, true)?;
        self.conv1
            .run(compute, size, work.inner, work.spare, None)?;
        self.norm2.run(
            compute,
            after,
            (work.inner, work.inner),
            work.statistics,
            true,
        )?;
        match &self.conv_shortcut {
            Some(shortcut) => {
                shortcut.run(compute, size, work.spare, work.x, None)?;
                self.conv2
                    .run(compute, after, work.x, work.inner, Some(work.spare))?;
            }
            None => {
                self.conv2
                    .run(compute, after, work.spare, work.inner, Some(work.x))?;
                work.swap();
            }
        }
        Ok(after)
    }
}
