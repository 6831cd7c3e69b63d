//! Latents, patches, and steps of the schedule; everything is float32.

use super::{BF16, F32, each, grid};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;

/// Latents of `rows` x `columns` patches of two by two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patches {
    /// Channels of the latents.
    pub channels: usize,
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
}

impl Patches {
    /// Patches.
    pub const fn count(self) -> usize {
        self.rows * self.columns
    }

    /// Numbers of a patch.
    pub const fn width(self) -> usize {
        4 * self.channels
    }

    /// Numbers of the latents.
    pub const fn numbers(self) -> usize {
        self.count() * self.width()
    }
}

/// Latents (channels, height, width) to patches (count, width) in bfloat16.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn patchify(gpu: &Gpu, patches: Patches, y: Region, latents: Region) -> Result<(), GpuError> {
    y.require(patches.numbers() * BF16)?;
    latents.require(patches.numbers() * F32)?;
    rearrange(gpu, "patchify", patches, y, latents)
}

/// Patches (count, width) in float32 to latents (channels, height, width).
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn unpatchify(gpu: &Gpu, patches: Patches, latents: Region, x: Region) -> Result<(), GpuError> {
    latents.require(patches.numbers() * F32)?;
    x.require(patches.numbers() * F32)?;
    rearrange(gpu, "unpatchify", patches, latents, x)
}

/// Callers have checked the regions' sizes.
fn rearrange(
    gpu: &Gpu,
    kernel: &'static str,
    patches: Patches,
    y: Region,
    x: Region,
) -> Result<(), GpuError> {
    let (y, x) = (y.pointer(), x.pointer());
    let [channels, rows, columns] =
        [patches.channels, patches.rows, patches.columns].map(|size| size as i32);
    let mut launch = gpu.kernel(kernel)?;
    launch
        .arg(&y)
        .arg(&x)
        .arg(&channels)
        .arg(&rows)
        .arg(&columns);
    // SAFETY: the arguments are those of both kernels, which stop at the last number; the callers checked the regions.
    unsafe { launch.launch(each(patches.numbers())) }
}

/// `latents -= delta * prediction`.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn euler_step(
    gpu: &Gpu,
    latents: Region,
    prediction: Region,
    delta: f32,
    count: usize,
) -> Result<(), GpuError> {
    latents.require(count * F32)?;
    prediction.require(count * F32)?;
    let (latents, prediction, length) = (latents.pointer(), prediction.pointer(), count as u64);
    let mut launch = gpu.kernel("euler_step")?;
    launch
        .arg(&latents)
        .arg(&prediction)
        .arg(&delta)
        .arg(&length);
    // SAFETY: the arguments are the kernel's, which stops at the count; both regions hold as many.
    unsafe { launch.launch(each(count)) }
}

/// An image that is kept where the mask says so, and its noise.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Latents of the image.
    pub image: Region,
    /// As many numbers.
    pub noise: Region,
    /// A number for each pixel of the latents: 1 where they are replaced, 0 where the image is kept.
    pub mask: Region,
}

/// `latents = mask * latents + (1 - mask) * (sigma * noise + (1 - sigma) * image)`.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn keep(
    gpu: &Gpu,
    patches: Patches,
    latents: Region,
    kept: Kept,
    sigma: f32,
) -> Result<(), GpuError> {
    let (count, pixels) = (patches.numbers(), 4 * patches.count());
    for region in [latents, kept.image, kept.noise] {
        region.require(count * F32)?;
    }
    kept.mask.require(pixels * F32)?;
    let [latents, image, noise, mask] =
        [latents, kept.image, kept.noise, kept.mask].map(Region::pointer);
    let (pixels, length) = (pixels as u64, count as u64);
    let mut launch = gpu.kernel("keep")?;
    launch.arg(&latents).arg(&image).arg(&noise).arg(&mask);
    launch.arg(&sigma).arg(&pixels).arg(&length);
    // SAFETY: the arguments are the kernel's, which stops at the count; every region holds as many, the mask one a pixel.
    unsafe { launch.launch(each(count)) }
}

/// `positive += scale * (positive - negative)`, then no longer than `most` times the length that it had; 0: any length.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn guide(
    gpu: &Gpu,
    positive: Region,
    negative: Region,
    (scale, most): (f32, f32),
    count: usize,
) -> Result<(), GpuError> {
    positive.require(count * F32)?;
    negative.require(count * F32)?;
    let (positive, negative, length) = (positive.pointer(), negative.pointer(), count as u64);
    let mut launch = gpu.kernel("guide")?;
    launch
        .arg(&positive)
        .arg(&negative)
        .arg(&scale)
        .arg(&most)
        .arg(&length);
    // SAFETY: the arguments are the kernel's, which stops at the count and is made for one block of 1024 threads; both
    // regions hold as many.
    unsafe { launch.launch(grid(1, 1024)) }
}
