//! What a worker tells the client of an image.

use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use zimage_core::executor::ExecutorError;
use zimage_core::pixels::Pixels;

/// Events that wait for a client that does not read them; later ones are left out.
const UNREAD: usize = 4;

/// An image and what it cost.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The image.
    pub pixels: Pixels,
    /// Denoising steps taken.
    pub steps: u32,
    /// Tokens that the text encoder saw.
    pub prompt_tokens: u32,
    /// Whether the prompt was cut.
    pub truncated: bool,
    /// Time from submission to the first step.
    pub queue_time: Duration,
    /// Time from then to the image.
    pub compute_time: Duration,
}

/// What happens to an image.
#[derive(Clone, Debug)]
pub enum Event {
    /// A device has begun.
    Started {
        /// Its number among the engine's devices.
        device: usize,
    },
    /// A denoising step was taken. A client that is slow to read misses some.
    Step {
        /// Steps that were taken.
        done: u32,
        /// Steps in all.
        of: u32,
    },
    /// What the latents show, an eighth of the size. A client that is slow to read misses some.
    Preview(Pixels),
    /// The image; the last event.
    Done(Generated),
    /// There will be no image; the last event.
    Failed(ExecutorError),
}

/// The worker's side of an image's channels.
pub(crate) struct Reply {
    events: mpsc::Sender<Event>,
    outcome: oneshot::Sender<Result<Generated, ExecutorError>>,
}

impl Reply {
    /// Tells of progress; a client that does not read misses it.
    pub(crate) fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            tracing::trace!("an event was left out");
        }
    }

    pub(crate) fn end(self, outcome: Result<Generated, ExecutorError>) {
        // A client that went away meanwhile needs no answer.
        if let Err(Err(error)) = self.outcome.send(outcome) {
            tracing::debug!(%error, "nobody waits for this answer");
        }
    }
}

/// The channels of an image.
pub(crate) fn channel() -> (Reply, Events) {
    let (events, progress) = mpsc::channel(UNREAD);
    let (outcome, outcome_of) = oneshot::channel();
    let events_of = Events {
        progress,
        outcome: Some(outcome_of),
    };
    (Reply { events, outcome }, events_of)
}

/// The client's side of the channels.
pub(crate) struct Events {
    pub(crate) progress: mpsc::Receiver<Event>,
    /// `None` when the last event was told.
    pub(crate) outcome: Option<oneshot::Receiver<Result<Generated, ExecutorError>>>,
}
