//! A request between two steps, and the step.

use super::captions::Caption;
use super::start_image::StartImage;
use super::{CudaExecutor, not_taken};
use crate::error::GpuError;
use crate::memory::{Memory, Region};
use crate::ops::F32;
use crate::ops::sampler::{Patches, euler_step, guide};
use crate::transformer::{Modulations, Sizes};
use std::sync::Arc;
use zimage_core::executor::{ExecutorError, Slot};
use zimage_core::guidance::Guidance;
use zimage_core::schedule::NoiseSchedule;

/// Steps that are on the stream before the host waits for the first of them: the GPU never waits for the host, and the
/// host is never far ahead of what it reports.
const IN_FLIGHT: usize = 2;

/// A request between two steps.
pub(super) struct State {
    pub(super) latents: Memory,
    pub(super) patches: Patches,
    pub(super) schedule: NoiseSchedule,
    pub(super) modulations: Arc<Modulations>,
    pub(super) step: usize,
    pub(super) caption: Arc<Caption>,
    pub(super) guided: Option<Guided>,
    pub(super) start: Option<StartImage>,
}

/// What guidance adds to a request.
pub(super) struct Guided {
    pub(super) guidance: Guidance,
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
        let mut state = self.states.remove(&slot).ok_or_else(|| not_taken(slot))?;
        if state.step >= state.schedule.steps() {
            let message = format!("slot {} has no step left", slot.0);
            return Err(ExecutorError::Failed(message));
        }
        self.advance(&mut state)?;
        self.states.insert(slot, state);
        Ok(())
    }

    fn advance(&mut self, state: &mut State) -> Result<(), GpuError> {
        let (time, count) = (state.schedule.time(state.step), state.patches.numbers());
        let latents = state.latents.region();
        let guided = state
            .guided
            .as_ref()
            .filter(|guided| guided.guidance.applies_at(time));
        let mut prediction = self.predict(state, &state.caption)?;
        if let Some(guided) = guided {
            let positive = guided.positive.region();
            self.compute.gpu.copy(positive, prediction, count * F32)?;
            let negative = self.predict(state, &guided.negative)?;
            let guidance = &guided.guidance;
            let factors = (guidance.scale as f32, guidance.normalization.factor());
            guide(&self.compute.gpu, positive, negative, factors, count)?;
            prediction = positive;
        }
        let gpu = &self.compute.gpu;
        euler_step(
            gpu,
            latents,
            prediction,
            state.schedule.delta(state.step),
            count,
        )?;
        state.step += 1;
        if let Some(start) = &state.start {
            let sigma = state.schedule.sigma(state.step);
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
        state.modulations.select(gpu, state.step, work)?;
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
