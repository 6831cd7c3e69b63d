//! A matrix product with what follows it: no pass over memory between the two.

use super::{Map, available};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use cudarc::driver::{DeviceRepr, LaunchConfig};

/// Rows of a box of x and y, and of the weight.
const BOX_ROWS: (usize, usize) = (64, 128);

/// One thread group that reads and two that multiply.
const THREADS: usize = 384;

/// Four stages of x and the weight, results of two groups, barriers, and what alignment takes.
const SHARED_BYTES: usize = 4 * (16 << 10) + 4 * (32 << 10) + 2 * (16 << 10) + 64 + 1024;

/// The kernel's sizes; `Sizes` of hopper_swiglu.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sizes {
    rows: i32,
    width: i32,
    depth: i32,
}

// SAFETY: three integers, as the kernel declares them.
unsafe impl DeviceRepr for Sizes {}

/// Tiles of 128 rows and columns that a cluster of two blocks computes at a time.
const TOGETHER: usize = 2;

/// Whether the GPU has the instructions, and the kernel is faster than the library's product and a pass over memory: its
/// tiles must keep nearly every multiprocessor busy to the end. On an H100 a block over 4160 rows of 10240 takes 1 % less
/// time with it, one over 1088 rows, whose last round of tiles fills half of the card, 1 % more.
pub fn pays(gpu: &Gpu, (rows, width): (usize, usize)) -> bool {
    let multiprocessors = gpu.properties().multiprocessors;
    available(gpu) && busy(multiprocessors, (rows, width)) > 0.95
}

/// The share of the time that the multiprocessors have tiles to compute.
fn busy(multiprocessors: usize, (rows, width): (usize, usize)) -> f64 {
    let (rows, columns) = (rows.div_ceil(BOX_ROWS.1), width.div_ceil(BOX_ROWS.1));
    let items = (rows * columns) as f64 / TOGETHER as f64;
    let rounds = items / (multiprocessors / TOGETHER) as f64;
    rounds / rounds.ceil().max(1.0)
}

/// A product `x[m, k] * weight[n, k]^T`, where each is.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// Its rows.
    pub x: Region,
    /// Its rows give y's columns.
    pub weight: Region,
    /// Columns of both.
    pub depth: usize,
}

/// `y[rows, width] = silu(x * gate^T) * (x * up^T)`, of a weight (gate, up) of `2 * width` rows.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn gate_up_swiglu(
    gpu: &Gpu,
    y: Region,
    factors: Factors,
    (rows, width): (usize, usize),
) -> Result<(), GpuError> {
    let depth = factors.depth;
    let x = Map::new(factors.x, (rows, depth), BOX_ROWS.0)?;
    let weight = Map::new(factors.weight, (2 * width, depth), BOX_ROWS.1)?;
    let y = Map::new(y, (rows, width), BOX_ROWS.0)?;
    let sizes = Sizes {
        rows: rows as i32,
        width: width as i32,
        depth: depth as i32,
    };
    let mut launch = gpu.kernel_with_memory("gate_up_swiglu", SHARED_BYTES)?;
    launch.arg(&x).arg(&weight).arg(&y).arg(&sizes);
    let config = LaunchConfig {
        // As many clusters of two blocks as the GPU has room for: each takes tile after tile.
        grid_dim: ((gpu.properties().multiprocessors / 2 * 2) as u32, 1, 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: SHARED_BYTES as u32,
    };
    // SAFETY: the arguments are the kernel's, and the copy engine stays within the matrices, which were checked.
    unsafe { launch.launch(config) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiles_of_a_large_image_fill_an_h100_and_those_of_a_small_one_do_not() {
        let share = |rows| busy(132, (rows, 10_240));
        assert!(share(4160) > 0.99);
        assert!(share(2368) > 0.95);
        assert!(share(1088) < 0.92);
        assert!(busy(132, (1, 8)) < 0.01);
    }
}
