//! Rows from tables, activations, and what the time does.

use super::{BF16, F32, THREADS, each, grid, vectors};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use cudarc::driver::LaunchConfig;

/// `y[i] = table[ids[i]]` for `count` ids (u32), zeros up to `rows`. The ids must be rows of the table.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn gather(
    gpu: &Gpu,
    y: Region,
    table: Region,
    ids: &[u32],
    scratch: Region,
    (rows, width): (usize, usize),
) -> Result<(), GpuError> {
    y.require(rows * width * BF16)?;
    let most = table.bytes() / (width * BF16);
    if let Some(id) = ids.iter().find(|&&id| id as usize >= most) {
        return Err(GpuError::Bounds(format!(
            "token {id} is not among the {most} of the table"
        )));
    }
    gpu.upload(scratch, ids)?;
    let (count, row_vectors) = (ids.len().min(rows) as i32, vectors(width)? as i32);
    let (y, table, ids) = (y.pointer(), table.pointer(), scratch.pointer());
    let mut launch = gpu.kernel("gather")?;
    launch
        .arg(&y)
        .arg(&table)
        .arg(&ids)
        .arg(&count)
        .arg(&row_vectors);
    // SAFETY: the arguments are the kernel's; y holds the rows, and every id was checked against the table.
    unsafe { launch.launch(grid(rows, THREADS)) }
}

/// Every one of `rows` rows of y is the token.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn repeat_row(
    gpu: &Gpu,
    y: Region,
    token: Region,
    (rows, width): (usize, usize),
) -> Result<(), GpuError> {
    if rows == 0 {
        return Ok(());
    }
    y.require(rows * width * BF16)?;
    token.require(width * BF16)?;
    let (y, token, row_vectors) = (y.pointer(), token.pointer(), vectors(width)? as i32);
    let mut launch = gpu.kernel("repeat_row")?;
    launch.arg(&y).arg(&token).arg(&row_vectors);
    // SAFETY: the arguments are the kernel's; y holds the rows and the token one.
    unsafe { launch.launch(grid(rows, THREADS)) }
}

/// `y = silu(x[:, :width]) * x[:, width:]`.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn swiglu(
    gpu: &Gpu,
    y: Region,
    x: Region,
    (rows, width): (usize, usize),
) -> Result<(), GpuError> {
    y.require(rows * width * BF16)?;
    x.require(2 * rows * width * BF16)?;
    let row_vectors = vectors(width)?;
    let config = LaunchConfig {
        grid_dim: (rows as u32, row_vectors.div_ceil(THREADS) as u32, 1),
        ..grid(rows, THREADS)
    };
    let (y, x, row_vectors) = (y.pointer(), x.pointer(), row_vectors as i32);
    let mut launch = gpu.kernel("swiglu")?;
    launch.arg(&y).arg(&x).arg(&row_vectors);
    // SAFETY: the arguments are the kernel's, which stops behind a row's last vector; both regions hold every row.
    unsafe { launch.launch(config) }
}

/// `y = silu(x)` of a float32 vector.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn silu(gpu: &Gpu, y: Region, x: Region, count: usize) -> Result<(), GpuError> {
    y.require(count * BF16)?;
    x.require(count * F32)?;
    let (y, x, length) = (y.pointer(), x.pointer(), count as u64);
    let mut launch = gpu.kernel("silu_f32")?;
    launch.arg(&y).arg(&x).arg(&length);
    // SAFETY: the arguments are the kernel's, which stops at the count; both regions hold as many.
    unsafe { launch.launch(each(count)) }
}

/// Modulations (blocks, 4, width) in float32 to 1 + scale, tanh(gate), 1 + scale, tanh(gate), in place.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn modulation(gpu: &Gpu, x: Region, (blocks, width): (usize, usize)) -> Result<(), GpuError> {
    let count = blocks * 4 * width;
    x.require(count * F32)?;
    let (x, columns, length) = (x.pointer(), width as i32, count as u64);
    let mut launch = gpu.kernel("modulation")?;
    launch.arg(&x).arg(&columns).arg(&length);
    // SAFETY: the arguments are the kernel's, which stops at the count; the region holds as many.
    unsafe { launch.launch(each(count)) }
}

/// `x += 1` of a float32 vector.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn add_one(gpu: &Gpu, x: Region, count: usize) -> Result<(), GpuError> {
    x.require(count * F32)?;
    let (x, length) = (x.pointer(), count as u64);
    let mut launch = gpu.kernel("add_one")?;
    launch.arg(&x).arg(&length);
    // SAFETY: the arguments are the kernel's, which stops at the count; the region holds as many.
    unsafe { launch.launch(each(count)) }
}
