//! Algorithms beyond those that the library's heuristics think of.
//!
//! Settings are tried one after the other: the best tiles of each kind first, then for these every number of stages and
//! every shape of clusters.

use super::description::Description;
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulAlgoCapAttributes_t as Capability,
    cublasLtMatmulAlgoConfigAttributes_t as Setting,
};
use std::ffi::c_int;

/// Kinds of algorithms that are asked for; the library has about twenty.
const KINDS: usize = 64;

/// Pairs of kind and tile that are looked at closely.
const CLOSELY: usize = 6;

/// Shapes of thread block clusters that are tried: up to eight blocks.
const CLUSTERS: [u16; 11] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// Algorithms for a product, the fastest first, by what `time` says: nothing for what cannot be computed after all.
pub(super) fn search(
    handle: sys::cublasLtHandle_t,
    description: &Description,
    time: impl Fn(&Algorithm) -> Option<f32>,
) -> Vec<Algorithm> {
    let timed = |candidates: Vec<Algorithm>| {
        let accepted = candidates
            .into_iter()
            .filter(|algorithm| description.accepts(handle, algorithm));
        let mut timed: Vec<(f32, Algorithm)> = accepted
            .filter_map(|algorithm| Some((time(&algorithm)?, algorithm)))
            .collect();
        timed.sort_by(|one, other| one.0.total_cmp(&other.0));
        timed
    };
    let mut tiles = Vec::new();
    for kind in kinds(handle, description) {
        let of_kind = list(&kind, Capability::CUBLASLT_ALGO_CAP_TILE_IDS);
        let setting = Setting::CUBLASLT_ALGO_CONFIG_TILE_ID;
        tiles.extend(of_kind.iter().map(|&tile| with(&kind, setting, tile)));
    }
    let mut best = timed(tiles.iter().flat_map(in_stages).collect());
    let mut seen = Vec::new();
    best.retain(|(_, algorithm)| {
        let place = tiles_of(algorithm);
        let new = !seen.contains(&place) && seen.len() < CLOSELY;
        seen.push(place);
        new
    });
    let setting = Setting::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID;
    let clusters = |algorithm: &Algorithm| CLUSTERS.map(|shape| with(algorithm, setting, shape));
    let closely: Vec<Algorithm> = best
        .iter()
        .flat_map(|(_, algorithm)| in_stages(algorithm))
        .flat_map(|algorithm| clusters(&algorithm))
        .collect();
    best.extend(timed(closely));
    best.sort_by(|one, other| one.0.total_cmp(&other.0));
    best.into_iter().map(|(_, algorithm)| algorithm).collect()
}

/// An algorithm with each number of stages that it knows.
fn in_stages(algorithm: &Algorithm) -> Vec<Algorithm> {
    let stages = list(algorithm, Capability::CUBLASLT_ALGO_CAP_STAGES_IDS);
    let setting = Setting::CUBLASLT_ALGO_CONFIG_STAGES_ID;
    stages
        .iter()
        .map(|&stage| with(algorithm, setting, stage))
        .collect()
}

/// Kind and tile.
fn tiles_of(algorithm: &Algorithm) -> [u32; 2] {
    [
        Setting::CUBLASLT_ALGO_CONFIG_ID,
        Setting::CUBLASLT_ALGO_CONFIG_TILE_ID,
    ]
    .map(|setting| {
        let (mut value, mut bytes) = (0u32, 0);
        let pointer: *mut u32 = &mut value;
        // SAFETY: the pointer is to a local, whose size is given with it.
        unsafe {
            sys::cublasLtMatmulAlgoConfigGetAttribute(
                algorithm,
                setting,
                pointer.cast(),
                size_of::<u32>(),
                &mut bytes,
            )
        };
        value
    })
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

/// An algorithm with a setting. What is refused stays as it was: the library says later whether it can compute the whole.
fn with<T>(algorithm: &Algorithm, setting: Setting, value: T) -> Algorithm {
    let mut algorithm = *algorithm;
    let pointer: *const T = &value;
    // SAFETY: both pointers are to locals, and the value's size is given with it.
    unsafe {
        sys::cublasLtMatmulAlgoConfigSetAttribute(
            &mut algorithm,
            setting,
            pointer.cast(),
            size_of::<T>(),
        )
    };
    algorithm
}
