//! Matrix products, and with what follows them: no pass over memory between the two.

use super::{Map, available};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::matrix::{Format, Matrix};
use cudarc::driver::{DeviceRepr, LaunchConfig};

/// Rows of a tile, which two groups of threads compute.
const TILE_ROWS: usize = 128;

/// Rows of a box of x and of y.
const BOX_ROWS: usize = 64;

/// Bytes of a slice of a row.
const SLICE: usize = 128;

/// Slices that are ready or on their way.
const STAGES: usize = 4;

/// One thread group that reads and two that multiply.
const THREADS: usize = 384;

/// Tiles of a cluster of two blocks, which it computes at a time.
const TOGETHER: usize = 2;

/// The kernel's sizes; `Sizes` of hopper_product.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sizes {
    rows: i32,
    width: i32,
    depth: i32,
}

// SAFETY: three integers, as the kernel declares them.
unsafe impl DeviceRepr for Sizes {}

/// Where the scales of x, the weight and y are; `Scales` of hopper_product.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Scales([u64; 3]);

// SAFETY: three addresses, as the kernel declares them.
unsafe impl DeviceRepr for Scales {}

/// What becomes of a tile's sums; their kinds in hopper_product.cu have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Plain,
    SwiGlu,
}

impl End {
    /// Sums of a row of a tile.
    const fn sums(self) -> usize {
        match self {
            Self::Plain => 192,
            Self::SwiGlu => 256,
        }
    }

    /// Columns of y of a tile.
    const fn columns(self) -> usize {
        match self {
            Self::Plain => 192,
            Self::SwiGlu => 128,
        }
    }

    /// Stages of x and the weight, results of two groups, barriers, and what alignment takes.
    const fn shared_bytes(self, y: Format) -> usize {
        let stage = (TILE_ROWS + self.sums()) * SLICE;
        STAGES * stage + TILE_ROWS * self.columns() * y.bytes() + STAGES * 16 + 1024
    }

    const fn kernel(self, operands: Format, y: Format) -> Option<&'static str> {
        Some(match (self, operands, y) {
            (Self::SwiGlu, Format::Bf16, Format::Bf16) => "gate_up_swiglu",
            (Self::SwiGlu, Format::E4m3, Format::Bf16) => "gate_up_swiglu_e4m3",
            (Self::SwiGlu, Format::E4m3, Format::E4m3) => "gate_up_swiglu_e4m3_to_e4m3",
            (Self::SwiGlu, Format::S8, Format::Bf16) => "gate_up_swiglu_s8",
            (Self::Plain, Format::Bf16, Format::Bf16) => "product_bf16",
            (Self::Plain, Format::E4m3, Format::Bf16) => "product_e4m3",
            (Self::Plain, Format::S8, Format::Bf16) => "product_s8",
            _ => return None,
        })
    }
}

/// Whether the GPU has the instructions, and the kernel is faster than the library's product and a pass over memory: its
/// tiles must keep nearly every multiprocessor busy to the end. On an H100 a block over 4160 rows of 10240 takes 1 % less
/// time with it, one over 1088 rows, whose last round of tiles fills half of the card, 1 % more.
pub fn pays(gpu: &Gpu, size: (usize, usize)) -> bool {
    available(gpu) && busy(gpu.properties().multiprocessors, End::SwiGlu, size) > 0.95
}

/// The share of the time that the multiprocessors have tiles to compute.
fn busy(multiprocessors: usize, end: End, (rows, width): (usize, usize)) -> f64 {
    let (rows, columns) = (rows.div_ceil(TILE_ROWS), width.div_ceil(end.columns()));
    let items = (rows * columns) as f64 / TOGETHER as f64;
    let rounds = items / (multiprocessors / TOGETHER) as f64;
    rounds / rounds.ceil().max(1.0)
}

/// `y = x * weight^T`, of operands in one format, into bfloat16.
///
/// # Errors
/// When sizes or formats do not fit together, or the driver reports a fault.
pub fn product(gpu: &Gpu, y: Matrix, x: Matrix, weight: Matrix) -> Result<(), GpuError> {
    launch(gpu, End::Plain, (y, x, weight))
}

/// `y = silu(x * gate^T) * (x * up^T)`, of a weight (gate, up) of twice as many rows as y has columns. The scales of y are
/// read: where it has eight bits, what is larger than its row's scale allows is as large as it allows.
///
/// # Errors
/// When sizes or formats do not fit together, or the driver reports a fault.
pub fn gate_up_swiglu(gpu: &Gpu, y: Matrix, x: Matrix, weight: Matrix) -> Result<(), GpuError> {
    launch(gpu, End::SwiGlu, (y, x, weight))
}

fn launch(gpu: &Gpu, end: End, (y, x, weight): (Matrix, Matrix, Matrix)) -> Result<(), GpuError> {
    let name = kernel(end, (y, x, weight))?;
    let sizes = Sizes {
        rows: y.rows() as i32,
        width: y.columns() as i32,
        depth: x.row_bytes() as i32,
    };
    let scales = Scales([x.scales(), weight.scales(), y.scales()]);
    let maps = [
        Map::new(x, BOX_ROWS)?,
        Map::new(weight, end.sums() / 2)?,
        Map::new(y, BOX_ROWS)?,
    ];
    let shared = end.shared_bytes(y.format());
    let mut launch = gpu.kernel_with_memory(name, shared)?;
    for map in &maps {
        launch.arg(map);
    }
    launch.arg(&scales).arg(&sizes);
    let config = LaunchConfig {
        // As many clusters of two blocks as the GPU has room for: each takes tile after tile.
        grid_dim: (
            (gpu.properties().multiprocessors / TOGETHER * TOGETHER) as u32,
            1,
            1,
        ),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: shared as u32,
    };
    // SAFETY: the arguments are the kernel's, the copy engine stays within the matrices, and a matrix has as many scales as
    // rows.
    unsafe { launch.launch(config) }
}

/// The kernel, when the matrices fit together.
fn kernel(end: End, (y, x, weight): (Matrix, Matrix, Matrix)) -> Result<&'static str, GpuError> {
    let fit = y.rows() == x.rows()
        && x.columns() == weight.columns()
        && weight.rows() * end.columns() == y.columns() * end.sums()
        && y.columns().is_multiple_of(8)
        && x.format() == weight.format();
    let kernel = end.kernel(x.format(), y.format()).filter(|_| fit);
    kernel.ok_or_else(|| {
        let shape = |matrix: Matrix| (matrix.rows(), matrix.columns(), matrix.format());
        let (y, x, weight) = (shape(y), shape(x), shape(weight));
        GpuError::Bounds(format!(
            "{end:?}: {y:?} is no product of {x:?} and a weight {weight:?}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Layout;

    fn matrix(format: Format, rows: usize, columns: usize) -> Matrix {
        let mut layout = Layout::measure();
        let values = layout.take(rows * columns * format.bytes()).unwrap();
        match format {
            Format::Bf16 => Matrix::bf16(values, (rows, columns)),
            _ => Matrix::scaled(
                format,
                values,
                layout.take(4 * rows).unwrap(),
                (rows, columns),
            ),
        }
        .unwrap()
    }

    #[test]
    fn the_tiles_of_a_large_image_fill_an_h100_and_those_of_a_small_one_do_not() {
        let share = |rows| busy(132, End::SwiGlu, (rows, 10_240));
        assert!(share(4160) > 0.99);
        assert!(share(2368) > 0.95);
        assert!(share(1088) < 0.92);
        assert!(busy(132, End::SwiGlu, (1, 8)) < 0.01);
        for width in [3840, 11_520] {
            assert!(busy(132, End::Plain, (4160, width)) > 0.98, "{width}");
        }
    }

    #[test]
    fn a_product_of_matrices_that_do_not_fit_together_is_refused() {
        let (bf16, e4m3, s8) = (Format::Bf16, Format::E4m3, Format::S8);
        let fit = |end, y, x, weight| {
            let of = |(format, rows, columns)| matrix(format, rows, columns);
            kernel(end, (of(y), of(x), of(weight))).is_ok()
        };
        let (x, weight) = ((e4m3, 4, 32), (e4m3, 16, 32));
        assert!(fit(End::Plain, (bf16, 4, 16), x, weight));
        assert!(fit(End::SwiGlu, (bf16, 4, 8), x, weight));
        assert!(fit(End::SwiGlu, (e4m3, 4, 8), x, weight));
        assert!(!fit(End::SwiGlu, (bf16, 4, 16), x, weight));
        assert!(!fit(End::Plain, (bf16, 4, 8), x, weight));
        assert!(!fit(End::Plain, (bf16, 3, 16), x, weight));
        assert!(!fit(End::Plain, (bf16, 4, 16), (e4m3, 4, 48), weight));
        assert!(!fit(End::Plain, (bf16, 4, 16), (s8, 4, 32), weight));
        assert!(!fit(End::Plain, (s8, 4, 16), x, weight));
    }

    #[test]
    fn every_kernel_has_the_memory_that_it_needs_on_a_multiprocessor() {
        for end in [End::Plain, End::SwiGlu] {
            assert!(end.shared_bytes(Format::Bf16) <= 227 << 10, "{end:?}");
        }
    }
}
