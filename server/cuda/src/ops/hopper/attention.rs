//! Attention after FlashAttention-3.

use super::{Map, available};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::matrix::Matrix;
use crate::memory::Region;
use crate::shapes::Attention;
use crate::shapes::Heads;
use cudarc::driver::{DeviceRepr, LaunchConfig};
use std::f32::consts::LOG2_E;

/// Numbers of a head.
const WIDTH: usize = 128;

/// Rows of a box of queries and results, and of keys and values.
const BOX_ROWS: (usize, usize) = (64, 128);

/// One thread group that reads and two that multiply.
const THREADS: usize = 384;

/// Five blocks of 128 keys or values, queries of two pairs, barriers, and what alignment takes.
const SHARED_BYTES: usize = 5 * (32 << 10) + 4 * (16 << 10) + 112 + 1024;

/// The kernel's sizes; `Sizes` of hopper_attention.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sizes {
    tokens: i32,
    heads: i32,
    kv_heads: i32,
    scale: f32,
}

// SAFETY: three integers and a number, as the kernel declares them.
unsafe impl DeviceRepr for Sizes {}

/// Whether the GPU has the instructions, and the kernel serves the attention.
pub fn serves(gpu: &Gpu, attention: Attention) -> bool {
    available(gpu) && attention.heads.width == WIDTH && !attention.causal
}

/// Scaled dot-product attention of every token to every token over fused rows of (q | k | v), with heads of 128 numbers,
/// into rows of heads.
///
/// # Errors
/// When a head is not 128 wide, a region is too small, or the driver reports a fault.
pub fn attend(gpu: &Gpu, heads: Heads, y: Region, rows: Region) -> Result<(), GpuError> {
    let Heads {
        tokens,
        heads: q_heads,
        kv_heads,
        width,
    } = heads;
    if width != WIDTH {
        let problem = format!("a head of {width} numbers is not {WIDTH} wide");
        return Err(GpuError::Bounds(problem));
    }
    let rows = Matrix::bf16(rows, (tokens, heads.row()))?;
    let queries = Map::new(rows, BOX_ROWS.0)?;
    let keys = Map::new(rows, BOX_ROWS.1)?;
    let y = Map::new(Matrix::bf16(y, (tokens, q_heads * width))?, BOX_ROWS.0)?;
    let sizes = Sizes {
        tokens: tokens as i32,
        heads: q_heads as i32,
        kv_heads: kv_heads as i32,
        scale: LOG2_E / (width as f32).sqrt(),
    };
    let pairs = (tokens.div_ceil(BOX_ROWS.0) * q_heads).div_ceil(2);
    let mut launch = gpu.kernel_with_memory("attention_of_pairs", SHARED_BYTES)?;
    launch.arg(&queries).arg(&keys).arg(&y).arg(&sizes);
    let config = LaunchConfig {
        // Each block takes pair after pair.
        grid_dim: (gpu.properties().multiprocessors.min(pairs) as u32, 1, 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: SHARED_BYTES as u32,
    };
    // SAFETY: the arguments are the kernel's, and the copy engine stays within the matrices, which were checked.
    unsafe { launch.launch(config) }
}
