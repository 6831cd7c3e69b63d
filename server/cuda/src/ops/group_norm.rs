//! Group norm of images, through silu when asked for.

use super::{BF16, F32, THREADS, each, grid, vectors};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use cudarc::driver::{LaunchConfig, PushKernelArg as _};

/// Epsilon of diffusers' autoencoder.
const EPS: f32 = 1e-6;

/// Parts of an image that are added up apart.
const CHUNKS: usize = 512;

/// An image and its groups.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Height times width.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
    /// Channels with the padding: a multiple of eight, at most 2048.
    pub stride: usize,
    /// Groups of channels.
    pub groups: usize,
}

impl Groups {
    /// Bytes of scratch memory that the norm needs.
    pub const fn scratch(self) -> usize {
        (CHUNKS + 1) * self.groups * 2 * F32
    }
}

/// `y = group_norm(x) * weight + bias`, through silu with `activate`. `weight` and `bias` are float32 with zeros behind
/// the last channel. y may be x.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn group_norm(
    gpu: &Gpu,
    size: Groups,
    (y, x): (Region, Region),
    (weight, bias): (Region, Region),
    scratch: Region,
    activate: bool,
) -> Result<(), GpuError> {
    let Groups {
        pixels,
        channels,
        stride,
        groups,
    } = size;
    for image in [y, x] {
        image.require(pixels * stride * BF16)?;
    }
    for vector in [weight, bias] {
        vector.require(stride * F32)?;
    }
    if stride > 2048 || channels > stride || groups == 0 || !channels.is_multiple_of(groups) {
        return Err(GpuError::Bounds(format!(
            "{channels} of {stride} channels in {groups} groups"
        )));
    }
    scratch.require(size.scratch())?;
    let image_vectors = pixels * vectors(stride)?;
    let chunk = pixels.div_ceil(CHUNKS).max(1);
    let chunks = pixels.div_ceil(chunk);
    let statistics = scratch.pointer();
    let sums = statistics + (groups * 2 * F32) as u64;
    let (y, x, weight, bias) = (y.pointer(), x.pointer(), weight.pointer(), bias.pointer());
    let (own, all, parts) = (channels as i32, stride as i32, groups as i32);

    let (all_pixels, chunk_pixels) = (pixels as u64, chunk as u64);
    let mut launch = gpu.kernel("group_norm_sums")?;
    launch
        .arg(&sums)
        .arg(&x)
        .arg(&all_pixels)
        .arg(&own)
        .arg(&all)
        .arg(&parts)
        .arg(&chunk_pixels);
    let shared = LaunchConfig {
        shared_mem_bytes: (2 * THREADS * 8 * F32) as u32,
        ..grid(chunks, THREADS)
    };
    // SAFETY: the arguments are the kernel's; x holds every pixel, the scratch memory a sum for each chunk and group,
    // and the shared memory two numbers for each channel of the rows that 256 threads take, at most 2048 channels.
    unsafe { launch.launch(shared) }?;

    let (count, chunks) = ((pixels * (channels / groups)) as f64, chunks as i32);
    let mut launch = gpu.kernel("group_norm_statistics")?;
    launch
        .arg(&statistics)
        .arg(&sums)
        .arg(&chunks)
        .arg(&parts)
        .arg(&count)
        .arg(&EPS);
    // SAFETY: the arguments are the kernel's; the scratch memory holds the sums and two numbers for each group.
    unsafe { launch.launch(grid(groups, 32)) }?;

    let (length, activate) = (image_vectors as u64, i32::from(activate));
    let mut launch = gpu.kernel("group_norm_apply")?;
    launch
        .arg(&y)
        .arg(&x)
        .arg(&statistics)
        .arg(&weight)
        .arg(&bias);
    launch
        .arg(&length)
        .arg(&own)
        .arg(&all)
        .arg(&parts)
        .arg(&activate);
    // SAFETY: the arguments are the kernel's, which stops at the last vector; images, weights and statistics were
    // checked above.
    unsafe { launch.launch(each(image_vectors)) }?;
    Ok(())
}
