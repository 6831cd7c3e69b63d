//! Norms over rows.

use super::quantise::{EACH, rotates};
use super::{BF16, F32, grid, vectors};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::matrix::{Format, Matrix};
use crate::memory::Region;
use cudarc::driver::{DeviceRepr, LaunchConfig};

/// Rows and their width, and the norm's epsilon.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Rows.
    pub count: usize,
    /// Numbers of a row: a multiple of eight, at most 8192.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
}

impl Rows {
    fn bytes(self) -> usize {
        self.count * self.width * BF16
    }

    /// Checks a result, and gives the one of two kernels that makes it, in bfloat16 or in integers, with the vectors of each
    /// of its threads.
    fn result(
        self,
        y: Matrix,
        kernels: [&'static str; 2],
    ) -> Result<(&'static str, usize), GpuError> {
        y.require((self.count, self.width))?;
        rotates(y)?;
        match y.format() {
            Format::Bf16 => Ok((kernels[0], 1)),
            Format::S8 => Ok((kernels[1], EACH)),
            Format::E4m3 => Err(GpuError::Bounds("no norm gives e4m3".to_owned())),
        }
    }

    /// Vectors of a row, and a block for each row with a thread for `each` so many.
    fn launch(self, each: usize) -> Result<(i32, LaunchConfig), GpuError> {
        let vectors = vectors(self.width)?;
        if vectors > 1024 {
            return Err(GpuError::Bounds(format!(
                "a norm of {} numbers is too wide",
                self.width
            )));
        }
        Ok((
            vectors as i32,
            grid(self.count, vectors.div_ceil(each).next_multiple_of(32)),
        ))
    }
}

/// Checks an optional vector of `bytes` and gives its address; null without one.
fn optional(vector: Option<Region>, bytes: usize) -> Result<u64, GpuError> {
    vector.map_or(Ok(0), |vector| {
        vector.require(bytes)?;
        Ok(vector.pointer())
    })
}

/// `y = rms_norm(x) * weight * scale`, in bfloat16 or rotated and in integers; `scale` is float32.
///
/// # Errors
/// When sizes do not fit together or the driver reports a fault.
pub fn rms_norm(
    gpu: &Gpu,
    rows: Rows,
    y: Matrix,
    x: Region,
    weight: Region,
    scale: Option<Region>,
) -> Result<(), GpuError> {
    let (kernel, each) = rows.result(y, ["rms_norm", "rms_norm_s8"])?;
    x.require(rows.bytes())?;
    weight.require(rows.width * BF16)?;
    let scale = optional(scale, rows.width * F32)?;
    let (vectors, config) = rows.launch(each)?;
    let (y, y_scales) = (y.region().pointer(), y.scales());
    let (x, weight) = (x.pointer(), weight.pointer());
    let mut launch = gpu.kernel(kernel)?;
    launch
        .arg(&y)
        .arg(&y_scales)
        .arg(&x)
        .arg(&weight)
        .arg(&scale)
        .arg(&vectors)
        .arg(&rows.eps);
    // SAFETY: the arguments are the kernel's, and every row and vector that it touches was checked above.
    unsafe { launch.launch(config) }
}

/// What [`add_norm`] adds to x.
#[derive(Clone, Copy, Debug)]
pub struct Added {
    /// What is added.
    pub h: Region,
    /// It is normed and multiplied by this first.
    pub weight: Option<Region>,
    /// Then by this, in float32.
    pub gate: Option<Region>,
}

/// The norm that follows [`add_norm`]'s addition.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// Where it goes, in bfloat16 or rotated and in integers.
    pub y: Matrix,
    /// Its weight.
    pub weight: Region,
    /// Multiplied in float32.
    pub scale: Option<Region>,
}

/// Addresses of what is added; `Added` of norm.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct AddedAt {
    h: u64,
    weight: u64,
    gate: u64,
}

// SAFETY: three addresses, as the kernel declares them.
unsafe impl DeviceRepr for AddedAt {}

/// `x += gate * rms_norm(h) * weight`, then `y = rms_norm(x) * weight * scale` when there is a next norm.
///
/// # Errors
/// When sizes do not fit together or the driver reports a fault.
pub fn add_norm(
    gpu: &Gpu,
    rows: Rows,
    x: Region,
    added: Added,
    next: Option<Next>,
) -> Result<(), GpuError> {
    x.require(rows.bytes())?;
    added.h.require(rows.bytes())?;
    let add = AddedAt {
        h: added.h.pointer(),
        weight: optional(added.weight, rows.width * BF16)?,
        gate: optional(added.gate, rows.width * F32)?,
    };
    let (kernel, each) = match next {
        Some(next) => rows.result(next.y, ["add_norm", "add_norm_s8"])?,
        None => ("add_norm", 1),
    };
    let y = next.map_or(0, |next| next.y.region().pointer());
    let y_scales = next.map_or(0, |next| next.y.scales());
    let next_weight = optional(next.map(|next| next.weight), rows.width * BF16)?;
    let next_scale = optional(next.and_then(|next| next.scale), rows.width * F32)?;
    let (vectors, config) = rows.launch(each)?;
    let x = x.pointer();
    let mut launch = gpu.kernel(kernel)?;
    launch.arg(&y).arg(&y_scales).arg(&x).arg(&add);
    launch
        .arg(&next_weight)
        .arg(&next_scale)
        .arg(&vectors)
        .arg(&rows.eps);
    // SAFETY: the arguments are the kernel's, and every row and vector that it touches was checked above.
    unsafe { launch.launch(config) }
}

/// `y = layer_norm(x) * scale` without weights; `scale` is float32.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn layer_norm(
    gpu: &Gpu,
    rows: Rows,
    y: Region,
    x: Region,
    scale: Region,
) -> Result<(), GpuError> {
    y.require(rows.bytes())?;
    x.require(rows.bytes())?;
    scale.require(rows.width * F32)?;
    let (vectors, config) = rows.launch(1)?;
    let (y, x, scale) = (y.pointer(), x.pointer(), scale.pointer());
    let mut launch = gpu.kernel("layer_norm")?;
    launch
        .arg(&y)
        .arg(&x)
        .arg(&scale)
        .arg(&vectors)
        .arg(&rows.eps);
    // SAFETY: the arguments are the kernel's, and every row and vector that it touches was checked above.
    unsafe { launch.launch(config) }
}
