//! Norms of heads and the rotary embedding.

use super::{BF16, F32, each, grid};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use crate::shapes::Heads;

/// Which numbers of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Neighbours: diffusers' Z-Image.
    Interleaved,
    /// Half a head apart: transformers' Qwen3.
    Halves,
}

/// Norms q and k by head, if there are weights for it, and turns them by `table`, a (cosine, sine) in float32 for each
/// token and pair, in place.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn norm_and_rotate(
    gpu: &Gpu,
    heads: Heads,
    pairs: Pairs,
    rows: Region,
    weights: Option<(Region, Region, f32)>,
    table: Region,
) -> Result<(), GpuError> {
    rows.require(heads.bytes())?;
    table.require(heads.tokens * heads.width * F32)?;
    if !heads.width.is_multiple_of(8) || heads.width > 256 {
        return Err(GpuError::Bounds(format!(
            "a head of {} numbers is no multiple of eight up to 256",
            heads.width
        )));
    }
    let (mut q, mut k, mut eps) = (0, 0, 0.0);
    if let Some((q_weight, k_weight, weight_eps)) = weights {
        q_weight.require(heads.width * BF16)?;
        k_weight.require(heads.width * BF16)?;
        (q, k, eps) = (q_weight.pointer(), k_weight.pointer(), weight_eps);
    }
    let (rows, table) = (rows.pointer(), table.pointer());
    let [tokens, q_heads, k_heads, row, width] = [
        heads.tokens,
        heads.heads,
        heads.kv_heads,
        heads.row(),
        heads.width,
    ]
    .map(|size| size as i32);
    // A block takes a token, and is small: an H100 has room for one of each token of a small image at once. Or a warp
    // takes a token and head.
    let lanes = if heads.width <= 128 { 16 } else { 32 };
    let warps = heads.tokens * (heads.heads + heads.kv_heads);
    let (kernel, own, config) = match pairs {
        Pairs::Interleaved => ("qk_norm_rope_interleaved", lanes, grid(heads.tokens, 128)),
        Pairs::Halves => ("qk_norm_rope_halves", tokens, each(warps * 32)),
    };
    let mut launch = gpu.kernel(kernel)?;
    launch.arg(&rows).arg(&q).arg(&k).arg(&table).arg(&own);
    launch
        .arg(&q_heads)
        .arg(&k_heads)
        .arg(&row)
        .arg(&width)
        .arg(&eps);
    // SAFETY: the arguments are the kernel's; there is a block for each token, or it stops behind the last; rows, weights
    // and table hold every head of every token, as checked above.
    unsafe { launch.launch(config) }
}
