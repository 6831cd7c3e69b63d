//! Z-Image on NVIDIA GPUs in bfloat16 or with products in int8, through libraries that are opened at run time.
#![expect(
    unsafe_code,
    reason = "the GPU's interfaces are C; every call has its proof beside it"
)]

mod ceilings;
mod compute;
mod deflate;
pub mod dnn;
mod error;
mod executor;
mod gpu;
pub mod kernels;
mod launch;
pub mod libraries;
pub mod matmul;
mod matrix;
mod memory;
pub mod ops;
mod precision;
pub mod shapes;
mod text_encoder;
mod transformer;
mod vae;
mod weights;

pub use ceilings::Ceilings;
pub use compute::Compute;
pub use error::{GpuError, LoadError};
pub use executor::{CudaExecutor, CudaOptions, eager_forwards};
pub use gpu::{Gpu, GpuOptions, Properties, uuids};
pub use matrix::{Format, Matrix, ROTATED};
pub use memory::{Layout, Memory, Region};
pub use precision::Precision;
pub use vae::decoded_in_strips;

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Writes a file under another name first, in its folder, so that readers never see a part. Every user may read it: pods
/// that share a folder may run as different ones.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
