//! What a client holds of its image.

use crate::queue::Queue;
use crate::reply::{Event, Events, Generated};
use std::sync::Arc;
use zimage_core::admission::Id;
use zimage_core::executor::ExecutorError;

/// An image that was taken. Dropping it gives its place back at once and stops it before its next step.
pub struct Ticket {
    events: Events,
    queue: Arc<Queue>,
    id: Id,
    /// The device that has begun it.
    begun: Option<usize>,
}

impl Ticket {
    pub(crate) const fn new(events: Events, queue: Arc<Queue>, id: Id) -> Self {
        Self {
            events,
            queue,
            id,
            begun: None,
        }
    }

    /// What happens next; `None` after the last event. When the device has failed nobody waits for it: a lost one may
    /// never answer. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        let outcome = self.events.outcome.as_mut()?;
        let ended = tokio::select! {
            biased;
            Some(event) = self.events.progress.recv() => {
                if let Event::Started { device } = event {
                    self.begun = Some(device);
                }
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
                Event::Started { .. } | Event::Step { .. } | Event::Preview(_) => {}
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
