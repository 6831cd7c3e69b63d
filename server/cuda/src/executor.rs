//! The seam to the engine: requests in slots, one step at a time.

mod arena;
mod begin;
mod captions;
mod pixels;
mod plans;
mod several;
mod spare;
mod start_image;
mod step;

use crate::compute::Compute;
use crate::error::{GpuError, LoadError};
use crate::gpu::{Gpu, GpuOptions, Properties};
use crate::memory::{Memory, Pinned, Region};
use crate::precision::Precision;
use crate::text_encoder::TextEncoder;
use crate::transformer::{Modulations, Sizes, Transformer};
use crate::vae::{Decoder, Encoder};
use crate::weights::Source;
use arena::Arena;
use captions::Captions;
use cudarc::driver::CudaEvent;
use plans::Plans;
pub use plans::eager_forwards;
use several::Loaded;
use spare::Spare;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use step::State;
use zimage_checkpoint::config::SchedulerConfig;
use zimage_checkpoint::{Checkpoint, PromptEncoder};
use zimage_core::executor::{Begun, Executor, ExecutorError, Slot};
use zimage_core::pixels::Pixels;
use zimage_core::preview::Projection;
use zimage_core::request::ImageRequest;
use zimage_core::slots::Slots;

/// Tokens of the longest prompt that is prepared before the first request. Few are longer, and these take seconds.
const LONGEST_WARM: usize = 256;

/// Padded lengths of the prompts that each size is prepared for. Its products are tuned for the first, that of most.
const CAPTIONS: [usize; 4] = [64, 32, 96, 128];

/// Where and within which bounds to compute.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// The GPU and the folder for what it compiles and finds out.
    pub gpu: GpuOptions,
    /// What the transformer's large products are computed in.
    pub precision: Precision,
    /// Heights and widths in pixels that memory is reserved for and whose first request finds everything prepared.
    pub warm_up: Vec<(u32, u32)>,
}

/// Z-Image on an NVIDIA GPU.
///
/// Fields go in this order: graphs and memory before the GPU that they belong to.
pub struct CudaExecutor {
    states: Slots<State>,
    plans: Plans,
    captions: Captions,
    spare: Spare<Memory>,
    schedules: VecDeque<(u32, Arc<Modulations>)>,
    in_flight: VecDeque<CudaEvent>,
    arena: Arena,
    /// Where what is copied from the GPU arrives.
    pinned: Option<Pinned>,
    text_encoder: TextEncoder,
    transformer: Transformer,
    decoder: Decoder,
    encoder: Encoder,
    projection: Option<Projection>,
    prompts: Arc<PromptEncoder>,
    scheduler: SchedulerConfig,
    compute: Compute,
}

// SAFETY: what is not `Send` are handles and pointers of the CUDA libraries. They may be used from any thread that has
// the context, one at a time: every method takes `&mut self` and binds the context first, and no copy of a handle leaves.
unsafe impl Send for CudaExecutor {}

impl CudaExecutor {
    /// Checks the GPU, loads the weights and computes an image of each size, so that the first requests find everything
    /// prepared.
    ///
    /// # Errors
    /// Says what the GPU or the checkpoint lacks.
    pub fn load(checkpoint: &Checkpoint, options: &CudaOptions) -> Result<Self, LoadError> {
        Self::open(checkpoint, options, None)
    }

    fn open(
        checkpoint: &Checkpoint,
        options: &CudaOptions,
        loaded: Option<&Loaded<'_>>,
    ) -> Result<Self, LoadError> {
        if checkpoint.siglip().is_some() {
            let problem = "it is an Omni model, which only the CPU computes: use --device cpu";
            return Err(LoadError::Unsupported(problem.to_owned()));
        }
        let compute = match loaded {
            Some(loaded) => Compute::open_beside(&options.gpu, &loaded.algorithms)?,
            None => Compute::open(&options.gpu)?,
        };
        tracing::info!(gpu = options.gpu.ordinal, "{}", compute.gpu.properties());
        let source = |of: for<'a> fn(&Loaded<'a>) -> &'a [Memory]| Source {
            checkpoint,
            loaded: loaded.map(of),
        };
        let gpu = &compute.gpu;
        let began = Instant::now();
        let mut executor = Self {
            states: Slots::default(),
            plans: Plans::default(),
            captions: Captions::default(),
            spare: Spare::default(),
            schedules: VecDeque::new(),
            in_flight: VecDeque::new(),
            arena: Arena::new(gpu)?,
            pinned: None,
            text_encoder: TextEncoder::load(gpu, source(|loaded| loaded.text_encoder))?,
            transformer: Transformer::load(
                gpu,
                source(|loaded| loaded.transformer),
                options.precision,
            )?,
            decoder: Decoder::load(gpu, source(|loaded| loaded.decoder))?,
            encoder: Encoder::load(gpu, source(|loaded| loaded.encoder))?,
            projection: None,
            prompts: checkpoint.prompt_encoder(),
            scheduler: checkpoint.scheduler().clone(),
            compute,
        };
        tracing::info!(
            seconds = began.elapsed().as_secs_f64(),
            "the weights are on the GPU"
        );
        executor.warm_up(&options.warm_up)?;
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

    /// A slot's latents (channels, height / 8, width / 8). Waits for the GPU.
    ///
    /// # Errors
    /// When the slot is not taken, or earlier work failed.
    pub fn latents(&self, slot: Slot) -> Result<Vec<f32>, ExecutorError> {
        let state = self.states.get(slot)?;
        let count = state.patches.numbers();
        Ok(self.gpu().download(state.latents.region(), count)?)
    }

    /// Writes the algorithms that were fastest to a file that [`GpuOptions::tuning`] takes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn export_tuning(&self, path: &Path) -> io::Result<()> {
        self.compute.matmuls.export(path)
    }

    fn warm_up(&mut self, of_sizes: &[(u32, u32)]) -> Result<(), LoadError> {
        let longest = self.transformer.limits().caption;
        let captions = CAPTIONS.map(|tokens| tokens.min(longest));
        let mut needs = 0;
        for &(height, width) in of_sizes {
            needs = needs.max(self.needs((height, width), longest)?);
        }
        self.arena.reserve(&self.compute.gpu, needs)?;
        self.compute.matmuls.tune(true);
        let began = Instant::now();
        for tokens in (32..=longest.min(LONGEST_WARM)).step_by(32) {
            self.captions_of(&vec![0; tokens], None)?;
        }
        self.captions = Captions::default();
        tracing::info!(
            seconds = began.elapsed().as_secs_f64(),
            "the text encoder is prepared"
        );
        for &(height, width) in of_sizes {
            let began = Instant::now();
            for (number, &tokens) in captions.iter().enumerate() {
                let request = ImageRequest::plain(self.prompt_of(tokens)?, (width, height));
                self.rehearse(&request, number == 0)
                    .map_err(|error| LoadError::WarmUp(error.to_string()))?;
            }
            tracing::info!(
                width,
                height,
                seconds = began.elapsed().as_secs_f64(),
                "a size is prepared"
            );
        }
        self.compute.matmuls.tune(false);
        Ok(())
    }

    /// Plans a request, and with `decoded` also takes two of its steps and decodes what they give.
    fn rehearse(&mut self, request: &ImageRequest, decoded: bool) -> Result<(), ExecutorError> {
        let begun = self.begin(request)?;
        if decoded {
            for _ in 0..2 {
                self.step(&[begun.slot])?;
            }
            self.decode(begun.slot)?;
        }
        self.release(begun.slot);
        Ok(())
    }

    /// A prompt that has so many tokens when it is padded, or more if the chat template alone has.
    fn prompt_of(&self, padded: usize) -> Result<String, LoadError> {
        let mut prompt = "a lighthouse".to_owned();
        while self.prompts.encode(&prompt)?.ids.len() + 32 <= padded {
            prompt.push_str(" by the sea");
        }
        Ok(prompt)
    }

    /// Bytes of the arena that the parts of a request need, one after the other: its size in pixels, and the tokens of its
    /// captions.
    fn needs(&self, (height, width): (u32, u32), tokens: usize) -> Result<usize, GpuError> {
        let (height, width) = (height as usize, width as usize);
        let sizes = Sizes {
            rows: height / 16,
            columns: width / 16,
            caption: tokens.next_multiple_of(32),
        };
        let forward = self.transformer.bytes(sizes)?;
        let decoding = self.decode_bytes((height / 8, width / 8))?;
        Ok(self.caption_bytes(tokens)?.max(forward).max(decoding))
    }

    /// The arena, grown if need be.
    fn scratch(&mut self, bytes: usize) -> Result<Region, GpuError> {
        self.arena.grow(&self.compute.gpu, bytes)?;
        Ok(self.arena.region())
    }

    /// Memory of a request's own, uninitialised. Work on it is ordered by the one stream, so it may be that of a request
    /// which is over while its last work still runs.
    fn memory(&mut self, bytes: usize) -> Result<Memory, GpuError> {
        let gpu = &self.compute.gpu;
        self.spare.take(bytes, || gpu.allocate(bytes))
    }

    fn spare(&mut self, memory: Memory) {
        self.spare.keep(memory.region().bytes(), memory);
    }

    /// Gives back what only the largest request needed, once there is none. A fault is reported by the next call.
    fn rest(&mut self) {
        if self.states.is_empty() {
            let _ = self.arena.shrink(&self.compute.gpu);
        }
    }

    fn gpu(&self) -> &Gpu {
        &self.compute.gpu
    }

    /// Does a part of a request. The libraries report a lost device in words of their own, so the driver is asked what it
    /// knows of a failure.
    fn on_gpu<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, ExecutorError>,
    ) -> Result<T, ExecutorError> {
        self.gpu().bind()?;
        let outcome = part(self);
        if let Err(ExecutorError::Failed(failure)) = &outcome {
            self.gpu().synchronize().map_err(|fault| {
                ExecutorError::DeviceLost(format!("{failure}; afterwards {fault}"))
            })?;
        }
        outcome
    }
}

impl Executor for CudaExecutor {
    fn begin(&mut self, request: &ImageRequest) -> Result<Begun, ExecutorError> {
        let begun = self.on_gpu(|executor| executor.begin_checked(request));
        if begun.is_err() {
            self.rest();
        }
        begun
    }

    fn step(&mut self, slots: &[Slot]) -> Result<(), ExecutorError> {
        self.on_gpu(|executor| slots.iter().try_for_each(|&slot| executor.take_step(slot)))
    }

    fn preview(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        self.on_gpu(|executor| executor.preview_of(slot))
    }

    fn decode(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        self.on_gpu(|executor| executor.image_of(slot))
    }

    fn release(&mut self, slot: Slot) {
        let Ok(state) = self.states.take(slot) else {
            return;
        };
        self.spare(state.latents);
        if let Some(guided) = state.guided {
            self.spare(guided.positive);
        }
        self.rest();
    }
}
