//! A graph and the engine that computes it.

use super::descriptor::{Descriptor, check};
use super::graph::Graph;
use crate::error::GpuError;
use crate::memory::Region;
use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Kind,
    cudnnBackendHeurMode_t as Mode, cudnnHandle_t,
};

/// An operation that can be executed.
pub(super) struct Plan {
    plan: Descriptor,
    identities: Vec<i64>,
    /// Their addresses are given to the library with each execution.
    scalars: Box<[f32]>,
    /// The plan refers to them.
    _graph: Graph,
}

impl Plan {
    /// The first engine that the library offers whose scratch memory is within the limit.
    pub(super) fn new(graph: Graph, handle: cudnnHandle_t, most: usize) -> Result<Self, GpuError> {
        let operations = graph.finalize(Some(handle))?;
        let mut refusal = GpuError::library("cuDNN's heuristics", "no engine offered");
        for mode in [Mode::CUDNN_HEUR_MODE_A, Mode::CUDNN_HEUR_MODE_FALLBACK] {
            let offered = engines(&operations, mode).unwrap_or_else(|error| {
                refusal = error;
                Vec::new()
            });
            for engine in offered {
                match prepare(&engine, handle, most) {
                    Ok(plan) => return Ok(Self::of(plan, graph)),
                    Err(error) => refusal = error,
                }
            }
        }
        Err(refusal)
    }

    fn of(plan: Descriptor, graph: Graph) -> Self {
        let scalars = graph.scalars.iter().copied();
        let (scalar_identities, scalars): (Vec<i64>, Vec<f32>) = scalars.unzip();
        Self {
            plan,
            identities: [graph.tensors.clone(), scalar_identities].concat(),
            scalars: scalars.into(),
            _graph: graph,
        }
    }

    /// Puts the operation on the handle's stream. `tensors` are the addresses of the graph's tensors in device memory
    /// in the order in which it was built; the caller has checked their sizes.
    pub(super) fn execute(
        &self,
        handle: cudnnHandle_t,
        tensors: &[u64],
        workspace: Region,
    ) -> Result<(), GpuError> {
        let scalars = self.scalars.iter();
        let addresses = scalars.map(|scalar| std::ptr::from_ref(scalar).addr() as u64);
        let pointers: Vec<u64> = tensors.iter().copied().chain(addresses).collect();
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(
            Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
            &[workspace.pointer()],
        )?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &pointers)?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &self.identities)?;
        let pack = pack.finalize("a variant pack")?;
        // SAFETY: plan and pack are alive and finalized; the scratch memory is as large as the plan was allowed to ask
        // for; the numbers' addresses live as long as this plan, which outlives any graph that recorded it.
        check("cudnnBackendExecute", unsafe {
            sys::cudnnBackendExecute(handle, self.plan.0, pack.0)
        })
    }
}

/// The engines that the library thinks of, the fastest first.
fn engines(operations: &Descriptor, mode: Mode) -> Result<Vec<Descriptor>, GpuError> {
    let heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    heuristics.set(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[operations.0])?;
    heuristics.set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, &[mode])?;
    heuristics.finalize("heuristics")?.list(
        Name::CUDNN_ATTR_ENGINEHEUR_RESULTS,
        Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
    )
}

fn prepare(
    engine: &Descriptor,
    handle: cudnnHandle_t,
    most: usize,
) -> Result<Descriptor, GpuError> {
    let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
    plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[engine.0])?;
    plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[handle])?;
    let plan = plan.finalize("an execution plan")?;
    let needs = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    if usize::try_from(needs).is_ok_and(|needs| needs <= most) {
        return Ok(plan);
    }
    Err(GpuError::library(
        "a cuDNN engine",
        format!("asks for {needs} bytes of scratch memory"),
    ))
}
