//! From bfloat16 to eight bits.

use super::{grid, vectors};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::matrix::{Format, Matrix, ROTATED};

/// The least compute capability that converts to e4m3.
const E4M3_CAPABILITY: (i32, i32) = (8, 9);

/// Vectors of eight numbers of a thread that makes integers: of the same [`ROTATED`] numbers.
pub(super) const EACH: usize = 4;

/// `y = x`, rounded to eight bits: the scale of each row is such that its largest number is the largest of y's format. Rows
/// that become integers are rotated first. An infinite number makes its row one of no numbers.
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
    y.require((x.rows(), x.columns()))?;
    let vectors = vectors(x.columns())?;
    let blocks = x.columns().div_ceil(ROTATED);
    let threads = (blocks * ROTATED / 8 / EACH).next_multiple_of(32);
    if threads > 1024 {
        let width = x.columns();
        return Err(GpuError::Bounds(format!(
            "a row of {width} numbers is too wide to become one of eight bits"
        )));
    }
    rotates(y)?;
    let (to, scales, from) = (y.region().pointer(), y.scales(), x.region().pointer());
    let vectors = vectors as i32;
    let mut launch = gpu.kernel(kernel)?;
    launch.arg(&to).arg(&scales).arg(&from).arg(&vectors);
    // SAFETY: the arguments are the kernel's; there is a block for each row, and both matrices and the scales have as many.
    unsafe { launch.launch(grid(x.rows(), threads)) }
}

/// Fails when rows of a matrix are to be rotated, and cannot.
pub(super) fn rotates(matrix: Matrix) -> Result<(), GpuError> {
    if matrix.format() != Format::S8 || matrix.columns().is_multiple_of(ROTATED) {
        return Ok(());
    }
    let width = matrix.columns();
    Err(GpuError::Bounds(format!(
        "a row of {width} integers is no multiple of {ROTATED}"
    )))
}
