//! From bfloat16 to eight bits.

use super::{THREADS, grid, vectors};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::matrix::{Format, Matrix};

/// The least compute capability that converts to e4m3.
const E4M3_CAPABILITY: (i32, i32) = (8, 9);

/// `y = x`, rounded to eight bits: the scale of each row is such that its largest number is the largest of y's format. An
/// infinite number makes its row one of no numbers.
///
/// # Errors
/// When the sizes or formats do not fit together, or the driver reports a fault.
pub fn quantise(gpu: &Gpu, y: Matrix, x: Matrix) -> Result<(), GpuError> {
    let capability = gpu.properties().capability;
    let kernel = match (x.format(), y.format()) {
        (Format::Bf16, Format::E4m3) if capability >= E4M3_CAPABILITY => "quantise_e4m3",
        (Format::Bf16, Format::S8) => "quantise_s8",
        (from, to) => {
            let (major, minor) = capability;
            return Err(GpuError::Bounds(format!(
                "compute capability {major}.{minor} does not make {to:?} of {from:?}"
            )));
        }
    };
    if (y.rows(), y.columns()) != (x.rows(), x.columns()) {
        return Err(GpuError::Bounds(format!(
            "{} x {} numbers do not become {} x {}",
            x.rows(),
            x.columns(),
            y.rows(),
            y.columns()
        )));
    }
    let vectors = vectors(x.columns())? as i32;
    let (to, scales, from) = (y.region().pointer(), y.scales(), x.region().pointer());
    let mut launch = gpu.kernel(kernel)?;
    launch.arg(&to).arg(&scales).arg(&from).arg(&vectors);
    // SAFETY: the arguments are the kernel's; there is a block for each row, and both matrices and the scales have as many.
    unsafe { launch.launch(grid(x.rows(), THREADS)) }
}
