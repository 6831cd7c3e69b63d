//! Group norm of images, through silu when asked for: in one go, or part by part where an image is never there as a whole.

use super::{BF16, F32, THREADS, each, grid, vectors};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use cudarc::driver::LaunchConfig;

/// Epsilon of diffusers' autoencoder.
const EPS: f32 = 1e-6;

/// Parts of an image that are added up apart, at most.
const CHUNKS: usize = 512;

/// An image and its groups.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Rows of the image.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
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

    const fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Rows that are added up together. Strips of an image that begin with one of these add up as the image does.
    pub const fn rows_together(self) -> usize {
        self.height.div_ceil(CHUNKS)
    }

    /// Pixels that are added up together: some rows, or an even part of one.
    fn chunk(self) -> usize {
        let parts = [8, 4, 2].into_iter();
        let mut fit = parts
            .filter(|parts| self.height * parts <= CHUNKS && self.width.is_multiple_of(*parts));
        match fit.next() {
            Some(parts) => self.width / parts,
            None => self.width * self.rows_together(),
        }
    }

    fn check(self) -> Result<(), GpuError> {
        let Self {
            channels,
            stride,
            groups,
            ..
        } = self;
        if stride > 2048 || channels > stride || groups == 0 || !channels.is_multiple_of(groups) {
            return Err(GpuError::Bounds(format!(
                "{channels} of {stride} channels in {groups} groups"
            )));
        }
        Ok(())
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
    images: (Region, Region),
    weights: (Region, Region),
    scratch: Region,
    activate: bool,
) -> Result<(), GpuError> {
    add_up(gpu, size, (0, size.height), images.1, scratch)?;
    settle(gpu, size, scratch)?;
    apply(gpu, size, images, weights, scratch, activate)
}

/// Adds up some rows of an image, of which `x` holds these alone: from a row that begins a chunk
/// ([`Groups::rows_together`]), and as many.
///
/// # Errors
/// When a region is too small, rows begin within a chunk, or the driver reports a fault.
pub fn add_up(
    gpu: &Gpu,
    whole: Groups,
    (first, rows): (usize, usize),
    x: Region,
    scratch: Region,
) -> Result<(), GpuError> {
    whole.check()?;
    scratch.require(whole.scratch())?;
    let pixels = rows * whole.width;
    x.require(pixels * whole.stride * BF16)?;
    let chunk = whole.chunk();
    let before = first * whole.width;
    if !before.is_multiple_of(chunk) || first + rows > whole.height {
        return Err(GpuError::Bounds(format!(
            "{rows} rows from {first} of {} are no chunks of {chunk} pixels",
            whole.height
        )));
    }
    let row = whole.groups * 2 * F32;
    let sums = scratch.pointer() + ((1 + before / chunk) * row) as u64;
    let x = x.pointer();
    let [channels, stride, groups] =
        [whole.channels, whole.stride, whole.groups].map(|size| size as i32);
    let (all_pixels, chunk_pixels) = (pixels as u64, chunk as u64);
    let mut launch = gpu.kernel("group_norm_sums")?;
    launch
        .arg(&sums)
        .arg(&x)
        .arg(&all_pixels)
        .arg(&channels)
        .arg(&stride)
        .arg(&groups)
        .arg(&chunk_pixels);
    let shared = LaunchConfig {
        shared_mem_bytes: (2 * THREADS * 8 * F32) as u32,
        ..grid(pixels.div_ceil(chunk), THREADS)
    };
    // SAFETY: the arguments are the kernel's; x holds every pixel, the scratch memory a sum for each chunk and group,
    // and the shared memory two numbers for each channel of the rows that 256 threads take, at most 2048 channels.
    unsafe { launch.launch(shared) }
}

/// Makes the image's statistics of the sums of all its rows.
///
/// # Errors
/// When the scratch memory is too small or the driver reports a fault.
pub fn settle(gpu: &Gpu, whole: Groups, scratch: Region) -> Result<(), GpuError> {
    whole.check()?;
    scratch.require(whole.scratch())?;
    let statistics = scratch.pointer();
    let sums = statistics + (whole.groups * 2 * F32) as u64;
    let count = (whole.pixels() * (whole.channels / whole.groups)) as f64;
    let chunks = whole.pixels().div_ceil(whole.chunk()) as i32;
    let groups = whole.groups as i32;
    let mut launch = gpu.kernel("group_norm_statistics")?;
    launch
        .arg(&statistics)
        .arg(&sums)
        .arg(&chunks)
        .arg(&groups)
        .arg(&count)
        .arg(&EPS);
    // SAFETY: the arguments are the kernel's; the scratch memory holds the sums and two numbers for each group.
    unsafe { launch.launch(grid(whole.groups, 32)) }
}

/// Norms an image, or a part of one as large as `size` says, by the statistics of the whole.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn apply(
    gpu: &Gpu,
    size: Groups,
    (y, x): (Region, Region),
    (weight, bias): (Region, Region),
    scratch: Region,
    activate: bool,
) -> Result<(), GpuError> {
    size.check()?;
    for image in [y, x] {
        image.require(size.pixels() * size.stride * BF16)?;
    }
    for vector in [weight, bias] {
        vector.require(size.stride * F32)?;
    }
    scratch.require(size.scratch())?;
    let image_vectors = size.pixels() * vectors(size.stride)?;
    let (y, x, statistics) = (y.pointer(), x.pointer(), scratch.pointer());
    let (weight, bias) = (weight.pointer(), bias.pointer());
    let [channels, stride, groups] =
        [size.channels, size.stride, size.groups].map(|size| size as i32);
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
        .arg(&channels)
        .arg(&stride)
        .arg(&groups)
        .arg(&activate);
    // SAFETY: the arguments are the kernel's, which stops at the last vector; images, weights and statistics were
    // checked above.
    unsafe { launch.launch(each(image_vectors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(height: usize, width: usize) -> Groups {
        Groups {
            height,
            width,
            channels: 128,
            stride: 128,
            groups: 32,
        }
    }

    #[test]
    fn an_image_has_at_most_as_many_chunks_as_there_is_room_for() {
        for (height, width) in [
            (1, 1),
            (2, 2),
            (64, 64),
            (65, 70),
            (512, 512),
            (1000, 8),
            (2048, 2048),
            (3000, 16),
        ] {
            let image = image(height, width);
            assert!(
                image.pixels().div_ceil(image.chunk()) <= CHUNKS,
                "{height}x{width}"
            );
        }
    }

    #[test]
    fn chunks_are_whole_rows_or_even_parts_of_one() {
        for (height, width) in [
            (2, 2),
            (64, 64),
            (65, 70),
            (512, 512),
            (1536, 1008),
            (2048, 2048),
        ] {
            let image = image(height, width);
            let strip = image.rows_together() * width;
            assert!(strip.is_multiple_of(image.chunk()), "{height}x{width}");
        }
    }
}
