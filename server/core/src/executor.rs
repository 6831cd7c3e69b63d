//! The one seam between serving and computing.

use crate::limits::InvalidRequest;
use crate::pixels::Pixels;
use crate::request::ImageRequest;

/// A request's place on the device, from [`Executor::begin`] to [`Executor::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// What [`Executor::begin`] found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Where the request's state lives.
    pub slot: Slot,
    /// Calls of [`Executor::step`] until the image can be decoded. Fewer than `num_inference_steps` with a start image.
    pub steps: u32,
    /// Tokens of the prompt that the text encoder saw, the chat template's included.
    pub prompt_tokens: u32,
    /// Whether the prompt was cut to the encoder's 512 tokens.
    pub truncated: bool,
}

/// Why an executor could not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// The request itself cannot be computed; another one can. `field` is the request's field at fault.
    #[error("{message}")]
    InvalidRequest {
        /// The field at fault, by its name in the API.
        field: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// No room on the device now; the same request can succeed later.
    #[error("the device has no memory free for this request: {0}")]
    OutOfMemory(String),
    /// The device or its state is broken. The process must end and start again; the request can be sent again.
    #[error("the device failed: {0}")]
    DeviceLost(String),
    /// The device was lost before it began with this request, which has no part in that. No executor says so: who keeps
    /// the queue does.
    #[error("the device failed before it began with this request: {0}")]
    NotBegun(String),
    /// The computation failed for a reason that does not concern other requests.
    #[error("failed to compute: {0}")]
    Failed(String),
}

impl From<InvalidRequest> for ExecutorError {
    fn from(InvalidRequest { field, message }: InvalidRequest) -> Self {
        Self::InvalidRequest { field, message }
    }
}

/// Computes images step by step on one device.
///
/// Called on one thread, never concurrently. The state of a request stays on the device between calls, so requests can
/// join, be cancelled and be previewed between steps. A batch never changes a request's image: `step(&[a, b])` does
/// bit for bit what `step(&[a]); step(&[b])` does.
pub trait Executor: Send {
    /// Encodes the prompt, draws the noise and takes a slot.
    ///
    /// # Errors
    /// [`ExecutorError::InvalidRequest`] for a request that this model cannot compute; no slot is taken on any error.
    fn begin(&mut self, request: &ImageRequest) -> Result<Begun, ExecutorError>;

    /// Runs the next denoising step of each slot.
    ///
    /// # Errors
    /// On any error the state of the named slots is undefined; they must be released.
    fn step(&mut self, slots: &[Slot]) -> Result<(), ExecutorError>;

    /// A small image of what the slot's latents show now, an eighth of the size.
    ///
    /// # Errors
    /// As for [`Executor::decode`].
    fn preview(&mut self, slot: Slot) -> Result<Pixels, ExecutorError>;

    /// Decodes the slot's latents into the image. The slot stays taken.
    ///
    /// # Errors
    /// [`ExecutorError::OutOfMemory`] when decoding does not fit now.
    fn decode(&mut self, slot: Slot) -> Result<Pixels, ExecutorError>;

    /// Makes one image from its prompt to its pixels. `on_step` is told what [`Executor::begin`] found out, and of how many
    /// steps were taken: of 0 first.
    ///
    /// # Errors
    /// As the calls above; no slot stays taken.
    fn generate(
        &mut self,
        request: &ImageRequest,
        on_step: &mut dyn FnMut(&Begun, u32),
    ) -> Result<Pixels, ExecutorError> {
        let begun = self.begin(request)?;
        on_step(&begun, 0);
        let steps = (1..=begun.steps).try_for_each(|taken| {
            self.step(&[begun.slot])?;
            on_step(&begun, taken);
            Ok(())
        });
        let pixels = steps.and_then(|()| self.decode(begun.slot));
        self.release(begun.slot);
        pixels
    }

    /// Gives the slot back. Unknown slots are ignored, so that releasing twice does no harm.
    fn release(&mut self, slot: Slot);
}
