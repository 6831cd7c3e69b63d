//! A request between two steps, and the step.

use super::CudaExecutor;
use super::captions::Caption;
use super::start_image::StartImage;
use crate::error::GpuError;
use crate::memory::{Memory, Region};
use crate::ops::F32;
use crate::ops::sampler::{Patches, euler_step, guide};
use crate::transformer::{Modulations, Sizes};
use std::sync::Arc;
use zimage_core::executor::{ExecutorError, Slot};
use zimage_core::pipeline::Denoising;

/// Steps that are on the stream before the host waits for the first of them: the GPU never waits for the host, and the
/// host is never far ahead of what it reports.
const IN_FLIGHT: usize = 2;

/// A request between two steps.
pub(super) struct State {
    pub(super) latents: Memory,
    pub(super) patches: Patches,
    pub(super) denoising: Denoising,
    pub(super) modulations: Arc<Modulations>,
    pub(super) caption: Arc<Caption>,
    pub(super) guided: Option<Guided>,
    pub(super) start: Option<StartImage>,
}

/// What guidance adds to a request.
pub(super) struct Guided {
    pub(super) negative: Arc<Caption>,
    /// The prediction for the prompt, while that for the negative prompt is computed.
    pub(super) positive: Memory,
}

impl State {
    /// Sizes of the forward with one of the state's captions.
    pub(super) fn sizes(&self, caption: &Caption) -> Sizes {
        Sizes {
            rows: self.patches.rows,
            columns: self.patches.columns,
            caption: caption.padded(),
        }
    }
}

impl CudaExecutor {
    pub(super) fn take_step(&mut self, slot: Slot) -> Result<(), ExecutorError> {
        self.states.get(slot)?.denoising.check(slot)?;
        let mut state = self.states.take(slot)?;
        let taken = self.advance(&mut state);
        // After a failure too: its memory is given back when the slot is released.
        self.states.put_back(slot, state);
        Ok(taken?)
    }

    fn advance(&mut self, state: &mut State) -> Result<(), GpuError> {
        let count = state.patches.numbers();
        let latents = state.latents.region();
        let guidance = state.denoising.guidance();
        let mut prediction = self.predict(state, &state.caption)?;
        if let Some((guidance, guided)) = guidance.zip(state.guided.as_ref()) {
            let positive = guided.positive.region();
            self.compute.gpu.copy(positive, prediction, count * F32)?;
            let negative = self.predict(state, &guided.negative)?;
            let factors = (guidance.scale as f32, guidance.normalization.factor());
            guide(&self.compute.gpu, positive, negative, factors, count)?;
            prediction = positive;
        }
        let gpu = &self.compute.gpu;
        euler_step(gpu, latents, prediction, state.denoising.delta(), count)?;
        state.denoising.advance();
        if let Some(start) = &state.start {
            let sigma = state.denoising.sigma();
            start.keep(gpu, state.patches, latents, sigma)?;
        }
        self.wait_for_earlier_steps()
    }

    /// The model's prediction for a state's latents, which is there until the arena is used again.
    fn predict(&mut self, state: &State, caption: &Caption) -> Result<Region, GpuError> {
        let sizes = state.sizes(caption);
        let bytes = self.transformer.bytes(sizes)?;
        let arena = self.scratch(bytes)?;
        let plan = self
            .plans
            .forward(&self.compute, &self.transformer, arena, sizes)?;
        let (gpu, work) = (&self.compute.gpu, plan.work());
        gpu.copy(
            work.latents,
            state.latents.region(),
            state.patches.numbers() * F32,
        )?;
        gpu.copy(work.caption, caption.region(), caption.region().bytes())?;
        state
            .modulations
            .select(gpu, state.denoising.next(), work)?;
        plan.run(&self.compute, &self.transformer)?;
        Ok(plan.work().prediction)
    }

    fn wait_for_earlier_steps(&mut self) -> Result<(), GpuError> {
        let event = match self.in_flight.len() {
            IN_FLIGHT.. => self.in_flight.pop_front(),
            _ => None,
        };
        let event = match event {
            Some(event) => {
                event.synchronize()?;
                event
            }
            None => self.compute.gpu.event()?,
        };
        event.record(self.compute.gpu.stream())?;
        self.in_flight.push_back(event);
        Ok(())
    }
}
