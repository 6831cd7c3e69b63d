//! Kernels of Hopper's own, which use what no other chip has.

mod attention;
mod product;

pub use attention::{attend, serves};
pub use product::{gate_up_swiglu, pays, product};

use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::matrix::{Format, Matrix};
use cudarc::driver::DeviceRepr;
use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};

/// Bytes of a row of a box, which is what the copy engine moves at once.
const BOX_BYTES: usize = 128;

/// What the address of a row must be a multiple of.
const ROW_ALIGNMENT: usize = 16;

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
    /// Of a matrix, in boxes of so many rows.
    fn new(matrix: Matrix, box_rows: usize) -> Result<Self, GpuError> {
        let (row, format) = (matrix.row_bytes(), matrix.format());
        if !row.is_multiple_of(ROW_ALIGNMENT) {
            return Err(GpuError::Bounds(format!(
                "a row of {row} bytes is no multiple of {ROW_ALIGNMENT}"
            )));
        }
        let numbers = match format {
            Format::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Format::E4m3 | Format::S8 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        };
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays have as many entries as the matrix has dimensions, one stride fewer; the map is a local.
        let status = unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                numbers,
                2,
                matrix.region().pointer() as *mut _,
                [matrix.columns() as u64, matrix.rows() as u64].as_ptr(),
                [row as u64].as_ptr(),
                [(BOX_BYTES / format.bytes()) as u32, box_rows as u32].as_ptr(),
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
