//! What cuBLASLt is told about a product.

use super::{Beside, Operands, Output, Product, WORKSPACE};
use crate::error::GpuError;
use crate::gpu::Gpu;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulMatrixScale_t as Mode,
};
use cudarc::driver::sys::CUevent_flags;
use std::ffi::c_void;

/// Algorithms that the library's heuristics are asked for.
const OFFERED: usize = 8;

/// Row-major y = x * weight^T is what cuBLASLt, which counts by columns, calls the product of the transposed weight
/// and x.
pub(super) struct Description {
    stored: sys::cudaDataType_t,
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: the description was created with this one and is destroyed only here.
        let _ = unsafe { result::destroy_matmul_desc(self.product) };
        for layout in [self.weight, self.x, self.y] {
            // SAFETY: the layout was created with this description and is destroyed only here.
            let _ = unsafe { result::destroy_matrix_layout(layout) };
        }
    }
}

fn failed(call: &'static str) -> impl FnOnce(CublasError) -> GpuError {
    move |error| GpuError::library(call, error)
}

impl Description {
    pub(super) fn new(product: Product, beside: Beside) -> Result<Self, GpuError> {
        let stored = match product.output {
            Output::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            Output::F32 => sys::cudaDataType_t::CUDA_R_32F,
        };
        let factors = match beside {
            Beside::Nothing | Beside::Bias(_) => sys::cudaDataType_t::CUDA_R_16BF,
            Beside::Scales(..) => sys::cudaDataType_t::CUDA_R_8F_E4M3,
        };
        let layout = |dtype, rows: usize, columns: usize| {
            result::create_matrix_layout(dtype, rows as u64, columns as u64, rows as i64)
                .map_err(failed("cublasLtMatrixLayoutCreate"))
        };
        let description = Self {
            stored,
            product: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            )
            .map_err(failed("cublasLtMatmulDescCreate"))?,
            weight: layout(factors, product.k, product.n)?,
            x: layout(factors, product.k, product.m)?,
            y: layout(stored, product.n, product.m)?,
        };
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &1i32)?;
        match beside {
            Beside::Nothing => {}
            Beside::Bias(_) => {
                let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
                description.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            }
            Beside::Scales(..) => {
                let of_rows = Mode::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F as i32;
                description.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &of_rows)?;
                description.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &of_rows)?;
                // Its sums keep fewer bits, whose error is a tenth of that of the operands.
                description.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &1i8)?;
            }
        }
        description.point_at(beside)?;
        Ok(description)
    }

    /// Says where the bias or the scales are.
    fn point_at(&self, beside: Beside) -> Result<(), GpuError> {
        match beside {
            Beside::Nothing => Ok(()),
            Beside::Bias(bias) => self.set(
                Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                &bias.pointer(),
            ),
            Beside::Scales(x, weight) => {
                self.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &weight)?;
                self.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x)
            }
        }
    }

    fn set<T>(&self, attribute: Attribute, value: &T) -> Result<(), GpuError> {
        let pointer: *const T = value;
        // SAFETY: the description is alive, and the value's size is given with it.
        unsafe {
            result::set_matmul_desc_attribute(
                self.product,
                attribute,
                pointer.cast(),
                size_of::<T>(),
            )
        }
        .map_err(failed("cublasLtMatmulDescSetAttribute"))
    }

    /// How y is stored.
    pub(super) const fn stored(&self) -> sys::cudaDataType_t {
        self.stored
    }

    /// The algorithms that the library offers, the one it thinks fastest first; at least one.
    pub(super) fn offered(
        &self,
        handle: sys::cublasLtHandle_t,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, GpuError> {
        let preference =
            result::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        let most: *const usize = &WORKSPACE;
        // SAFETY: the preference is alive, and the value has the eight bytes of the attribute.
        let limited = unsafe {
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                most.cast(),
                size_of::<usize>(),
            )
        };
        // SAFETY: the structure is plain numbers, for which zeros are valid.
        let empty: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let (mut found, mut count) = (vec![empty; OFFERED], 0);
        // SAFETY: every description is alive, and the results have room for as many as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.product,
                self.weight,
                self.x,
                self.y,
                self.y,
                preference,
                OFFERED as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        // SAFETY: the preference was created above and is not used again.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        limited.map_err(failed("cublasLtMatmulPreferenceSetAttribute"))?;
        status
            .result()
            .map_err(failed("cublasLtMatmulAlgoGetHeuristic"))?;
        found.truncate(count as usize);
        found.retain(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        if found.is_empty() {
            return Err(GpuError::library(
                "cublasLtMatmulAlgoGetHeuristic",
                "no algorithm",
            ));
        }
        Ok(found.into_iter().map(|result| result.algo).collect())
    }

    /// Whether the library can compute this with an algorithm that was remembered.
    pub(super) fn accepts(
        &self,
        handle: sys::cublasLtHandle_t,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> bool {
        // SAFETY: the structure is plain numbers, for which zeros are valid.
        let mut needs: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        // SAFETY: every description is alive; the library checks the algorithm's content.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                handle,
                self.product,
                self.weight,
                self.x,
                self.y,
                self.y,
                algorithm,
                &mut needs,
            )
        };
        status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && needs.workspaceSize <= WORKSPACE
    }

    /// Milliseconds of a product that is computed so many times, after one that does not count.
    pub(super) fn time(
        &self,
        gpu: &Gpu,
        operands: &Operands,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        runs: usize,
    ) -> Result<f32, GpuError> {
        self.run(gpu, operands, algorithm)?;
        milliseconds(gpu, || {
            (0..runs).try_for_each(|_| self.run(gpu, operands, algorithm))
        })
    }

    /// Milliseconds of a product whose operands no cache has: the scratch memory is larger than any.
    pub(super) fn time_cold(
        &self,
        gpu: &Gpu,
        operands: &Operands,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Result<f32, GpuError> {
        gpu.clear(operands.workspace)?;
        milliseconds(gpu, || self.run(gpu, operands, algorithm))
    }

    pub(super) fn run(
        &self,
        gpu: &Gpu,
        operands: &Operands,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Result<(), GpuError> {
        self.point_at(operands.beside)?;
        let (one, zero) = (1f32, 0f32);
        let scalar = |value: &f32| -> *const c_void { std::ptr::from_ref(value).cast() };
        // SAFETY: every description is alive; the caller checked that the regions hold what the sizes say; the scratch
        // memory has the size that the algorithm was asked to keep to. Work on it is ordered by the one stream.
        unsafe {
            result::matmul(
                operands.handle,
                self.product,
                scalar(&one),
                scalar(&zero),
                operands.weight.pointer() as *const c_void,
                self.weight,
                operands.x.pointer() as *const c_void,
                self.x,
                operands.y.pointer() as *const c_void,
                self.y,
                operands.y.pointer() as *mut c_void,
                self.y,
                algorithm,
                operands.workspace.pointer() as *mut c_void,
                WORKSPACE,
                gpu.stream().cu_stream().cast(),
            )
        }
        .map_err(failed("cublasLtMatmul"))
    }
}

/// What work takes on the GPU's stream.
fn milliseconds(gpu: &Gpu, work: impl FnOnce() -> Result<(), GpuError>) -> Result<f32, GpuError> {
    let event = || {
        let flags = CUevent_flags::CU_EVENT_DEFAULT;
        gpu.stream().context().new_event(Some(flags))
    };
    let (start, end) = (event()?, event()?);
    start.record(gpu.stream())?;
    work()?;
    end.record(gpu.stream())?;
    Ok(start.elapsed_ms(&end)?)
}
