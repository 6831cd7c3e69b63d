//! The seam to the engine: requests in slots, one step at a time.

mod arena;
mod captions;
mod plans;
mod start_image;

use crate::compute::Compute;
use crate::error::{GpuError, LoadError};
use crate::gpu::{Gpu, GpuOptions, Properties};
use crate::memory::{Memory, Pinned, Region};
use crate::ops::F32;
use crate::ops::sampler::{Patches, euler_step, guide};
use crate::text_encoder::TextEncoder;
use crate::transformer::{Modulations, Sizes, Transformer};
use crate::vae::{Decoder, Encoder};
use arena::Arena;
use captions::{Caption, Captions};
use cudarc::driver::CudaEvent;
use plans::Plans;
use start_image::{Image, StartImage};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread;
use zimage_checkpoint::config::SchedulerConfig;
use zimage_checkpoint::{Checkpoint, EncodedPrompt, PromptEncoder};
use zimage_core::executor::{Begun, Executor, ExecutorError, Slot};
use zimage_core::guidance::Guidance;
use zimage_core::noise::Generator;
use zimage_core::omni;
use zimage_core::pixels::Pixels;
use zimage_core::preview::{Colour, Projection};
use zimage_core::request::{CfgNormalization, ImageRequest, Noise};
use zimage_core::schedule::NoiseSchedule;
use zimage_core::validate;

/// Steps that are on the stream before the host waits for the first of them: the GPU never waits for the host, and the
/// host is never far ahead of what it reports.
const IN_FLIGHT: usize = 2;

/// Schedules whose modulations are kept.
const SCHEDULES: usize = 4;

/// Where and within which bounds to compute.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// The GPU and the folder for what it compiles and finds out.
    pub gpu: GpuOptions,
    /// Bytes of the GPU's memory that are used at most. `None`: all of it.
    pub memory_limit: Option<usize>,
    /// Height and width in pixels that memory is reserved for and that the first request finds prepared.
    pub warm_up: (u32, u32),
}

/// Z-Image on an NVIDIA GPU in bfloat16.
///
/// Fields go in this order: graphs and memory before the GPU that they belong to.
pub struct CudaExecutor {
    states: BTreeMap<Slot, State>,
    plans: Plans,
    captions: Captions,
    schedules: VecDeque<(u32, Arc<Modulations>)>,
    in_flight: VecDeque<CudaEvent>,
    arena: Arena,
    /// Where pixels arrive; as large as the largest image was.
    pixels: Option<Pinned>,
    text_encoder: TextEncoder,
    transformer: Transformer,
    decoder: Decoder,
    encoder: Encoder,
    projection: Option<Projection>,
    prompts: Arc<PromptEncoder>,
    scheduler: SchedulerConfig,
    next_slot: u32,
    compute: Compute,
}

// SAFETY: what is not `Send` are handles and pointers of the CUDA libraries. They may be used from any thread that has
// the context, one at a time: every method takes `&mut self` and binds the context first, and no copy of a handle leaves.
unsafe impl Send for CudaExecutor {}

/// A request between two steps.
struct State {
    latents: Memory,
    patches: Patches,
    schedule: NoiseSchedule,
    modulations: Arc<Modulations>,
    step: usize,
    caption: Arc<Caption>,
    guided: Option<Guided>,
    start: Option<StartImage>,
}

/// What guidance adds to a request.
struct Guided {
    guidance: Guidance,
    negative: Arc<Caption>,
    /// The prediction for the prompt, while that for the negative prompt is computed.
    positive: Memory,
}

/// The random numbers of a request.
struct Numbers {
    /// diffusers encodes a start image with the same generator, before it draws the noise. Empty without one.
    of_image: Vec<f32>,
    noise: Vec<f32>,
}

impl Numbers {
    fn draw(request: &ImageRequest, count: usize) -> Self {
        let mut generator = Generator::new(request.noise.seed);
        Self {
            of_image: generator.randn(if request.init.is_some() { count } else { 0 }),
            noise: generator.image_noise(request.noise, count),
        }
    }
}

impl CudaExecutor {
    /// Checks the GPU, loads the weights and computes one image, so that the first request finds everything prepared.
    ///
    /// # Errors
    /// Says what the GPU or the checkpoint lacks.
    pub fn load(checkpoint: &Checkpoint, options: &CudaOptions) -> Result<Self, LoadError> {
        if checkpoint.siglip().is_some() {
            let problem = "it is an Omni model, which only the CPU computes: use --device cpu";
            return Err(LoadError::Unsupported(problem.to_owned()));
        }
        let compute = Compute::open(&options.gpu)?;
        tracing::info!("{}", compute.gpu.properties());
        let gpu = &compute.gpu;
        let mut executor = Self {
            states: BTreeMap::new(),
            plans: Plans::default(),
            captions: Captions::default(),
            schedules: VecDeque::new(),
            in_flight: VecDeque::new(),
            arena: Arena::new(options.memory_limit),
            pixels: None,
            text_encoder: TextEncoder::load(gpu, checkpoint)?,
            transformer: Transformer::load(gpu, checkpoint)?,
            decoder: Decoder::load(gpu, checkpoint)?,
            encoder: Encoder::load(gpu, checkpoint)?,
            projection: None,
            prompts: checkpoint.prompt_encoder(),
            scheduler: checkpoint.scheduler().clone(),
            next_slot: 0,
            compute,
        };
        executor.warm_up(options.warm_up)?;
        Ok(executor)
    }

    /// What the start-up check found.
    pub const fn properties(&self) -> &Properties {
        self.compute.gpu.properties()
    }

    /// Bytes of the GPU's memory that are in use, those of other processes included.
    ///
    /// # Errors
    /// When the driver reports an earlier fault.
    pub fn memory_used(&self) -> Result<usize, GpuError> {
        let (free, all) = self.compute.gpu.memory()?;
        Ok(all - free)
    }

    fn warm_up(&mut self, (height, width): (u32, u32)) -> Result<(), LoadError> {
        let request = ImageRequest {
            prompt: "a lighthouse".to_owned(),
            negative_prompt: String::new(),
            width,
            height,
            num_inference_steps: 8,
            guidance_scale: 0.0,
            cfg_normalization: CfgNormalization::Off,
            cfg_truncation: 1.0,
            noise: Noise {
                seed: 0,
                index: 0,
                count: 1,
            },
            init: None,
            references: Vec::new(),
        };
        let failed = |error: ExecutorError| LoadError::WarmUp(error.to_string());
        let needs = self.needs(sizes(&request, self.transformer.limits()[0] / 32 * 32))?;
        self.arena.reserve(&self.compute.gpu, needs)?;
        let begun = self.begin(&request).map_err(failed)?;
        for _ in 0..2 {
            self.step(&[begun.slot]).map_err(failed)?;
        }
        self.decode(begun.slot).map_err(failed)?;
        self.release(begun.slot);
        Ok(())
    }

    /// Bytes of the arena that a request's parts need, one after the other.
    fn needs(&self, sizes: Sizes) -> Result<usize, GpuError> {
        let (height, width) = (2 * sizes.rows, 2 * sizes.columns);
        Ok([
            self.transformer.bytes(sizes)?,
            self.caption_bytes(sizes.caption)?,
            self.decoder.bytes(height, width)?,
        ]
        .into_iter()
        .fold(0, usize::max))
    }

    fn encode(&self, field: &'static str, prompt: &str) -> Result<EncodedPrompt, ExecutorError> {
        let encoded = self
            .prompts
            .encode(prompt)
            .map_err(|error| ExecutorError::Failed(error.to_string()))?;
        let (length, [longest, ..]) = (encoded.ids.len(), self.transformer.limits());
        let message = match length {
            0 => "the chat template made no text of the prompt".to_owned(),
            _ if length.next_multiple_of(32) > longest => {
                format!(
                    "{field} has {length} tokens; this model computes at most {}",
                    longest / 32 * 32
                )
            }
            _ => return Ok(encoded),
        };
        Err(ExecutorError::InvalidRequest { field, message })
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
        negative: Option<(Guidance, &[u32])>,
    ) -> Result<State, GpuError> {
        let (rows, columns) = (request.height as usize / 16, request.width as usize / 16);
        let patches = self.transformer.patches(rows, columns);
        let count = patches.numbers();
        // The prompt goes through the GPU while the host draws the noise.
        let (captions, numbers) = thread::scope(|scope| {
            let drawing = scope.spawn(|| Numbers::draw(request, count));
            let captions = self.captions_of(prompt, negative.map(|(_, ids)| ids));
            (captions, drawing.join())
        });
        let (caption, negative_caption) = captions?;
        let numbers =
            numbers.map_err(|_| GpuError::library("drawing the noise", "the thread panicked"))?;
        let guided = match negative.zip(negative_caption) {
            Some(((guidance, _), negative)) => Some(Guided {
                guidance,
                negative,
                positive: self.compute.gpu.allocate(count * F32)?,
            }),
            None => None,
        };
        let schedule = NoiseSchedule::new(
            self.scheduler.shift,
            self.scheduler.num_train_timesteps,
            request.num_inference_steps,
        );
        let modulations = self.modulations(&schedule)?;
        let image = match &request.init {
            Some(init) => Some(self.encode_image(&init.pixels, &numbers.of_image)?),
            None => None,
        };
        let noise = numbers.noise;
        let gpu = &self.compute.gpu;
        let latents = gpu.allocate(count * F32)?;
        let (step, start) = match request.init.as_ref().zip(image) {
            Some((init, image)) => {
                let image = Image {
                    latents: image,
                    noise,
                    mask: init.mask.as_deref(),
                };
                image.begin(gpu, request, &schedule, latents.region())?
            }
            None => {
                gpu.upload(latents.region(), &noise)?;
                (0, None)
            }
        };
        Ok(State {
            latents,
            patches,
            schedule,
            modulations,
            step,
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

    /// The arena, grown if need be: then what was planned in it is planned anew.
    fn scratch(&mut self, bytes: usize) -> Result<Region, GpuError> {
        if self.arena.grow(&self.compute.gpu, bytes)? {
            self.plans.forget();
        }
        Ok(self.arena.region())
    }

    fn take_step(&mut self, slot: Slot) -> Result<(), ExecutorError> {
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
            let most = match guided.guidance.normalization {
                CfgNormalization::Off => 0.0,
                CfgNormalization::Clamp(factor) => factor,
            };
            let factors = (guided.guidance.scale as f32, most);
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
        let sizes = Sizes {
            rows: state.patches.rows,
            columns: state.patches.columns,
            caption: caption.padded(),
        };
        let bytes = self.transformer.bytes(sizes)?;
        let arena = self.scratch(bytes)?;
        let plan = self
            .plans
            .get(&self.compute, &self.transformer, arena, sizes)?;
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

    fn decode_pixels(
        &mut self,
        latents: Region,
        (height, width): (usize, usize),
    ) -> Result<Vec<u8>, GpuError> {
        let scratch = self.scratch(self.decoder.bytes(height, width)?)?;
        let pixels = self
            .decoder
            .decode(&self.compute, scratch, latents, (height, width))?;
        let bytes = 64 * 3 * height * width;
        if self
            .pixels
            .as_ref()
            .is_none_or(|pinned| pinned.len() < bytes)
        {
            self.pixels = Some(self.compute.gpu.pinned(bytes)?);
        }
        match &mut self.pixels {
            Some(pinned) => Ok(self
                .compute
                .gpu
                .download_pinned(pixels, pinned, bytes)?
                .to_vec()),
            None => self.compute.gpu.download(pixels, bytes),
        }
    }

    /// The mean colour of a small image whose every latent pixel has these values.
    fn colour(&mut self, values: &[f32]) -> Result<Colour, GpuError> {
        let latents = self.compute.gpu.allocate(values.len() * 4 * F32)?;
        let even: Vec<f32> = values.iter().flat_map(|&value| [value; 4]).collect();
        self.compute.gpu.upload(latents.region(), &even)?;
        let pixels = self.decode_pixels(latents.region(), (2, 2))?;
        let count = (pixels.len() / 3) as f32;
        let mut sums = [0.0; 3];
        for pixel in pixels.chunks_exact(3) {
            for (sum, &level) in sums.iter_mut().zip(pixel) {
                *sum += f32::from(level);
            }
        }
        Ok(sums.map(|sum| sum / count / 127.5 - 1.0))
    }

    fn begin_checked(&mut self, request: &ImageRequest) -> Result<Begun, ExecutorError> {
        let [_, rows, columns] = self.transformer.limits();
        validate::check(request, rows, columns)?;
        omni::check(request, false)?;
        let prompt = self.encode("prompt", &request.prompt)?;
        let guidance = Guidance::of(request);
        let negative = match guidance {
            Some(_) => Some(
                self.encode("negative_prompt", &request.negative_prompt)?
                    .ids,
            ),
            None => None,
        };
        let longest = prompt.ids.len().max(negative.as_ref().map_or(0, Vec::len));
        // What cannot be decoded later is not begun.
        let needs = self.needs(sizes(request, longest.next_multiple_of(32)))?;
        self.scratch(needs)?;
        let negative = guidance.zip(negative.as_deref());
        let state = self.start(request, &prompt.ids, negative)?;
        let steps = (state.schedule.steps() - state.step) as u32;
        let slot = Slot(self.next_slot);
        // Wraps after four thousand million requests, when the first are long released.
        self.next_slot = self.next_slot.wrapping_add(1);
        self.states.insert(slot, state);
        Ok(Begun {
            slot,
            steps,
            prompt_tokens: prompt.ids.len() as u32,
            truncated: prompt.truncated,
        })
    }

    fn gpu(&self) -> &Gpu {
        &self.compute.gpu
    }
}

fn sizes(request: &ImageRequest, caption: usize) -> Sizes {
    Sizes {
        rows: request.height as usize / 16,
        columns: request.width as usize / 16,
        caption,
    }
}

fn not_taken(slot: Slot) -> ExecutorError {
    ExecutorError::Failed(format!("slot {} is not taken", slot.0))
}

impl Executor for CudaExecutor {
    fn begin(&mut self, request: &ImageRequest) -> Result<Begun, ExecutorError> {
        self.gpu().bind()?;
        self.begin_checked(request)
    }

    fn step(&mut self, slots: &[Slot]) -> Result<(), ExecutorError> {
        self.gpu().bind()?;
        for &slot in slots {
            self.take_step(slot)?;
        }
        Ok(())
    }

    fn preview(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        self.gpu().bind()?;
        let state = self.states.get(&slot).ok_or_else(|| not_taken(slot))?;
        let (rows, columns) = (state.patches.rows, state.patches.columns);
        let count = state.patches.numbers();
        let latents = self.gpu().download::<f32>(state.latents.region(), count)?;
        let projection = match self.projection.take() {
            Some(projection) => projection,
            None => {
                let channels = self.transformer.channels();
                Projection::measure(channels, |values| self.colour(values))?
            }
        };
        let preview = projection.apply(&latents, 2 * rows as u32, 2 * columns as u32);
        self.projection = Some(projection);
        preview.ok_or_else(|| ExecutorError::Failed("a preview has another size".to_owned()))
    }

    fn decode(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        self.gpu().bind()?;
        let state = self.states.get(&slot).ok_or_else(|| not_taken(slot))?;
        let latents = state.latents.region();
        let (height, width) = (2 * state.patches.rows, 2 * state.patches.columns);
        let rgb = self.decode_pixels(latents, (height, width))?;
        Pixels::new(8 * width as u32, 8 * height as u32, rgb)
            .map_err(|error| ExecutorError::Failed(error.to_string()))
    }

    fn release(&mut self, slot: Slot) {
        if self.states.remove(&slot).is_none() || !self.states.is_empty() {
            return;
        }
        // Nobody needs what the largest request needed. A fault is reported by the next call.
        if matches!(self.arena.shrink(&self.compute.gpu), Ok(true)) {
            self.plans.forget();
        }
    }
}
