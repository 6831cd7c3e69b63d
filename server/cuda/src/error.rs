//! What can go wrong on the way to a GPU and on it.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use zimage_checkpoint::CheckpointError;
use zimage_core::executor::ExecutorError;

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A shared library is missing or cannot be opened.
    #[error("{library} cannot be opened: {problem}; {advice}")]
    Library {
        /// The library's file name.
        library: &'static str,
        /// What the loader said.
        problem: String,
        /// Where it usually comes from.
        advice: &'static str,
    },
    /// The driver is older than the libraries need.
    #[error(
        "the NVIDIA driver supports CUDA {found}; CUDA {least} is the least, which driver {driver} and later have"
    )]
    OldDriver {
        /// The driver's CUDA version.
        found: String,
        /// The least CUDA version.
        least: &'static str,
        /// The least driver.
        driver: &'static str,
    },
    /// There is no GPU that could be used.
    #[error("there is no usable GPU: {0}")]
    NoGpu(String),
    /// The table of algorithms that was given is none.
    #[error("the tuning table {0}")]
    Tuning(String),
    /// The model's sizes are none that the kernels compute.
    #[error("the engine cannot compute this model: {0}")]
    Unsupported(String),
    /// The first image cannot be computed.
    #[error("the engine cannot compute: {0}")]
    WarmUp(String),
    /// The checkpoint is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The GPU or a library failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// The GPU or one of its libraries failed.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The driver refused a call or reports a fault of earlier work.
    #[error("the CUDA driver failed: {0:?}")]
    Driver(CUresult),
    /// Another library refused a call.
    #[error("{call} failed: {problem}")]
    Library {
        /// The call.
        call: String,
        /// The library's status and message.
        problem: String,
    },
    /// A kernel does not compile.
    #[error("the kernels in {file} do not compile for {architecture}: {log}")]
    Compile {
        /// The kernel's source.
        file: &'static str,
        /// The target.
        architecture: String,
        /// The compiler's log.
        log: String,
    },
    /// The GPU's memory, or the part of it that may be used, is too small for the request.
    #[error("{needs} bytes of the GPU's memory would be in use, and the limit is {limit}")]
    NoRoom {
        /// What would be in use.
        needs: usize,
        /// What may be.
        limit: usize,
    },
    /// The model's numbers left the range of what can be computed with.
    #[error(
        "the image has values that are no numbers: the checkpoint, or the GPU's memory, is damaged"
    )]
    NoNumbers,
    /// The operation does not fit the memory that it was given: a fault of this crate.
    #[error("{0}")]
    Bounds(String),
}

impl GpuError {
    pub(crate) fn library(call: impl Into<String>, problem: impl std::fmt::Debug) -> Self {
        Self::Library {
            call: call.into(),
            problem: format!("{problem:?}"),
        }
    }

    /// Whether there is no memory left, which passes.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::Driver(CUresult::CUDA_ERROR_OUT_OF_MEMORY) | Self::NoRoom { .. }
        )
    }

    /// Whether the device is lost to this process.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Driver(_)) && !self.is_out_of_memory()
    }
}

impl From<DriverError> for GpuError {
    /// The code alone: the driver's own text needs the driver, which may be what is missing.
    fn from(error: DriverError) -> Self {
        Self::Driver(error.0)
    }
}

impl From<DriverError> for LoadError {
    fn from(error: DriverError) -> Self {
        Self::Gpu(error.into())
    }
}

impl From<GpuError> for ExecutorError {
    fn from(error: GpuError) -> Self {
        match &error {
            _ if error.is_out_of_memory() => Self::OutOfMemory(error.to_string()),
            _ if error.is_lost() => Self::DeviceLost(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_memory_passes_without_a_restart() {
        let of = |code| ExecutorError::from(GpuError::Driver(code));
        assert!(matches!(
            of(CUresult::CUDA_ERROR_OUT_OF_MEMORY),
            ExecutorError::OutOfMemory(_)
        ));
        assert!(matches!(
            of(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
            ExecutorError::DeviceLost(_)
        ));
        let refused = GpuError::library("cublasLtMatmul", "NOT_SUPPORTED");
        assert!(matches!(refused.into(), ExecutorError::Failed(_)));
    }
}
