//! Algorithms beyond those that the library's heuristics think of.

use super::plan::Description;
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulAlgoCapAttributes_t as Capability,
    cublasLtMatmulAlgoConfigAttributes_t as Setting,
};
use std::ffi::c_int;

/// Kinds of algorithms that are asked for; the library has about twenty.
const KINDS: usize = 64;

/// Shapes of thread block clusters that are tried: the library's own choice, and up to eight blocks.
const CLUSTERS: [u16; 12] = [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// Every algorithm for a product that the library says it can compute.
pub(super) fn all(handle: sys::cublasLtHandle_t, description: &Description) -> Vec<Algorithm> {
    let mut found = Vec::new();
    for mut algorithm in kinds(handle, description) {
        let tiles = list(&algorithm, Capability::CUBLASLT_ALGO_CAP_TILE_IDS);
        let stages = list(&algorithm, Capability::CUBLASLT_ALGO_CAP_STAGES_IDS);
        for &tile in &tiles {
            set(&mut algorithm, Setting::CUBLASLT_ALGO_CONFIG_TILE_ID, tile);
            for &stage in &stages {
                set(
                    &mut algorithm,
                    Setting::CUBLASLT_ALGO_CONFIG_STAGES_ID,
                    stage,
                );
                for cluster in CLUSTERS {
                    let setting = Setting::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID;
                    set(&mut algorithm, setting, cluster);
                    if description.accepts(handle, &algorithm) {
                        found.push(algorithm);
                    }
                }
            }
        }
    }
    found
}

/// One algorithm of each kind, with the library's defaults.
fn kinds(handle: sys::cublasLtHandle_t, description: &Description) -> Vec<Algorithm> {
    let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
    let float = sys::cudaDataType_t::CUDA_R_32F;
    let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
    let stored = description.stored();
    let (mut ids, mut count) = ([0; KINDS], 0);
    // SAFETY: the handle is alive, and the array has room for as many as are asked for.
    let status = unsafe {
        sys::cublasLtMatmulAlgoGetIds(
            handle,
            compute,
            float,
            bf16,
            bf16,
            stored,
            stored,
            KINDS as c_int,
            ids.as_mut_ptr(),
            &mut count,
        )
    };
    if status != sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Vec::new();
    }
    let algorithm = |&id: &c_int| {
        let mut algorithm = Algorithm { data: [0; 8] };
        // SAFETY: the handle is alive, and the pointer is to a local.
        let status = unsafe {
            sys::cublasLtMatmulAlgoInit(
                handle,
                compute,
                float,
                bf16,
                bf16,
                stored,
                stored,
                id,
                &mut algorithm,
            )
        };
        (status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).then_some(algorithm)
    };
    ids[..count.clamp(0, KINDS as c_int) as usize]
        .iter()
        .filter_map(algorithm)
        .collect()
}

/// The values that an algorithm knows for a setting; zero, the library's choice, when it names none.
fn list(algorithm: &Algorithm, capability: Capability) -> Vec<u32> {
    let mut bytes = 0;
    // SAFETY: nothing is written but the size.
    let status = unsafe {
        sys::cublasLtMatmulAlgoCapGetAttribute(
            algorithm,
            capability,
            std::ptr::null_mut(),
            0,
            &mut bytes,
        )
    };
    if status != sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS || bytes == 0 {
        return vec![0];
    }
    let mut values = vec![0u32; bytes / size_of::<u32>()];
    // SAFETY: the buffer has the size that the library asked for.
    let status = unsafe {
        sys::cublasLtMatmulAlgoCapGetAttribute(
            algorithm,
            capability,
            values.as_mut_ptr().cast(),
            size_of_val(values.as_slice()),
            &mut bytes,
        )
    };
    match status {
        sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS => values,
        _ => vec![0],
    }
}

/// What is refused stays as it was: the library says later whether it can compute the whole.
fn set<T>(algorithm: &mut Algorithm, setting: Setting, value: T) {
    let pointer: *const T = &value;
    // SAFETY: the pointer is to a local, whose size is given with it.
    unsafe {
        sys::cublasLtMatmulAlgoConfigSetAttribute(
            algorithm,
            setting,
            pointer.cast(),
            size_of::<T>(),
        )
    };
}
