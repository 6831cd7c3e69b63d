//! The seam to the engine: requests in slots, one step at a time.

use crate::control;
use crate::error::LoadError;
use crate::guidance;
use crate::preview;
use crate::reference::Reference;
use crate::siglip::VisionTower;
use crate::start_image::StartImage;
use crate::text_encoder::TextEncoder;
use crate::transformer::{Caption, Control, ControlNet, Transformer};
use crate::vae::{Decoder, Encoder, from_pixels, to_pixels};
use candle_core::{Device, Tensor};
use std::cell::OnceCell;
use std::sync::Arc;
use zimage_checkpoint::config::SchedulerConfig;
use zimage_checkpoint::{Checkpoint, CheckpointError, EncodedPrompt, PromptEncoder};
use zimage_core::executor::{Begun, Executor, ExecutorError, Slot};
use zimage_core::guidance::Guidance;
use zimage_core::omni::{self, Sequence};
use zimage_core::pipeline::{Denoising, Draws};
use zimage_core::pixels::Pixels;
use zimage_core::preview::Projection;
use zimage_core::request::ImageRequest;
use zimage_core::schedule::NoiseSchedule;
use zimage_core::slots::Slots;
use zimage_core::start_image::latent_mask;
use zimage_core::validate;

/// Z-Image on the CPU in float32, as diffusers computes it.
pub struct CandleExecutor {
    prompts: Arc<PromptEncoder>,
    pub(crate) text_encoder: TextEncoder,
    pub(crate) transformer: Transformer,
    pub(crate) decoder: Decoder,
    pub(crate) encoder: Encoder,
    /// Only of an Omni model.
    vision: Option<VisionTower>,
    /// Follows control images, where there is one.
    pub(crate) control_net: Option<Arc<ControlNet>>,
    scheduler: SchedulerConfig,
    /// Measured at the first preview.
    projection: OnceCell<Projection>,
    states: Slots<State>,
}

/// A request between two steps.
pub(crate) struct State {
    /// (channels, height / 8, width / 8)
    pub(crate) latents: Tensor,
    denoising: Denoising,
    caption: Caption,
    /// The negative prompt's, with guidance.
    negative: Option<Caption>,
    start: Option<StartImage>,
    control: Option<Control>,
}

impl CandleExecutor {
    /// Reads the weights that are computed with: all but the text encoder's last layer.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the configuration says.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        Ok(Self {
            prompts: checkpoint.prompt_encoder(),
            text_encoder: TextEncoder::load(checkpoint)?,
            transformer: Transformer::load(checkpoint)?,
            decoder: Decoder::load(checkpoint)?,
            encoder: Encoder::load(checkpoint)?,
            vision: VisionTower::load(checkpoint)?,
            control_net: None,
            scheduler: checkpoint.scheduler().clone(),
            projection: OnceCell::new(),
            states: Slots::default(),
        })
    }

    /// Lets requests have a control image.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the configuration says.
    pub fn with_control_net(
        mut self,
        control_net: &zimage_checkpoint::ControlNet,
    ) -> Result<Self, LoadError> {
        self.control_net = Some(Arc::new(ControlNet::load(control_net)?));
        Ok(self)
    }

    /// The prompt's tokens: a single part, but for an Omni model with condition images.
    pub(crate) fn encode(
        &self,
        field: &'static str,
        prompt: &str,
        references: usize,
    ) -> Result<Vec<EncodedPrompt>, ExecutorError> {
        let failed = |error: CheckpointError| ExecutorError::Failed(error.to_string());
        if self.vision.is_some() {
            return self
                .prompts
                .encode_parts(prompt, references)
                .map_err(failed);
        }
        let encoded = self.prompts.encode(prompt).map_err(failed)?;
        let limits = self.transformer.limits();
        limits.check_prompt(field, encoded.ids.len())?;
        Ok(vec![encoded])
    }

    fn start(
        &self,
        request: &ImageRequest,
        prompt: Caption,
        negative: Option<Caption>,
    ) -> candle_core::Result<State> {
        let (height, width) = (request.height as usize / 8, request.width as usize / 8);
        let shape = (self.transformer.channels(), height, width);
        let draws = Draws::of(request, shape.0 * height * width);
        let noise = Tensor::from_vec(draws.noise, shape, &Device::Cpu)?;
        let schedule = NoiseSchedule::new(
            self.scheduler.shift,
            self.scheduler.num_train_timesteps,
            request.num_inference_steps,
        );
        let denoising = Denoising::of(request, schedule);
        let (latents, start) = match request.start_image() {
            Some(init) => {
                let image = from_pixels(&init.pixels)?;
                let mask = init.mask.as_deref().map(|mask| {
                    Tensor::from_vec(latent_mask(mask), (1, height, width), &Device::Cpu)
                });
                let start = StartImage {
                    latents: self.encoder.forward(&image, draws.encode)?,
                    noise,
                    mask: mask.transpose()?,
                };
                (start.noisy(denoising.sigma())?, Some(start))
            }
            None => (noise, None),
        };
        Ok(State {
            latents,
            denoising,
            caption: prompt,
            negative,
            start,
            control: control::of(
                request,
                self.control_net.as_ref(),
                &self.encoder,
                &self.transformer,
            )?,
        })
    }

    /// A prompt as the transformer takes it, for the request's size.
    fn caption(
        &self,
        request: &ImageRequest,
        prompt: &[EncodedPrompt],
        references: &[Reference],
    ) -> Result<Caption, ExecutorError> {
        let latents = [request.height as usize / 8, request.width as usize / 8];
        let hidden = (prompt.iter())
            .map(|part| self.text_encoder.forward(&part.ids))
            .collect::<candle_core::Result<Vec<_>>>()
            .map_err(failed)?;
        if let ([hidden], false) = (hidden.as_slice(), self.transformer.is_omni()) {
            let [rows, columns] = latents.map(|side| side / 2);
            return self
                .transformer
                .caption(hidden, rows, columns)
                .map_err(failed);
        }
        let lengths: Vec<usize> = prompt.iter().map(|part| part.ids.len()).collect();
        let grids = (references.iter().map(Reference::grid))
            .collect::<candle_core::Result<Vec<_>>>()
            .map_err(failed)?;
        let sequence = Sequence::new(&lengths, &grids, latents);
        if !sequence.fits(self.transformer.axes_lens()) {
            return Err(ExecutorError::InvalidRequest {
                field: if references.is_empty() {
                    "prompt"
                } else {
                    "references"
                },
                message: "prompt and condition images are more than this model has positions for"
                    .to_owned(),
            });
        }
        self.transformer
            .omni_caption(&hidden, references, &sequence)
            .map_err(failed)
    }

    /// The request's condition images as the transformer takes them.
    pub(crate) fn references(
        &self,
        request: &ImageRequest,
    ) -> Result<Vec<Reference>, ExecutorError> {
        omni::check(request, self.vision.is_some())?;
        let Some(tower) = &self.vision else {
            return Ok(Vec::new());
        };
        let area = omni::area(request);
        (request.references.iter())
            .map(|pixels| Reference::of(pixels, area, &self.encoder, tower))
            .collect::<candle_core::Result<_>>()
            .map_err(failed)
    }

    pub(crate) fn state(&self, slot: Slot) -> Result<&State, ExecutorError> {
        self.states.get(slot)
    }
}

impl State {
    /// What the control image adds behind layers at the next step, in their order.
    pub(crate) fn hints(&self, transformer: &Transformer) -> candle_core::Result<Vec<Tensor>> {
        let time = self.denoising.time();
        let control = self.control.as_ref();
        control.map_or(Ok(Vec::new()), |control| {
            transformer.hints(&self.latents, time, &self.caption, control)
        })
    }

    /// Takes the next step.
    fn advance(&mut self, transformer: &Transformer) -> candle_core::Result<()> {
        let latents = self.next(transformer)?;
        self.denoising.advance();
        self.latents = match &self.start {
            Some(start) => start.keep(latents, self.denoising.sigma())?,
            None => latents,
        };
        Ok(())
    }

    /// The latents after the next step.
    fn next(&self, transformer: &Transformer) -> candle_core::Result<Tensor> {
        let time = self.denoising.time();
        let predict = |caption: &Caption| {
            transformer.forward(&self.latents, time, caption, self.control.as_ref())
        };
        let mut prediction = predict(&self.caption)?;
        if let Some((guidance, negative)) = self.denoising.guidance().zip(self.negative.as_ref()) {
            prediction = guidance::join(guidance, &prediction, &predict(negative)?)?;
        }
        // The model predicts from noise to image, the schedule counts from image to noise.
        &self.latents - (prediction * f64::from(self.denoising.delta()))?
    }
}

/// The message alone: with `RUST_BACKTRACE` candle's errors carry the stack too, which clients must not see.
pub(crate) fn failed(error: candle_core::Error) -> ExecutorError {
    let mut error = &error;
    while let candle_core::Error::WithBacktrace { inner, .. } = error {
        error = inner;
    }
    ExecutorError::Failed(error.to_string())
}

impl Executor for CandleExecutor {
    fn begin(&mut self, request: &ImageRequest) -> Result<Begun, ExecutorError> {
        validate::check(request, &self.transformer.limits())?;
        control::check(request, self.control_net.as_deref())?;
        let references = self.references(request)?;
        let prompt = self.encode("prompt", &request.prompt, references.len())?;
        let negative = match Guidance::of(request) {
            Some(_) => {
                let text = &request.negative_prompt;
                let parts = self.encode("negative_prompt", text, references.len())?;
                Some(self.caption(request, &parts, &references)?)
            }
            None => None,
        };
        let caption = self.caption(request, &prompt, &references)?;
        let state = self.start(request, caption, negative).map_err(failed)?;
        Ok(Begun {
            steps: state.denoising.left(),
            slot: self.states.add(state),
            prompt_tokens: prompt.iter().map(|part| part.ids.len() as u32).sum(),
            truncated: prompt.iter().any(|part| part.truncated),
        })
    }

    fn step(&mut self, slots: &[Slot]) -> Result<(), ExecutorError> {
        for &slot in slots {
            let state = self.states.get_mut(slot)?;
            state.denoising.check(slot)?;
            state.advance(&self.transformer).map_err(failed)?;
        }
        Ok(())
    }

    fn preview(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        let latents = &self.state(slot)?.latents;
        let projection = match self.projection.get() {
            Some(projection) => projection,
            None => {
                let channels = self.transformer.channels();
                let colour = |values: &[f32]| preview::colour(&self.decoder, values);
                let measured = Projection::measure(channels, colour).map_err(failed)?;
                self.projection.get_or_init(|| measured)
            }
        };
        preview::apply(projection, latents).map_err(failed)
    }

    fn decode(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        let image = self.decoder.forward(&self.state(slot)?.latents);
        image.and_then(|image| to_pixels(&image)).map_err(failed)
    }

    fn release(&mut self, slot: Slot) {
        drop(self.states.take(slot));
    }
}
