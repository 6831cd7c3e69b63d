//! diffusers' `AutoencoderKL` in bfloat16: images are (height, width, channels), channels filled up to multiples of eight.

mod attention;
mod decoder;
mod encoder;
mod layers;
mod steps;
mod strips;

pub(crate) use decoder::Decoder;
pub use decoder::decoded_in_strips;
pub(crate) use encoder::Encoder;

use crate::compute::Compute;
use crate::error::{GpuError, LoadError};
use crate::memory::{Layout, Region};
use crate::ops::BF16;
use steps::{Measured, Place, Steps};
use zimage_checkpoint::config::VaeConfig;

/// The channels of a pixel are at most these, which is what the group norm's shared memory holds.
const MOST_CHANNELS: usize = 2048;

/// An image of some channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    height: usize,
    width: usize,
    channels: usize,
}

impl Size {
    const fn pixels(self) -> usize {
        self.height * self.width
    }

    const fn stride(self) -> usize {
        self.channels.next_multiple_of(8)
    }

    const fn bytes(self) -> usize {
        self.pixels() * self.stride() * BF16
    }
}

/// Memory that the layers of one half pass images through.
#[derive(Clone, Copy)]
struct Work {
    /// The image between two layers.
    x: Region,
    /// As large as `x`; layers may swap the two.
    spare: Region,
    /// Within a layer.
    inner: Region,
    /// Sums of the group norms.
    statistics: Region,
}

impl Work {
    fn swap(&mut self) {
        std::mem::swap(&mut self.x, &mut self.spare);
    }

    /// Takes steps from `x` to `x`.
    fn take(&mut self, steps: &Steps<'_>, compute: &Compute, size: Size) -> Result<(), GpuError> {
        let mut statistics = Measured {
            compute,
            scratch: self.statistics,
        };
        steps.run(compute, size, self, &mut statistics)?;
        if steps.image() == Place::Spare {
            self.swap();
        }
        Ok(())
    }

    const fn at(&self, place: Place) -> Region {
        match place {
            Place::X => self.x,
            Place::Spare => self.spare,
            Place::Inner => self.inner,
        }
    }
}

/// What the largest layers need.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    image: usize,
    inner: usize,
    statistics: usize,
}

impl Needs {
    fn at_least(&mut self, other: Self) {
        self.image = self.image.max(other.image);
        self.inner = self.inner.max(other.inner);
        self.statistics = self.statistics.max(other.statistics);
    }

    fn lay_out(self, layout: &mut Layout) -> Result<Work, GpuError> {
        Ok(Work {
            x: layout.take(self.image)?,
            spare: layout.take(self.image)?,
            inner: layout.take(self.inner)?,
            statistics: layout.take(self.statistics)?,
        })
    }
}

fn supported(config: &VaeConfig) -> Result<(), LoadError> {
    match config.block_out_channels.iter().max() {
        Some(&most) if most > MOST_CHANNELS => Err(LoadError::Unsupported(format!(
            "the VAE has {most} channels; {MOST_CHANNELS} at most are computed"
        ))),
        _ => Ok(()),
    }
}
