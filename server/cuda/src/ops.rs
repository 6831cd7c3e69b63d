//! Operations on device memory. Each checks that its regions are large enough for the sizes that it is given, puts its
//! work on the GPU's stream and returns at once.
//!
//! Tensors are row by row in bfloat16 unless a name says otherwise; widths are multiples of eight.

pub mod attention;
pub mod embed;
pub mod group_norm;
pub mod hopper;
pub mod image;
pub mod norm;
pub mod png;
pub mod quantise;
pub mod rope;
pub mod sampler;
pub mod storage;

use crate::error::GpuError;
pub(crate) use crate::shapes::{BF16, F32};
use cudarc::driver::LaunchConfig;

/// Threads of a block where each does one of many.
const THREADS: usize = 256;

/// One thread for each of `count`.
fn each(count: usize) -> LaunchConfig {
    grid(count.div_ceil(THREADS), THREADS)
}

fn grid(blocks: usize, threads: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// How many vectors of eight numbers a row has.
fn vectors(width: usize) -> Result<usize, GpuError> {
    if width.is_multiple_of(8) {
        return Ok(width / 8);
    }
    Err(GpuError::Bounds(format!(
        "a row of {width} numbers is no multiple of eight"
    )))
}
