//! The handle to the device thread.

use crate::device::{self, Job};
use crate::metrics::EngineMetrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use zimage_core::executor::{Executor, ExecutorError};
use zimage_core::pixels::Pixels;
use zimage_core::request::ImageRequest;

/// Bounds of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Images computed together at the most, at least 1.
    pub max_batch_size: usize,
    /// Images that wait at the most.
    pub max_queue_length: usize,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("the queue is full")]
    QueueFull {
        /// When there may be room.
        retry_after: Duration,
    },
    /// More images than the engine ever holds.
    #[error("{asked} images at once are more than the {most} that this server holds")]
    TooMany {
        /// Images of the request.
        asked: usize,
        /// Images that run and wait at the most.
        most: usize,
    },
    /// The engine ends and takes nothing new.
    #[error("the server is shutting down")]
    Draining,
    /// The device failed.
    #[error("the device failed; the server starts again")]
    Failed,
}

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

/// A request that was taken. Dropping it stops the request before its next step.
pub struct Ticket {
    reply: oneshot::Receiver<Result<Generated, ExecutorError>>,
    failed: CancellationToken,
}

impl Ticket {
    /// The image.
    ///
    /// # Errors
    /// The executor's. When the device has failed nobody waits for it: a lost one may never answer.
    pub async fn image(self) -> Result<Generated, ExecutorError> {
        let lost = |cause: &str| Err(ExecutorError::DeviceLost(cause.to_owned()));
        tokio::select! {
            biased;
            reply = self.reply => reply.unwrap_or_else(|_| lost("the device thread ended")),
            () = self.failed.cancelled() => lost("it reported a fault"),
        }
    }
}

/// A running device thread. Clones are handles to the same one; it ends with the last of them.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
}

pub(crate) struct Shared {
    /// One for each image that may run or wait; it bounds the queue.
    permits: Arc<Semaphore>,
    capacity: usize,
    draining: AtomicBool,
    pub(crate) failed: CancellationToken,
    pub(crate) metrics: EngineMetrics,
    /// Microseconds that the last image took on the device.
    pub(crate) last_image: AtomicU64,
}

impl Engine {
    /// Starts the device thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        executor: Box<dyn Executor>,
        options: EngineOptions,
        metrics: EngineMetrics,
    ) -> std::io::Result<Self> {
        let max_batch_size = options.max_batch_size.max(1);
        let capacity = max_batch_size + options.max_queue_length;
        let shared = Arc::new(Shared {
            permits: Arc::new(Semaphore::new(capacity)),
            capacity,
            draining: AtomicBool::new(false),
            failed: CancellationToken::new(),
            metrics,
            last_image: AtomicU64::new(0),
        });
        // Bounded by the permits: a job is sent only with one.
        let (jobs, queue) = mpsc::unbounded_channel();
        // However the thread ends, whoever waits for `failed` hears of it.
        let ended = shared.failed.clone().drop_guard();
        let device = device::Device::new(executor, queue, max_batch_size, Arc::clone(&shared));
        std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                let _ended = ended;
                device.run();
            })?;
        Ok(Self { shared, jobs })
    }

    /// Takes all images of a request, or none.
    ///
    /// # Errors
    /// When there is no room, or the engine ends.
    pub fn submit(&self, requests: Vec<ImageRequest>) -> Result<Vec<Ticket>, SubmitError> {
        let shared = &self.shared;
        if shared.failed.is_cancelled() {
            return Err(SubmitError::Failed);
        }
        if shared.draining.load(Ordering::Acquire) {
            return Err(SubmitError::Draining);
        }
        let (asked, most) = (requests.len(), shared.capacity);
        if asked > most {
            return Err(SubmitError::TooMany { asked, most });
        }
        let mut permits = u32::try_from(asked)
            .ok()
            .and_then(|count| {
                Arc::clone(&shared.permits)
                    .try_acquire_many_owned(count)
                    .ok()
            })
            .ok_or_else(|| SubmitError::QueueFull {
                retry_after: self.retry_after(),
            })?;
        let mut tickets = Vec::with_capacity(asked);
        for request in requests {
            let permit = permits.split(1).ok_or(SubmitError::Failed)?;
            let (reply, ticket) = oneshot::channel();
            let ticket = Ticket {
                reply: ticket,
                failed: shared.failed.clone(),
            };
            shared.metrics.waiting.inc();
            let job = Job {
                request,
                reply,
                permit,
                submitted: Instant::now(),
            };
            if self.jobs.send(job).is_err() {
                shared.metrics.waiting.dec();
                return Err(SubmitError::Failed);
            }
            tickets.push(ticket);
        }
        Ok(tickets)
    }

    /// Time for one image: the first of those that run may then have ended.
    fn retry_after(&self) -> Duration {
        let last = Duration::from_micros(self.shared.last_image.load(Ordering::Relaxed));
        last.clamp(Duration::from_secs(1), Duration::from_secs(120))
    }

    /// Takes nothing new and returns when everything taken is answered.
    pub async fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        let all = u32::try_from(self.shared.capacity).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _permits = self.shared.permits.acquire_many(all).await;
    }

    /// Somebody else knows that the device has failed: whoever waits for an image is told so, and nothing new is taken.
    pub fn fail(&self) {
        self.shared.failed.cancel();
    }

    /// Returns when the device has failed: nothing more will be computed.
    pub async fn failed(&self) {
        self.shared.failed.cancelled().await;
    }

    /// Whether the device has failed.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.is_cancelled()
    }
}
