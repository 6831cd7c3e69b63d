//! Images (height, width, stride) of the decoder.

use super::{BF16, F32, each, vectors};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;

/// Latents' place among images: `channels` of `stride` channels are theirs, the others are zero.
#[derive(Clone, Copy, Debug)]
pub struct Latents {
    /// Height times width.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
    /// Channels with the padding.
    pub stride: usize,
}

/// `y = latents / scaling + shift`, from (channels, pixels) in float32 to an image.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn from_latents(
    gpu: &Gpu,
    size: Latents,
    y: Region,
    latents: Region,
    (scaling, shift): (f32, f32),
) -> Result<(), GpuError> {
    let Latents {
        pixels,
        channels,
        stride,
    } = size;
    y.require(pixels * stride * BF16)?;
    latents.require(pixels * channels * F32)?;
    let (y, latents, length) = (y.pointer(), latents.pointer(), pixels as u64);
    let (own, all) = (channels as i32, stride as i32);
    let mut launch = gpu.kernel("latents_to_image")?;
    launch
        .arg(&y)
        .arg(&latents)
        .arg(&length)
        .arg(&own)
        .arg(&all)
        .arg(&scaling)
        .arg(&shift);
    // SAFETY: the arguments are the kernel's, which stops at the last number; both regions hold every pixel.
    unsafe { launch.launch(each(pixels * stride)) }
}

/// Twice the height and width of an image, each pixel repeated.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn upsample(
    gpu: &Gpu,
    y: Region,
    x: Region,
    (height, width, stride): (usize, usize, usize),
) -> Result<(), GpuError> {
    x.require(height * width * stride * BF16)?;
    y.require(4 * height * width * stride * BF16)?;
    let pixel = vectors(stride)?;
    let count = 4 * height * width * pixel;
    let (y, x, columns, pixel, length) = (
        y.pointer(),
        x.pointer(),
        width as i32,
        pixel as i32,
        count as u64,
    );
    let mut launch = gpu.kernel("upsample")?;
    launch
        .arg(&y)
        .arg(&x)
        .arg(&columns)
        .arg(&pixel)
        .arg(&length);
    // SAFETY: the arguments are the kernel's, which stops at the count; both regions hold their images.
    unsafe { launch.launch(each(count)) }
}

/// Where an image's bytes go.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// Three of each pixel.
    pub rgb: Region,
    /// A 32-bit number, which becomes 1 where a value is no number.
    pub broken: Region,
}

impl Bytes {
    /// Bytes of so many pixels, a multiple of four, with the number behind them.
    pub const fn size(pixels: usize) -> usize {
        3 * pixels + size_of::<u32>()
    }

    /// Within a region of that size.
    ///
    /// # Errors
    /// When it is smaller.
    pub fn within(region: Region, pixels: usize) -> Result<Self, GpuError> {
        Ok(Self {
            rgb: region.part(0, 3 * pixels)?,
            broken: region.part(3 * pixels, size_of::<u32>())?,
        })
    }
}

/// The first three channels of an image from -1 to 1 as bytes, rounded as diffusers rounds.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn to_bytes(
    gpu: &Gpu,
    y: Bytes,
    x: Region,
    (pixels, stride): (usize, usize),
) -> Result<(), GpuError> {
    y.rgb.require(pixels * 3)?;
    y.broken.require(size_of::<u32>())?;
    x.require(pixels * stride * BF16)?;
    let (y, broken, x) = (y.rgb.pointer(), y.broken.pointer(), x.pointer());
    let (length, all) = (pixels as u64, stride as i32);
    let mut launch = gpu.kernel("image_to_bytes")?;
    launch.arg(&y).arg(&broken).arg(&x).arg(&length).arg(&all);
    // SAFETY: the arguments are the kernel's, which stops at the last byte; both images hold every pixel.
    unsafe { launch.launch(each(pixels * 3)) }
}
