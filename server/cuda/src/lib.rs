//! Z-Image on NVIDIA GPUs in bfloat16, through libraries that are opened at run time.
#![expect(
    unsafe_code,
    reason = "the GPU's interfaces are C; every call has its proof beside it"
)]

mod error;
pub mod kernels;
pub mod libraries;

pub use error::{GpuError, LoadError};
