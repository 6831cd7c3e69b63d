//! Launches of the engine's own kernels.

use crate::error::GpuError;
use cudarc::driver::sys::{
    self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
};
use cudarc::driver::{CudaFunction, CudaStream, DeviceRepr, LaunchConfig};
use std::ffi::{c_char, c_void};

/// A kernel and its arguments.
pub(crate) struct Launch<'a> {
    stream: &'a CudaStream,
    function: &'a CudaFunction,
    early: bool,
    arguments: Vec<*mut c_void>,
}

impl<'a> Launch<'a> {
    /// With `early` the kernel may be put in place while the work before it ends; it waits for that work itself
    /// (programmatic dependent launch, from compute capability 9.0 on).
    pub(crate) const fn new(
        stream: &'a CudaStream,
        function: &'a CudaFunction,
        early: bool,
    ) -> Self {
        Self {
            stream,
            function,
            early,
            arguments: Vec::new(),
        }
    }

    /// Adds the next argument.
    pub(crate) fn arg<T: DeviceRepr>(&mut self, argument: &'a T) -> &mut Self {
        let pointer: *const T = argument;
        self.arguments.push(pointer.cast_mut().cast());
        self
    }

    /// Puts the kernel on the stream.
    ///
    /// # Errors
    /// When the driver refuses, or reports an earlier fault.
    ///
    /// # Safety
    /// The arguments must be the kernel's, in number, order and type, and what it does with them must stay within memory
    /// that is there until it is done.
    pub(crate) unsafe fn launch(&mut self, config: LaunchConfig) -> Result<(), GpuError> {
        let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        let mut attribute = CUlaunchAttribute {
            id,
            pad: [c_char::default(); 4],
            value: CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let config = CUlaunchConfig {
            gridDimX: config.grid_dim.0,
            gridDimY: config.grid_dim.1,
            gridDimZ: config.grid_dim.2,
            blockDimX: config.block_dim.0,
            blockDimY: config.block_dim.1,
            blockDimZ: config.block_dim.2,
            sharedMemBytes: config.shared_mem_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &mut attribute,
            numAttrs: u32::from(self.early),
        };
        self.stream.context().bind_to_thread()?;
        // SAFETY: the attribute and the arguments are alive during the call, which copies them; the caller answers for
        // what they say.
        let status = unsafe {
            sys::cuLaunchKernelEx(
                &config,
                self.function.cu_function(),
                self.arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        Ok(status.result()?)
    }
}
