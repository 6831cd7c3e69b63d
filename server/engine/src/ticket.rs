//! What a client holds of its image, and what a worker tells it.

use crate::queue::Queue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use zimage_core::admission::Id;
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
    Started,
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

/// The worker's side of a [`Ticket`].
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
    progress: mpsc::Receiver<Event>,
    /// `None` when the last event was told.
    outcome: Option<oneshot::Receiver<Result<Generated, ExecutorError>>>,
}

/// An image that was taken. Dropping it gives its place back at once and stops it before its next step.
pub struct Ticket {
    events: Events,
    queue: Arc<Queue>,
    id: Id,
    /// A device has begun.
    begun: bool,
}

impl Ticket {
    pub(crate) const fn new(events: Events, queue: Arc<Queue>, id: Id) -> Self {
        Self {
            events,
            queue,
            id,
            begun: false,
        }
    }

    /// What happens next; `None` after the last event. When the device has failed nobody waits for it: a lost one may
    /// never answer. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        let outcome = self.events.outcome.as_mut()?;
        let ended = tokio::select! {
            biased;
            Some(event) = self.events.progress.recv() => {
                self.begun |= matches!(event, Event::Started);
                return Some(event);
            }
            outcome = outcome => outcome.unwrap_or_else(|_| Err(self.queue.lost(self.begun))),
            () = self.queue.failed().cancelled() => Err(self.queue.lost(self.begun)),
        };
        self.events.outcome = None;
        Some(ended.map_or_else(Event::Failed, Event::Done))
    }

    /// The image.
    ///
    /// # Errors
    /// The executor's.
    pub async fn image(mut self) -> Result<Generated, ExecutorError> {
        while let Some(event) = self.next().await {
            match event {
                Event::Done(generated) => return Ok(generated),
                Event::Failed(error) => return Err(error),
                Event::Started | Event::Step { .. } | Event::Preview(_) => {}
            }
        }
        Err(self.queue.lost(self.begun))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.abandon(self.id);
    }
}
