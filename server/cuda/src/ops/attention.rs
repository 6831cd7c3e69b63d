//! The engine's own attention kernels.

use super::{BF16, F32, THREADS, grid};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use crate::shapes::Heads;

/// `y = softmax(x * scale)` of the first `width` numbers of rows of `stride`, zeros behind them; x is float32.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn softmax(
    gpu: &Gpu,
    (rows, width, stride): (usize, usize, usize),
    y: Region,
    x: Region,
    scale: f32,
) -> Result<(), GpuError> {
    y.require(rows * stride * BF16)?;
    x.require(rows * stride * F32)?;
    if width > stride {
        return Err(GpuError::Bounds(format!(
            "rows of {stride} have no {width} numbers"
        )));
    }
    let (y, x, columns, all) = (y.pointer(), x.pointer(), width as i32, stride as i32);
    let mut launch = gpu.kernel("softmax")?;
    launch.arg(&y).arg(&x).arg(&scale).arg(&columns).arg(&all);
    // SAFETY: the arguments are the kernel's, and both regions hold every row.
    unsafe { launch.launch(grid(rows, 1024.min(width.next_multiple_of(32)))) }
}

/// Scaled dot-product attention over fused rows into (tokens, heads, width), slowly: for shapes that cuDNN has no plan
/// for, and to compare with.
///
/// # Errors
/// When a region is too small, a head is wider than 256, or the driver reports a fault.
pub fn plain(
    gpu: &Gpu,
    heads: Heads,
    y: Region,
    rows: Region,
    causal: bool,
) -> Result<(), GpuError> {
    rows.require(heads.bytes())?;
    y.require(heads.tokens * heads.heads * heads.width * BF16)?;
    if heads.width > 256 {
        return Err(GpuError::Bounds(format!(
            "a head of {} numbers is wider than 256",
            heads.width
        )));
    }
    let (y, rows, causal) = (y.pointer(), rows.pointer(), i32::from(causal));
    let scale = 1.0 / (heads.width as f32).sqrt();
    let [tokens, q_heads, kv_heads, width] =
        [heads.tokens, heads.heads, heads.kv_heads, heads.width].map(|size| size as i32);
    let warps = heads.tokens * heads.heads;
    let mut launch = gpu.kernel("attention")?;
    launch
        .arg(&y)
        .arg(&rows)
        .arg(&tokens)
        .arg(&q_heads)
        .arg(&kv_heads);
    launch.arg(&width).arg(&scale).arg(&causal);
    // SAFETY: the arguments are the kernel's; it stops behind the last token, and both regions hold every token.
    unsafe { launch.launch(grid(warps.div_ceil(THREADS / 32), THREADS)) }
}
