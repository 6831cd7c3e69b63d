//! Attention and convolutions through cuDNN's operation graphs.
//!
//! ```text
//! Attention, Convolution ─> Graph (descriptors) ─> engines that the library offers ─> Plan ─> execute
//! ```
//!
//! A graph is checked by the library without a GPU; a plan needs one.

mod attention;
mod convolution;
mod descriptor;
mod graph;
mod plan;

pub use convolution::Convolution;
pub use graph::Graph;

use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::memory::{Memory, Region};
use crate::ops;
use crate::ops::BF16;
use crate::shapes::{Attention, Heads};
use cudarc::cudnn::sys;
use descriptor::check;
use plan::Plan;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Scratch memory that a plan may use; plans that want more are passed over.
const WORKSPACE: usize = 256 << 20;

/// Convolutions whose plans are kept: those of some fifty sizes. There are thousands of sizes, and a plan is taken anew
/// from the library within a millisecond. Attentions differ in their tokens alone, of which there are some hundreds.
pub const CONVOLUTIONS: usize = 1024;

/// cuDNN, with a plan for each operation that was computed lately.
pub struct Dnn {
    attentions: RefCell<HashMap<Attention, Option<Plan>>>,
    convolutions: RefCell<HashMap<Convolution, Plan>>,
    workspace: Memory,
    handle: Handle,
}

/// Destroyed after the plans, as the last field.
struct Handle(sys::cudnnHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle was created and is destroyed only here.
        let _ = unsafe { sys::cudnnDestroy(self.0) };
    }
}

impl Dnn {
    /// Opens cuDNN on the GPU's stream.
    ///
    /// # Errors
    /// When the library or memory fails.
    pub fn new(gpu: &Gpu) -> Result<Self, LoadError> {
        gpu.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the GPU's context is the thread's; the pointer is to a local.
        check("cudnnCreate", unsafe { sys::cudnnCreate(&mut handle) })?;
        let handle = Handle(handle);
        let stream = gpu.stream().cu_stream().cast();
        // SAFETY: the handle is alive, and so is the stream as long as the GPU, which outlives what is computed on it.
        check("cudnnSetStream", unsafe {
            sys::cudnnSetStream(handle.0, stream)
        })?;
        Ok(Self {
            attentions: RefCell::default(),
            convolutions: RefCell::default(),
            workspace: gpu.allocate(WORKSPACE)?,
            handle,
        })
    }

    /// Scaled dot-product attention over fused rows of (q | k | v) into rows of heads. The first of its sizes builds
    /// its plan, which must not happen while work is recorded. Where cuDNN has no plan the engine's own kernel, which
    /// is slow, computes it.
    ///
    /// # Errors
    /// When a region is too small or the driver reports a fault.
    pub fn attend(
        &self,
        gpu: &Gpu,
        attention: Attention,
        y: Region,
        rows: Region,
    ) -> Result<(), GpuError> {
        let heads = attention.heads;
        rows.require(heads.bytes())?;
        y.require(heads.tokens * heads.heads * heads.width * BF16)?;
        let mut plans = self.attentions.borrow_mut();
        let plan = plans.entry(attention).or_insert_with(|| {
            let planned = attention.graph().and_then(|graph| Plan::new(graph, self.handle.0, WORKSPACE));
            planned
                .map_err(|error| tracing::warn!(?attention, %error, "cuDNN has no plan for this attention"))
                .ok()
        });
        let Some(plan) = plan else {
            return ops::attention::plain(gpu, heads, y, rows, attention.causal);
        };
        let Heads {
            heads: q_heads,
            kv_heads,
            width,
            ..
        } = heads;
        let q = rows.pointer();
        let k = q + (q_heads * width * BF16) as u64;
        let v = k + (kv_heads * width * BF16) as u64;
        plan.execute(
            self.handle.0,
            &[q, k, v, y.pointer()],
            self.workspace.region(),
        )
    }

    /// `y = convolution(x) + residual + bias`; the residual is there when the convolution has one. The first of its
    /// sizes builds its plan, which must not happen while work is recorded.
    ///
    /// # Errors
    /// When a region is too small, cuDNN has no plan, or the driver reports a fault.
    pub fn convolve(
        &self,
        convolution: Convolution,
        y: Region,
        x: Region,
        (weight, bias): (Region, Region),
        residual: Option<Region>,
    ) -> Result<(), GpuError> {
        let [x_bytes, weight_bytes, y_bytes] = convolution.bytes();
        x.require(x_bytes)?;
        weight.require(weight_bytes)?;
        y.require(y_bytes)?;
        bias.require(convolution.outputs * BF16)?;
        let mut pointers = vec![x.pointer(), weight.pointer(), y.pointer(), bias.pointer()];
        if convolution.residual {
            let missing = || GpuError::Bounds("a convolution lacks its residual".to_owned());
            let residual = residual.ok_or_else(missing)?;
            residual.require(y_bytes)?;
            pointers.push(residual.pointer());
        }
        let mut plans = self.convolutions.borrow_mut();
        let plan = match plans.entry(convolution) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Plan::new(convolution.graph()?, self.handle.0, WORKSPACE)?)
            }
        };
        plan.execute(self.handle.0, &pointers, self.workspace.region())
    }

    /// Plans of convolutions that are kept.
    pub fn planned(&self) -> usize {
        self.convolutions.borrow().len()
    }

    /// Drops the plans of convolutions when there are more than [`CONVOLUTIONS`]. Waits for the GPU then: their code may
    /// still be running.
    ///
    /// # Errors
    /// When earlier work failed.
    pub fn trim(&self, gpu: &Gpu) -> Result<(), GpuError> {
        let mut plans = self.convolutions.borrow_mut();
        if plans.len() > CONVOLUTIONS {
            gpu.synchronize()?;
            plans.clear();
        }
        Ok(())
    }
}
