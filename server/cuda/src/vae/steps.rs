//! Layers one after the other, over a whole image or over a strip of its rows.

use super::layers::{Conv, Norm, Resnet};
use super::{Needs, Size, Work};
use crate::compute::Compute;
use crate::error::GpuError;
use crate::memory::Region;
use crate::ops::image::upsample;

/// One of the work's three images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    X,
    Spare,
    Inner,
}

enum Step<'a> {
    /// A norm, through silu.
    Norm(&'a Norm, Place, Place),
    /// A convolution, with what is added to it.
    Conv(&'a Conv, Place, Place, Option<Place>),
    /// Twice the rows and columns, of so many channels.
    Upsample(Place, Place, usize),
}

impl Step<'_> {
    /// Where it puts its image.
    const fn to(&self) -> Place {
        match self {
            Self::Norm(_, _, to) | Self::Conv(_, _, to, _) | Self::Upsample(_, to, _) => *to,
        }
    }

    /// Channels of what it reads.
    const fn channels(&self) -> usize {
        match self {
            Self::Norm(norm, ..) => norm.channels,
            Self::Conv(conv, ..) => conv.inputs,
            Self::Upsample(.., channels) => *channels,
        }
    }

    /// The size of what it makes of an image.
    const fn after(&self, size: Size) -> Size {
        match self {
            Self::Norm(..) => size,
            Self::Conv(conv, ..) => conv.after(size),
            Self::Upsample(..) => Size {
                height: 2 * size.height,
                width: 2 * size.width,
                ..size
            },
        }
    }

    /// Rows beside its own that a row of its image depends on, on each side.
    const fn reach(&self) -> usize {
        match self {
            Self::Conv(conv, ..) => conv.kernel / 2,
            Self::Norm(..) | Self::Upsample(..) => 0,
        }
    }
}

/// Where a norm finds the statistics of its image.
pub(super) trait Statistics {
    /// Of the norm with a number, whose input is `x`. Nothing: the steps end here.
    fn of(
        &mut self,
        number: usize,
        norm: &Norm,
        size: Size,
        x: Region,
    ) -> Result<Option<Region>, GpuError>;
}

/// Statistics of images that are there as a whole, which are measured when they are asked for.
pub(super) struct Measured<'a> {
    pub(super) compute: &'a Compute,
    pub(super) scratch: Region,
}

impl Statistics for Measured<'_> {
    fn of(
        &mut self,
        _: usize,
        norm: &Norm,
        size: Size,
        x: Region,
    ) -> Result<Option<Region>, GpuError> {
        let rows = (0, size.height);
        norm.add_up(self.compute, size, rows, x, self.scratch)?;
        norm.settle(self.compute, size, self.scratch)?;
        Ok(Some(self.scratch))
    }
}

/// Layers, and where their image is.
pub(super) struct Steps<'a> {
    list: Vec<Step<'a>>,
    /// Before the next step that is added.
    x: Place,
    spare: Place,
}

impl<'a> Steps<'a> {
    /// None, of an image at the work's x.
    pub(super) const fn new() -> Self {
        Self {
            list: Vec::new(),
            x: Place::X,
            spare: Place::Spare,
        }
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.x, &mut self.spare);
    }

    pub(super) fn resnet(&mut self, resnet: &'a Resnet) {
        let (x, spare, inner) = (self.x, self.spare, Place::Inner);
        self.list.push(Step::Norm(&resnet.norm1, x, spare));
        self.list
            .push(Step::Conv(&resnet.conv1, spare, inner, None));
        self.list.push(Step::Norm(&resnet.norm2, inner, inner));
        match &resnet.conv_shortcut {
            Some(shortcut) => {
                self.list.push(Step::Conv(shortcut, x, spare, None));
                self.list
                    .push(Step::Conv(&resnet.conv2, inner, x, Some(spare)));
            }
            None => {
                self.list
                    .push(Step::Conv(&resnet.conv2, inner, spare, Some(x)));
                self.swap();
            }
        }
    }

    /// Twice the rows and columns, and a convolution.
    pub(super) fn upsample(&mut self, conv: &'a Conv) {
        let (x, spare) = (self.x, self.spare);
        self.list.push(Step::Upsample(x, spare, conv.inputs));
        self.list.push(Step::Conv(conv, spare, x, None));
    }

    pub(super) fn norm_and_conv(&mut self, norm: &'a Norm, conv: &'a Conv) {
        let (x, spare) = (self.x, self.spare);
        self.list.push(Step::Norm(norm, x, x));
        self.list.push(Step::Conv(conv, x, spare, None));
        self.swap();
    }

    /// Where the last step leaves its image.
    pub(super) const fn image(&self) -> Place {
        self.x
    }

    /// What the steps need of an image of a size, and the size of what they make of it.
    pub(super) fn needs(&self, size: Size) -> (Needs, Size) {
        let mut needs = Needs {
            image: size.bytes(),
            ..Needs::default()
        };
        let mut size = size;
        for step in &self.list {
            size.channels = step.channels();
            if let Step::Norm(norm, ..) = step {
                needs.at_least(norm.needs(size));
            }
            size = step.after(size);
            match step.to() {
                Place::Inner => needs.inner = needs.inner.max(size.bytes()),
                Place::X | Place::Spare => needs.image = needs.image.max(size.bytes()),
            }
        }
        (needs, size)
    }

    /// Each norm with the size of its image, of an image that begins with a size.
    pub(super) fn norms(&self, size: Size) -> Vec<(&'a Norm, Size)> {
        let (mut size, mut norms) = (size, Vec::new());
        for step in &self.list {
            size.channels = step.channels();
            if let Step::Norm(norm, ..) = step {
                norms.push((*norm, size));
            }
            size = step.after(size);
        }
        norms
    }

    /// Rows of the image that the first step reads that a row of the last one's image depends on, on each side.
    pub(super) fn reach(&self) -> usize {
        self.list.iter().rev().fold(0, |rows, step| match step {
            // A row comes of the one that it was made of, and of no other.
            Step::Upsample(..) => rows.div_ceil(2),
            _ => rows + step.reach(),
        })
    }

    /// Takes the steps over an image of a size at the work's x.
    pub(super) fn run(
        &self,
        compute: &Compute,
        size: Size,
        work: &Work,
        statistics: &mut dyn Statistics,
    ) -> Result<(), GpuError> {
        let (mut size, mut norms) = (size, 0);
        for step in &self.list {
            size.channels = step.channels();
            match *step {
                Step::Norm(norm, from, to) => {
                    let x = work.at(from);
                    let Some(known) = statistics.of(norms, norm, size, x)? else {
                        return Ok(());
                    };
                    norm.apply(compute, size, (work.at(to), x), known)?;
                    norms += 1;
                }
                Step::Conv(conv, from, to, residual) => {
                    let residual = residual.map(|place| work.at(place));
                    conv.run(compute, size, work.at(to), work.at(from), residual)?;
                }
                Step::Upsample(from, to, _) => {
                    let from_size = (size.height, size.width, size.stride());
                    upsample(&compute.gpu, work.at(to), work.at(from), from_size)?;
                }
            }
            size = step.after(size);
        }
        Ok(())
    }
}

impl Resnet {
    pub(super) fn needs(&self, size: Size) -> Needs {
        let mut steps = Steps::new();
        steps.resnet(self);
        steps.needs(size).0
    }

    /// From `work.x` to `work.x`.
    pub(super) fn run(
        &self,
        compute: &Compute,
        size: Size,
        work: &mut Work,
    ) -> Result<Size, GpuError> {
        let mut steps = Steps::new();
        steps.resnet(self);
        work.take(&steps, compute, size)?;
        Ok(self.after(size))
    }
}
