//! Every kernel compiles for every architecture that the engine is built for, on a machine without a GPU.
#![expect(clippy::unwrap_used, reason = "a test fails with the error it unwraps")]

use std::env;
use std::path::PathBuf;
use zimage_cuda::kernels::{SOURCES, compile};
use zimage_cuda::libraries;

/// Where tests/cuda-libraries puts the compiler.
fn folder() -> PathBuf {
    if let Some(folder) = env::var_os("ZIMAGE_CUDA_LIBRARIES") {
        return folder.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| env::home_dir().unwrap().join(".cache"));
    cache.join("zimage/cuda-libraries/lib")
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let folder = folder();
    assert!(
        folder.join("libnvrtc.so.13").exists(),
        "there is no CUDA compiler in {}: run tests/cuda-libraries, or set ZIMAGE_CUDA_LIBRARIES",
        folder.display()
    );
    libraries::open_from(&folder).unwrap();
    assert!(libraries::check_compiler().unwrap() >= 13_000);
    for architecture in ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"] {
        for source in SOURCES {
            let code = compile(source, architecture).unwrap();
            assert!(
                code.starts_with(b"\x7fELF"),
                "{} {architecture}",
                source.file
            );
        }
    }
}
