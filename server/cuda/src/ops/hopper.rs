//! Kernels of Hopper's own, which use what no other chip has.

mod attention;
mod swiglu;

pub use attention::{attend, serves};
pub use swiglu::{Factors, gate_up_swiglu, pays};

use super::BF16;
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::Region;
use cudarc::driver::DeviceRepr;
use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};

/// Columns of a box, which is what the copy engine moves at once: 128 bytes.
const BOX_COLUMNS: usize = 64;

/// Whether the GPU has the instructions.
pub fn available(gpu: &Gpu) -> bool {
    gpu.properties().capability == (9, 0)
}

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
