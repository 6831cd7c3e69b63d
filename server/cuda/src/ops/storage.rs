//! Between storage formats.

use super::{BF16, F32, grid};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use zimage_checkpoint::DType;

/// Blocks that fill any GPU; each thread does several numbers.
const BLOCKS: usize = 1024;

/// `y = x`, rounded to bfloat16, from float32 or float16. The regions must not overlap.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn to_bf16(gpu: &Gpu, y: Region, x: Region, from: DType, count: usize) -> Result<(), GpuError> {
    y.require(count * BF16)?;
    let kernel = match from {
        DType::BF16 => return gpu.copy(y, x, count * BF16),
        DType::F32 => {
            x.require(count * F32)?;
            "f32_to_bf16"
        }
        DType::F16 => {
            x.require(count * BF16)?;
            "f16_to_bf16"
        }
    };
    let (y, x, length) = (y.pointer(), x.pointer(), count as u64);
    let mut launch = gpu.kernel(kernel)?;
    launch.arg(&y).arg(&x).arg(&length);
    // SAFETY: the arguments are those of both kernels, which stop at the count; both regions hold as many.
    unsafe { launch.launch(grid(BLOCKS, super::THREADS)) }
}
