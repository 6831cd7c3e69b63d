//! NVRTC.

use super::Source;
use crate::error::GpuError;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CString, c_char};

/// A program that is destroyed at the end.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created and is destroyed only here. A failure would leak it, which is harmless.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Compiles a source to machine code for an architecture such as "sm_90a". The compiler's library must be open.
///
/// # Errors
/// [`GpuError::Compile`] with the compiler's log.
pub fn compile(source: &Source, architecture: &str) -> Result<Vec<u8>, GpuError> {
    let failed = |log: String| GpuError::Compile {
        file: source.file,
        architecture: architecture.to_owned(),
        log,
    };
    let text = CString::new(source.whole()).map_err(|error| failed(error.to_string()))?;
    let name = CString::new(source.file).map_err(|error| failed(error.to_string()))?;
    let program =
        result::create_program(&text, Some(&name)).map_err(|error| failed(format!("{error:?}")))?;
    let program = Program(program);
    let options = [
        format!("--gpu-architecture={architecture}"),
        "--use_fast_math".to_owned(),
    ];
    // SAFETY: the program is alive.
    if let Err(error) = unsafe { result::compile_program(program.0, &options) } {
        // SAFETY: the program is alive.
        let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
        return Err(failed(format!("{error:?} {}", text_of(&log))));
    }
    let mut size = 0;
    // SAFETY: the program is alive and compiled; the pointer is to a local.
    let status = unsafe { sys::nvrtcGetCUBINSize(program.0, &mut size) };
    status
        .result()
        .map_err(|error| failed(format!("{error:?}")))?;
    let mut code = vec![0u8; size];
    // SAFETY: the buffer has the size that the library asked for.
    let status = unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast::<c_char>()) };
    status
        .result()
        .map_err(|error| failed(format!("{error:?}")))?;
    Ok(code)
}

fn text_of(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|&c| c as u8).filter(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
