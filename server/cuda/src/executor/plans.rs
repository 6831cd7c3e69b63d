//! Forwards, recorded once for each size and replayed.

use crate::compute::Compute;
use crate::error::GpuError;
use crate::memory::{Layout, Memory, Region};
use crate::text_encoder::{TextEncoder, Work as TextWork};
use crate::transformer::{Sizes, Transformer, Work};
use cudarc::driver::CudaGraph;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sizes whose plans are kept. A plan is a few megabytes.
const KEPT: usize = 32;

/// Forwards of this process that were put on the stream call by call.
static EAGER: AtomicU64 = AtomicU64::new(0);

/// Forwards of this process that could not be recorded and replayed, and ran call by call: slower, and as right.
pub fn eager_forwards() -> u64 {
    EAGER.load(Ordering::Relaxed)
}

/// The plans of the last sizes.
#[derive(Default)]
pub(super) struct Plans {
    forwards: Latest<Plan>,
    prompts: Latest<PromptPlan>,
}

/// The latest first.
struct Latest<T>(VecDeque<T>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Latest<T> {
    /// The one that is wanted, made if it is not there.
    fn get(
        &mut self,
        wanted: impl Fn(&T) -> bool,
        make: impl FnOnce() -> Result<T, GpuError>,
    ) -> Result<&T, GpuError> {
        let known = self.0.iter().position(wanted);
        let found = match known.and_then(|place| self.0.remove(place)) {
            Some(found) => found,
            None => make()?,
        };
        self.0.truncate(KEPT - 1);
        self.0.push_front(found);
        Ok(&self.0[0])
    }
}

impl Plans {
    /// The plan of a size in an arena that is large enough.
    pub(super) fn forward(
        &mut self,
        compute: &Compute,
        transformer: &Transformer,
        arena: Region,
        sizes: Sizes,
    ) -> Result<&Plan, GpuError> {
        let make = || Plan::new(compute, transformer, arena, sizes);
        self.forwards.get(|plan| plan.work.sizes == sizes, make)
    }

    /// The plan of prompts of so many tokens at the beginning of an arena that is large enough.
    pub(super) fn prompt(
        &mut self,
        compute: &Compute,
        encoder: &TextEncoder,
        arena: Region,
        tokens: usize,
    ) -> Result<&PromptPlan, GpuError> {
        let tokens = TextEncoder::bucket(tokens);
        let make = || PromptPlan::new(compute, encoder, arena, tokens);
        self.prompts.get(|plan| plan.work.tokens == tokens, make)
    }
}

/// Work that is replayed. `None`: it cannot be recorded, and is put on the stream call by call each time.
struct Recorded(Option<CudaGraph>);

impl Recorded {
    /// Does the work once, which chooses algorithms and builds plans, and then records it.
    fn new(
        compute: &Compute,
        of: impl Debug,
        work: impl Fn() -> Result<(), GpuError>,
    ) -> Result<Self, GpuError> {
        work()?;
        compute.gpu.synchronize()?;
        match compute.gpu.capture(work) {
            Ok(graph) => Ok(Self(Some(graph))),
            Err(error) => {
                // What a stream refuses to record does not touch the device.
                compute.gpu.synchronize()?;
                tracing::warn!(%error, ?of, "a forward cannot be recorded; it runs call by call");
                Ok(Self(None))
            }
        }
    }

    fn run(&self, work: impl FnOnce() -> Result<(), GpuError>) -> Result<(), GpuError> {
        match &self.0 {
            Some(graph) => Ok(graph.launch()?),
            None => {
                EAGER.fetch_add(1, Ordering::Relaxed);
                work()
            }
        }
    }
}

/// One size's forward.
pub(super) struct Plan {
    recorded: Recorded,
    work: Work,
    _table: Memory,
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
        transformer.fill(gpu, &work)?;
        transformer.tune(compute, &work)?;
        Ok(Self {
            recorded: Recorded::new(compute, sizes, || transformer.forward(compute, &work))?,
            work,
            _table: table,
        })
    }

    pub(super) const fn work(&self) -> &Work {
        &self.work
    }

    pub(super) fn run(&self, compute: &Compute, transformer: &Transformer) -> Result<(), GpuError> {
        self.recorded
            .run(|| transformer.forward(compute, &self.work))
    }
}

/// The text encoder's layers for prompts of one length.
pub(super) struct PromptPlan {
    recorded: Recorded,
    work: TextWork,
    _table: Memory,
}

impl PromptPlan {
    fn new(
        compute: &Compute,
        encoder: &TextEncoder,
        arena: Region,
        tokens: usize,
    ) -> Result<Self, GpuError> {
        let table = encoder.table_of(&compute.gpu, tokens)?;
        let work = encoder.lay_out(&mut Layout::over(arena), tokens, table.region())?;
        // Numbers that earlier work has left may be none.
        encoder.embed(&compute.gpu, &work, &vec![0; tokens])?;
        Ok(Self {
            recorded: Recorded::new(compute, tokens, || encoder.forward(compute, &work))?,
            work,
            _table: table,
        })
    }

    /// The hidden states (tokens, hidden) of a prompt's tokens, in the arena.
    pub(super) fn run(
        &self,
        compute: &Compute,
        encoder: &TextEncoder,
        ids: &[u32],
    ) -> Result<Region, GpuError> {
        encoder.embed(&compute.gpu, &self.work, ids)?;
        self.recorded.run(|| encoder.forward(compute, &self.work))?;
        encoder.hidden(&self.work, ids.len())
    }
}
