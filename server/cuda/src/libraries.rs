//! The shared libraries that the engine opens at run time: NVIDIA's driver and three of CUDA's libraries.

use crate::error::LoadError;
use cudarc::{cublaslt, cudnn, driver, nvrtc};
use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};
use std::fmt;
use std::path::Path;

/// The least CUDA version of the driver, as the driver counts: CUDA 13.0.
const LEAST_DRIVER: i32 = 13_000;

/// Versions of the libraries that were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Libraries {
    /// CUDA version that the driver supports: 13000 is 13.0.
    pub driver: i32,
    /// The kernel compiler: 13000 is 13.0.
    pub nvrtc: i32,
    /// Matrix products.
    pub cublaslt: usize,
    /// Attention and convolutions: 91900 is 9.19.0.
    pub cudnn: usize,
}

impl fmt::Display for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "driver for CUDA {}, NVRTC {}, cuBLASLt {}, cuDNN {}.{}.{}",
            cuda_version(self.driver),
            cuda_version(self.nvrtc),
            self.cublaslt,
            self.cudnn / 10_000,
            self.cudnn / 100 % 100,
            self.cudnn % 100,
        )
    }
}

fn cuda_version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// One of the libraries, as cudarc names it, and the file that says which it is.
struct Wanted {
    name: &'static str,
    file: &'static str,
    advice: &'static str,
}

const DRIVER: Wanted = Wanted {
    name: "cuda",
    file: "libcuda.so.1",
    advice: "it comes with the NVIDIA driver; in a container the NVIDIA container toolkit mounts it",
};
const NVRTC: Wanted = Wanted {
    name: "nvrtc",
    file: "libnvrtc.so.13",
    advice: "it comes with CUDA 13 or the Python package nvidia-cuda-nvrtc",
};
const CUBLASLT: Wanted = Wanted {
    name: "cublasLt",
    file: "libcublasLt.so.13",
    advice: "it comes with CUDA 13 or the Python package nvidia-cublas",
};
const CUDNN: Wanted = Wanted {
    name: "cudnn",
    file: "libcudnn.so.9",
    advice: "it comes with cuDNN 9 for CUDA 13 or the Python package nvidia-cudnn-cu13",
};

/// Opens every library by the names under which cudarc looks for it, and asks for its version.
///
/// A library without the number of its version in its file name comes first, wherever the loader finds it.
///
/// # Errors
/// Names the first library that cannot be opened, or the driver's version when it is too old.
pub fn check() -> Result<Libraries, LoadError> {
    // What the driver needs is the machine's, the others are the image's: a machine without a driver is told that first.
    for wanted in [&DRIVER, &NVRTC, &CUBLASLT, &CUDNN] {
        open(wanted)?;
    }
    let mut driver = 0;
    // SAFETY: the library is open, so the symbol's look-up does not panic; the pointer is to a local that outlives the call.
    let status = unsafe { driver::sys::cuDriverGetVersion(&mut driver) };
    status.result().map_err(crate::error::GpuError::from)?;
    least_driver(driver)?;
    Ok(Libraries {
        driver,
        nvrtc: nvrtc_version(),
        // SAFETY: the library is open; the function takes nothing.
        cublaslt: unsafe { cublaslt::sys::cublasLtGetVersion() },
        // SAFETY: as above.
        cudnn: unsafe { cudnn::sys::cudnnGetVersion() },
    })
}

fn least_driver(found: i32) -> Result<(), LoadError> {
    if found >= LEAST_DRIVER {
        return Ok(());
    }
    Err(LoadError::OldDriver {
        found: cuda_version(found),
        least: "13.0",
        driver: "580.65",
    })
}

/// Opens the driver alone, which knows the GPUs.
pub(crate) fn open_driver() -> Result<(), LoadError> {
    open(&DRIVER)
}

/// Opens the kernel compiler alone, which needs no GPU.
///
/// # Errors
/// When it cannot be opened.
pub fn check_compiler() -> Result<i32, LoadError> {
    open(&NVRTC)?;
    Ok(nvrtc_version())
}

/// Opens cuDNN alone, which checks operation graphs without a GPU.
///
/// # Errors
/// When it cannot be opened.
pub fn check_dnn() -> Result<usize, LoadError> {
    open(&CUDNN)?;
    // SAFETY: the library is open; the function takes nothing.
    Ok(unsafe { cudnn::sys::cudnnGetVersion() })
}

fn nvrtc_version() -> i32 {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: callers have opened the library; the pointers are to locals that outlive the call. It cannot fail with
    // pointers that are not null.
    unsafe { nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    1000 * major + 10 * minor
}

fn open(wanted: &Wanted) -> Result<(), LoadError> {
    let mut problem = String::new();
    for name in cudarc::get_lib_name_candidates(wanted.name) {
        match open_file(Path::new(&name)) {
            Ok(()) => return Ok(()),
            // The message about the file that should be there says the most.
            Err(error) if name == wanted.file || problem.is_empty() => problem = error.to_string(),
            Err(_) => {}
        }
    }
    Err(LoadError::Library {
        library: wanted.file,
        problem,
        advice: wanted.advice,
    })
}

/// Opens a folder's copies first, so that they are found whatever the loader's paths are.
///
/// # Errors
/// When a file of one of the libraries is there and cannot be opened.
pub fn open_from(folder: &Path) -> Result<(), LoadError> {
    // The compiler opens its second half by name; it must be there before.
    let files = [
        ("libnvrtc-builtins.so.13.0", NVRTC.advice),
        (NVRTC.file, NVRTC.advice),
        (CUBLASLT.file, CUBLASLT.advice),
        (CUDNN.file, CUDNN.advice),
    ];
    for (library, advice) in files {
        let path = folder.join(library);
        if !path.exists() {
            continue;
        }
        open_file(&path).map_err(|error| LoadError::Library {
            library,
            problem: error.to_string(),
            advice,
        })?;
    }
    Ok(())
}

/// Opens a library for the rest of the process.
fn open_file(path: &Path) -> Result<(), libloading::Error> {
    // SAFETY: only NVIDIA's libraries are opened, by name or from a folder that the operator of this process chose; their
    // initialisers have no precondition.
    let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
    std::mem::forget(handle);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_named_with_where_it_comes_from() {
        let missing = Wanted {
            name: "zimage-no-such-library",
            file: "libzimage-no-such-library.so.1",
            advice: "it comes from nowhere",
        };
        let message = open(&missing).unwrap_err().to_string();
        assert!(
            message.starts_with("libzimage-no-such-library.so.1 cannot be opened: "),
            "{message}"
        );
        assert!(message.ends_with("it comes from nowhere"), "{message}");
    }

    #[test]
    fn an_old_driver_is_refused_with_the_least_one_named() {
        assert!(least_driver(13_000).is_ok());
        assert_eq!(
            least_driver(12_080).unwrap_err().to_string(),
            "the NVIDIA driver supports CUDA 12.8; CUDA 13.0 is the least, which driver 580.65 and later have"
        );
    }

    #[test]
    fn versions_are_written_as_their_makers_write_them() {
        let libraries = Libraries {
            driver: 13_010,
            nvrtc: 13_000,
            cublaslt: 130_101,
            cudnn: 91_900,
        };
        assert_eq!(
            libraries.to_string(),
            "driver for CUDA 13.1, NVRTC 13.0, cuBLASLt 130101, cuDNN 9.19.0"
        );
    }
}
