//! What happens before the first step.

use super::CudaExecutor;
use super::start_image::Image;
use super::step::{Guided, State};
use crate::error::GpuError;
use crate::ops::F32;
use crate::transformer::Modulations;
use std::sync::Arc;
use std::thread;
use zimage_checkpoint::EncodedPrompt;
use zimage_core::executor::{Begun, ExecutorError};
use zimage_core::guidance::Guidance;
use zimage_core::omni;
use zimage_core::pipeline::{Denoising, Draws};
use zimage_core::pixels::Pixels;
use zimage_core::request::ImageRequest;
use zimage_core::schedule::NoiseSchedule;
use zimage_core::validate;

/// Schedules whose modulations are kept.
const SCHEDULES: usize = 4;

impl CudaExecutor {
    pub(super) fn begin_checked(&mut self, request: &ImageRequest) -> Result<Begun, ExecutorError> {
        validate::check(request, &self.transformer.limits())?;
        omni::check(request, false)?;
        validate::refuse_control(request)?;
        let prompt = self.encode("prompt", &request.prompt)?;
        let negative = match Guidance::of(request) {
            Some(_) => Some(
                self.encode("negative_prompt", &request.negative_prompt)?
                    .ids,
            ),
            None => None,
        };
        // What cannot be computed is refused before anything is done for it.
        let size = (request.height, request.width);
        let longest = prompt.ids.len().max(negative.as_ref().map_or(0, Vec::len));
        self.arena.require(self.gpu(), self.needs(size, longest)?)?;
        let state = self.start(request, &prompt.ids, negative.as_deref())?;
        self.plan(&state)?;
        // Last, because decoding makes do with the memory that the request's own has left.
        self.scratch(self.needs(size, longest)?)?;
        Ok(Begun {
            steps: state.denoising.left(),
            slot: self.states.add(state),
            prompt_tokens: prompt.ids.len() as u32,
            truncated: prompt.truncated,
        })
    }

    /// Makes the plans of a request's forwards, so that its steps take no memory.
    fn plan(&mut self, state: &State) -> Result<(), GpuError> {
        let negative = state.guided.as_ref().map(|guided| &guided.negative);
        for caption in [Some(&state.caption), negative].into_iter().flatten() {
            let sizes = state.sizes(caption);
            let arena = self.scratch(self.transformer.bytes(sizes)?)?;
            self.plans
                .forward(&self.compute, &self.transformer, arena, sizes)?;
        }
        Ok(())
    }

    fn encode(&self, field: &'static str, prompt: &str) -> Result<EncodedPrompt, ExecutorError> {
        let encoded = self
            .prompts
            .encode(prompt)
            .map_err(|error| ExecutorError::Failed(error.to_string()))?;
        let limits = self.transformer.limits();
        limits.check_prompt(field, encoded.ids.len())?;
        Ok(encoded)
    }

    /// The modulations of a schedule, which requests of as many steps share.
    fn modulations(&mut self, schedule: &NoiseSchedule) -> Result<Arc<Modulations>, GpuError> {
        let steps = schedule.steps() as u32;
        if let Some((_, known)) = self.schedules.iter().find(|(known, _)| *known == steps) {
            return Ok(Arc::clone(known));
        }
        let times: Vec<f32> = (0..schedule.steps())
            .map(|step| schedule.time(step))
            .collect();
        let modulations = Arc::new(self.transformer.modulations(&self.compute, &times)?);
        self.schedules.push_front((steps, Arc::clone(&modulations)));
        self.schedules.truncate(SCHEDULES);
        Ok(modulations)
    }

    fn start(
        &mut self,
        request: &ImageRequest,
        prompt: &[u32],
        negative: Option<&[u32]>,
    ) -> Result<State, GpuError> {
        let (rows, columns) = (request.height as usize / 16, request.width as usize / 16);
        let patches = self.transformer.patches(rows, columns);
        let count = patches.numbers();
        // The prompt goes through the GPU while the host draws the noise.
        let (captions, draws) = thread::scope(|scope| {
            let drawing = scope.spawn(|| Draws::of(request, count));
            let captions = self.captions_of(prompt, negative);
            (captions, drawing.join())
        });
        let (caption, negative_caption) = captions?;
        let draws =
            draws.map_err(|_| GpuError::library("drawing the noise", "the thread panicked"))?;
        let guided = match negative_caption {
            Some(negative) => Some(Guided {
                negative,
                positive: self.memory(count * F32)?,
            }),
            None => None,
        };
        let schedule = NoiseSchedule::new(
            self.scheduler.shift,
            self.scheduler.num_train_timesteps,
            request.num_inference_steps,
        );
        let modulations = self.modulations(&schedule)?;
        let denoising = Denoising::of(request, schedule);
        let init = request.start_image();
        let image = match init {
            Some(init) => Some(self.encode_image(&init.pixels, &draws.encode)?),
            None => None,
        };
        let noise = draws.noise;
        let latents = self.memory(count * F32)?;
        let gpu = &self.compute.gpu;
        let start = match init.zip(image) {
            Some((init, image)) => {
                let image = Image {
                    latents: image,
                    noise,
                    mask: init.mask.as_deref(),
                };
                image.begin(gpu, denoising.sigma(), latents.region())?
            }
            None => {
                gpu.upload(latents.region(), &noise)?;
                None
            }
        };
        Ok(State {
            latents,
            patches,
            denoising,
            modulations,
            caption,
            guided,
            start,
        })
    }

    fn encode_image(&mut self, pixels: &Pixels, noise: &[f32]) -> Result<Vec<f32>, GpuError> {
        let bytes = self
            .encoder
            .bytes(pixels.height() as usize, pixels.width() as usize)?;
        let scratch = self.scratch(bytes)?;
        self.encoder.encode(&self.compute, scratch, pixels, noise)
    }
}
