//! Forwards, recorded once for each size and replayed.

use crate::compute::Compute;
use crate::error::GpuError;
use crate::memory::{Layout, Memory, Region};
use crate::transformer::{Sizes, Transformer, Work};
use cudarc::driver::CudaGraph;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sizes whose plans are kept. A plan is a few megabytes.
const KEPT: usize = 32;

/// Forwards of this process that were put on the stream call by call.
static EAGER: AtomicU64 = AtomicU64::new(0);

/// Forwards of this process that could not be recorded and replayed, and ran call by call: slower, and as right.
pub fn eager_forwards() -> u64 {
    EAGER.load(Ordering::Relaxed)
}

/// The forwards of the last sizes, the latest first.
#[derive(Default)]
pub(super) struct Plans(VecDeque<Plan>);

/// One size's forward.
pub(super) struct Plan {
    /// `None`: it cannot be recorded, and each forward is put on the stream call by call.
    graph: Option<CudaGraph>,
    work: Work,
    _table: Memory,
}

impl Plans {
    /// Drops every plan: their memory is gone.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// The plan of a size in an arena that is large enough.
    pub(super) fn get(
        &mut self,
        compute: &Compute,
        transformer: &Transformer,
        arena: Region,
        sizes: Sizes,
    ) -> Result<&Plan, GpuError> {
        let known = self.0.iter().position(|plan| plan.work.sizes == sizes);
        let plan = match known.and_then(|place| self.0.remove(place)) {
            Some(plan) => plan,
            None => Plan::new(compute, transformer, arena, sizes)?,
        };
        self.0.truncate(KEPT - 1);
        self.0.push_front(plan);
        Ok(&self.0[0])
    }
}

impl Plan {
    fn new(
        compute: &Compute,
        transformer: &Transformer,
        arena: Region,
        sizes: Sizes,
    ) -> Result<Self, GpuError> {
        let gpu = &compute.gpu;
        let table = transformer.table_of(gpu, sizes)?;
        let work = transformer.lay_out(&mut Layout::over(arena), sizes, table.region())?;
        // Chooses algorithms and builds plans, which cannot be recorded.
        transformer.fill(gpu, &work)?;
        transformer.tune(compute, &work)?;
        transformer.forward(compute, &work)?;
        gpu.synchronize()?;
        let graph = match gpu.capture(|| transformer.forward(compute, &work)) {
            Ok(graph) => Some(graph),
            Err(error) if error.is_lost() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, ?sizes, "the forward cannot be recorded; it runs call by call");
                None
            }
        };
        Ok(Self {
            graph,
            work,
            _table: table,
        })
    }

    pub(super) const fn work(&self) -> &Work {
        &self.work
    }

    pub(super) fn run(&self, compute: &Compute, transformer: &Transformer) -> Result<(), GpuError> {
        match &self.graph {
            Some(graph) => Ok(graph.launch()?),
            None => {
                EAGER.fetch_add(1, Ordering::Relaxed);
                transformer.forward(compute, &self.work)
            }
        }
    }
}
