//! The handle to the workers.

use crate::metrics::EngineMetrics;
use crate::progress::Progress;
use crate::queue::{Job, Queue};
use crate::reply::channel;
use crate::ticket::Ticket;
use crate::watchdog;
use crate::worker::{Devices, Worker};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use zimage_core::admission::{Bounds, Refusal};
use zimage_core::executor::Executor;
use zimage_core::pace::Work;
use zimage_core::request::ImageRequest;

/// Bounds of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Images that take their steps in turn on each device at the most, at least 1.
    pub max_batch_size: usize,
    /// Images that wait at the most.
    pub max_queue_length: usize,
    /// Time that an image may have to wait for a device, by what the last steps took. `None`: any.
    pub max_queue_time: Option<Duration>,
    /// Time that any call of the executor may take before the device counts as stuck, however quick it usually is.
    pub patience: Duration,
}

impl Default for EngineOptions {
    /// One image at a time, 16 that wait, five minutes of queue, a minute of patience.
    fn default() -> Self {
        Self {
            max_batch_size: 1,
            max_queue_length: 16,
            max_queue_time: Some(Duration::from_secs(300)),
            patience: Duration::from_secs(60),
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full, in number or in time.
    #[error("the queue is full")]
    QueueFull {
        /// When there may be room: a second to a minute, never the same for everybody.
        retry_after: Duration,
        /// Whether a request of one image would be refused, too.
        for_all: bool,
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
    /// The device makes no progress.
    #[error("the device makes no progress")]
    Stuck,
    /// The device failed.
    #[error("the device failed; the server starts again")]
    Failed,
}

/// An image to be made, and what is told of it meanwhile.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The image.
    pub request: ImageRequest,
    /// Steps between two previews. `None`: no previews.
    pub preview_every: Option<NonZeroU32>,
}

impl From<ImageRequest> for Submission {
    fn from(request: ImageRequest) -> Self {
        Self {
            request,
            preview_every: None,
        }
    }
}

/// Running devices, with a thread each. Clones are handles to the same ones; they end with the last of them.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    queue: Arc<Queue>,
    devices: Devices,
    capacity: usize,
    patience: Duration,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Engine {
    /// Starts a thread for each executor. When one of the devices is lost, all end: the process starts again.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        executors: Vec<Box<dyn Executor>>,
        options: EngineOptions,
        metrics: EngineMetrics,
    ) -> io::Result<Self> {
        let max_running = options.max_batch_size.max(1);
        let capacity = executors.len() * max_running + options.max_queue_length;
        let bounds = Bounds {
            places: capacity,
            devices: u32::try_from(executors.len()).unwrap_or(u32::MAX),
            wait: options.max_queue_time,
        };
        let queue = Queue::new(bounds, metrics);
        let devices: Devices = executors.iter().map(|_| Progress::new()).collect();
        // Made before the threads: they end with it when one cannot be started.
        let engine = Self(Arc::new(Handle {
            queue: Arc::clone(&queue),
            devices: Arc::clone(&devices),
            capacity,
            patience: options.patience,
        }));
        for (number, executor) in executors.into_iter().enumerate() {
            let (shared, devices) = (Arc::clone(&queue), Arc::clone(&devices));
            let worker = Worker::new(executor, shared, devices, number, max_running);
            thread::Builder::new()
                .name("device".to_owned())
                .spawn(move || worker.run())?;
        }
        let (watched, patience) = (Arc::downgrade(&queue), options.patience);
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watchdog::run(&watched, &devices, patience))?;
        Ok(engine)
    }

    /// Whether an image would be taken now: to refuse a request before it is read.
    ///
    /// # Errors
    /// Why it would not be taken.
    pub fn room(&self) -> Result<(), SubmitError> {
        self.is_open()?;
        let room = self.0.queue.lock().admission.room(1);
        room.map_err(|refusal| self.0.refused(refusal))
    }

    /// Keeps places for the images of a request that is still being read.
    ///
    /// # Errors
    /// When there is no room, or the engine takes nothing; no place is kept then.
    pub fn reserve(&self, images: usize) -> Result<Places, SubmitError> {
        self.is_open()?;
        let reserved = self.0.queue.lock().admission.reserve(images);
        reserved.map_err(|refusal| self.0.refused(refusal))?;
        Ok(Places {
            engine: self.clone(),
            images,
        })
    }

    /// Takes all images of a request, or none.
    ///
    /// # Errors
    /// As [`Engine::reserve`] and [`Places::submit`].
    pub fn submit<S: Into<Submission>>(&self, images: Vec<S>) -> Result<Vec<Ticket>, SubmitError> {
        self.reserve(images.len())?.submit(images)
    }

    /// The time until all of these images would be made, their time in the queue included, by what the last steps took.
    /// `None`: nothing was measured yet.
    pub fn estimate<'a, I: 'a>(
        &self,
        images: impl IntoIterator<Item = &'a ImageRequest<I>>,
    ) -> Option<Duration> {
        let work: Vec<Work> = images.into_iter().map(Work::of).collect();
        self.0.queue.lock().admission.estimate(&work)
    }

    fn is_open(&self) -> Result<(), SubmitError> {
        if self.has_failed() {
            return Err(SubmitError::Failed);
        }
        if self.0.queue.lock().draining {
            return Err(SubmitError::Draining);
        }
        self.stuck().map_or(Ok(()), |_| Err(SubmitError::Stuck))
    }

    /// Takes nothing new and returns when every place is free.
    pub async fn drain(&self) {
        self.0.queue.drain().await;
    }

    /// Somebody else knows that the device has failed: whoever waits for an image is told so, and nothing new is taken.
    pub fn fail(&self, cause: &str) {
        self.0.queue.fail(cause, None);
    }

    /// Returns the cause when the device has failed: nothing more will be computed.
    pub async fn failed(&self) -> String {
        self.0.queue.failed().cancelled().await;
        self.0.queue.cause().to_owned()
    }

    /// Whether the device has failed.
    pub fn has_failed(&self) -> bool {
        self.0.queue.failed().is_cancelled()
    }

    /// Why the device failed, if it has.
    pub fn failure(&self) -> Option<String> {
        let failed = self.has_failed();
        failed.then(|| self.0.queue.cause().to_owned())
    }

    /// Where a device makes no progress, if one does not. It may make some later; otherwise it fails.
    pub fn stuck(&self) -> Option<String> {
        let looked = watchdog::look(&self.0.queue, &self.0.devices, self.0.patience);
        looked.err().map(|stuck| stuck.to_string())
    }
}

impl Handle {
    fn refused(&self, refusal: Refusal) -> SubmitError {
        match refusal {
            Refusal::TooMany { asked } => SubmitError::TooMany {
                asked,
                most: self.capacity,
            },
            Refusal::Full {
                retry_after,
                for_all,
            } => SubmitError::QueueFull {
                retry_after: spread(retry_after.unwrap_or_default()),
                for_all,
            },
        }
    }
}

/// From a second to a minute, up to a fifth later than `time`: clients that were refused together do not return together.
fn spread(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let share = (random >> 32) as f64 / f64::from(u32::MAX);
    let time = time.clamp(Duration::from_secs(1), Duration::from_secs(50));
    time.mul_f64(1.0 + share / 5.0)
}

/// Places of a request's images. Dropping them gives them back.
pub struct Places {
    engine: Engine,
    images: usize,
}

impl Places {
    /// Lets the images wait for a device: all or none. More images than places take further ones when there are some.
    ///
    /// # Errors
    /// When there is no room for further ones, or more work came ahead meanwhile than an image may wait for.
    pub fn submit<S: Into<Submission>>(
        mut self,
        images: Vec<S>,
    ) -> Result<Vec<Ticket>, SubmitError> {
        let handle = Arc::clone(&self.engine.0);
        let refused = |refusal| handle.refused(refusal);
        let submitted = Instant::now();
        let mut all_events = Vec::with_capacity(images.len());
        let jobs = images.into_iter().map(|image| {
            let Submission {
                request,
                preview_every,
            } = image.into();
            let (reply, events) = channel();
            all_events.push(events);
            let work = Work::of(&request);
            let job = Job {
                request,
                preview_every,
                reply,
                submitted,
            };
            (work, job)
        });
        let jobs: Vec<_> = jobs.collect();
        let count = jobs.len();
        let ids = handle.queue.change(|state| {
            if handle.queue.failed().is_cancelled() {
                return Err(SubmitError::Failed);
            }
            let further = count.saturating_sub(self.images);
            state.admission.reserve(further).map_err(refused)?;
            self.images += further;
            let ids = state.admission.submit(jobs).map_err(refused)?;
            self.images -= count;
            Ok(ids)
        })?;
        let tickets = ids.into_iter().zip(all_events);
        let ticket = |(id, events)| Ticket::new(events, Arc::clone(&handle.queue), id);
        Ok(tickets.map(ticket).collect())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let images = std::mem::take(&mut self.images);
        if images > 0 {
            self.engine
                .0
                .queue
                .change(|state| state.admission.give_back(images));
        }
    }
}
