//! A matrix product of Hopper's own with what follows it: no pass over memory between the two.

use super::BF16;
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};
use cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg as _};

/// Columns of a box, which is what the copy engine moves at once: 128 bytes.
const BOX_COLUMNS: usize = 64;

/// Rows of a box of x and y, and of the weight.
const BOX_ROWS: (usize, usize) = (64, 128);

/// One thread group that reads and two that multiply.
const THREADS: usize = 384;

/// Four stages of x and the weight, results of two groups, barriers, and what alignment takes.
const SHARED_BYTES: usize = 4 * (16 << 10) + 4 * (32 << 10) + 2 * (16 << 10) + 64 + 1024;

/// Whether the GPU has the instructions.
pub fn available(gpu: &Gpu) -> bool {
    gpu.properties().capability == (9, 0)
}

/// The kernel's sizes; `Sizes` of hopper.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sizes {
    rows: i32,
    width: i32,
    depth: i32,
}

// SAFETY: three integers, as the kernel declares them.
unsafe impl DeviceRepr for Sizes {}

/// Where the copy engine finds the boxes of a matrix.
#[repr(transparent)]
struct Map(CUtensorMap);

// SAFETY: what the driver encoded, which the kernel takes by value.
unsafe impl DeviceRepr for Map {}

impl Map {
    /// Of a matrix of rows and columns in bfloat16.
    fn new(
        region: Region,
        (rows, columns): (usize, usize),
        box_rows: usize,
    ) -> Result<Self, GpuError> {
        region.require(rows * columns * BF16)?;
        if !columns.is_multiple_of(8) {
            let problem = format!("a row of {columns} numbers is no multiple of eight");
            return Err(GpuError::Bounds(problem));
        }
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays have as many entries as the matrix has dimensions, one stride fewer; the map is a local.
        let status = unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                region.pointer() as *mut _,
                [columns as u64, rows as u64].as_ptr(),
                [(columns * BF16) as u64].as_ptr(),
                [BOX_COLUMNS as u32, box_rows as u32].as_ptr(),
                [1, 1].as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        status.result()?;
        Ok(Self(map))
    }
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
    unsafe { launch.launch(config) }?;
    Ok(())
}
