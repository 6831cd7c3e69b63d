//! The thread that owns the executor.

use crate::engine::{Generated, Shared};
use crate::metrics::Ending;
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use zimage_core::batch;
use zimage_core::executor::{Begun, Executor, ExecutorError, Slot};
use zimage_core::request::ImageRequest;

/// A request that waits.
pub(crate) struct Job {
    pub(crate) request: ImageRequest,
    pub(crate) reply: oneshot::Sender<Result<Generated, ExecutorError>>,
    pub(crate) permit: OwnedSemaphorePermit,
    pub(crate) submitted: Instant,
}

/// A request on the device.
struct Running {
    reply: oneshot::Sender<Result<Generated, ExecutorError>>,
    /// Given back when the request is over.
    permit: OwnedSemaphorePermit,
    shape: batch::Shape,
    begun: Begun,
    steps_left: u32,
    queue_time: Duration,
    started: Instant,
}

pub(crate) struct Device {
    executor: Box<dyn Executor>,
    queue: mpsc::UnboundedReceiver<Job>,
    max_batch_size: usize,
    shared: Arc<Shared>,
    waiting: VecDeque<Job>,
    /// In the order in which they began.
    running: Vec<Running>,
}

/// The device cannot go on.
struct Lost(String);

impl Device {
    pub(crate) fn new(
        executor: Box<dyn Executor>,
        queue: mpsc::UnboundedReceiver<Job>,
        max_batch_size: usize,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            executor,
            queue,
            max_batch_size,
            shared,
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Works until the last handle of the engine is gone or the device is lost.
    pub(crate) fn run(mut self) {
        while self.receive() {
            if let Err(lost) = self.turn() {
                tracing::error!(cause = lost.0, "the device is lost");
                self.fail(&lost.0);
                return;
            }
        }
    }

    /// Takes what was submitted; waits for it when there is nothing to do. `false`: nobody can submit any more.
    fn receive(&mut self) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            match self.queue.blocking_recv() {
                Some(job) => self.waiting.push_back(job),
                None => return false,
            }
        }
        while let Ok(job) = self.queue.try_recv() {
            self.waiting.push_back(job);
        }
        true
    }

    /// Lets requests in and out and takes one step.
    fn turn(&mut self) -> Result<(), Lost> {
        if self.shared.failed.is_cancelled() {
            return Err(Lost("it reported a fault".to_owned()));
        }
        self.drop_cancelled();
        while self.running.len() < self.max_batch_size {
            let Some(job) = self.waiting.pop_front() else {
                break;
            };
            self.begin(job)?;
        }
        self.step()?;
        self.finish()
    }

    fn drop_cancelled(&mut self) {
        let shared = &self.shared;
        self.waiting.retain(|job| {
            if job.reply.is_closed() {
                shared.metrics.waiting.dec();
                shared.metrics.ended(Ending::Cancelled);
            }
            !job.reply.is_closed()
        });
        let cancelled: Vec<_> = self
            .running
            .extract_if(.., |running| running.reply.is_closed())
            .collect();
        for running in cancelled {
            self.leave(running.begun.slot, Ending::Cancelled);
        }
    }

    fn begin(&mut self, job: Job) -> Result<(), Lost> {
        self.shared.metrics.waiting.dec();
        let queue_time = job.submitted.elapsed();
        self.shared.metrics.queue.observe(queue_time.as_secs_f64());
        let started = Instant::now();
        match guard(|| self.executor.begin(&job.request)) {
            Ok(begun) => {
                self.shared.metrics.running.inc();
                self.running.push(Running {
                    reply: job.reply,
                    permit: job.permit,
                    shape: (job.request.width, job.request.height),
                    begun,
                    steps_left: begun.steps,
                    queue_time,
                    started,
                });
                Ok(())
            }
            Err(error) => {
                self.shared.metrics.ended(Ending::Failed);
                answer(job.reply, Err(error.clone()));
                lost(&error)
            }
        }
    }

    fn step(&mut self) -> Result<(), Lost> {
        let shapes: Vec<_> = self.running.iter().map(|running| running.shape).collect();
        let batch: Vec<usize> = batch::next(&shapes, self.max_batch_size)
            .into_iter()
            .filter(|&position| self.running[position].steps_left > 0)
            .collect();
        if batch.is_empty() {
            return Ok(());
        }
        let slots: Vec<Slot> = batch
            .iter()
            .map(|&position| self.running[position].begun.slot)
            .collect();
        let began = Instant::now();
        let outcome = guard(|| self.executor.step(&slots));
        self.shared
            .metrics
            .step
            .observe(began.elapsed().as_secs_f64());
        match outcome {
            Ok(()) => {
                for position in batch {
                    self.running[position].steps_left -= 1;
                }
                Ok(())
            }
            Err(error) => {
                // The state of every slot of the batch is undefined now.
                let spoilt: Vec<_> = self
                    .running
                    .extract_if(.., |running| slots.contains(&running.begun.slot))
                    .collect();
                for running in spoilt {
                    self.leave(running.begun.slot, Ending::Failed);
                    answer(running.reply, Err(error.clone()));
                }
                lost(&error)
            }
        }
    }

    fn finish(&mut self) -> Result<(), Lost> {
        let done: Vec<_> = self
            .running
            .extract_if(.., |running| running.steps_left == 0)
            .collect();
        let mut fault = Ok(());
        for running in done {
            let began = Instant::now();
            let outcome = guard(|| self.executor.decode(running.begun.slot));
            self.shared
                .metrics
                .decode
                .observe(began.elapsed().as_secs_f64());
            let ending = if outcome.is_ok() {
                Ending::Done
            } else {
                Ending::Failed
            };
            self.count(ending);
            if let Err(error) = &outcome {
                fault = fault.and(lost(error));
            }
            let slot = running.begun.slot;
            self.reply(running, outcome);
            // Memory is given back while the client already has its image.
            self.release(slot);
        }
        fault
    }

    fn reply(&self, running: Running, outcome: Result<zimage_core::pixels::Pixels, ExecutorError>) {
        let compute_time = running.started.elapsed();
        let micros = u64::try_from(compute_time.as_micros()).unwrap_or(u64::MAX);
        self.shared.last_image.store(micros, Ordering::Relaxed);
        let generated = outcome.map(|pixels| Generated {
            pixels,
            steps: running.begun.steps,
            prompt_tokens: running.begun.prompt_tokens,
            truncated: running.begun.truncated,
            queue_time: running.queue_time,
            compute_time,
        });
        // The room is free before the client hears of its image, so that its next request finds it.
        drop(running.permit);
        answer(running.reply, generated);
    }

    fn leave(&mut self, slot: Slot, ending: Ending) {
        self.count(ending);
        self.release(slot);
    }

    fn count(&self, ending: Ending) {
        self.shared.metrics.running.dec();
        self.shared.metrics.ended(ending);
    }

    fn release(&mut self, slot: Slot) {
        if guard(|| {
            self.executor.release(slot);
            Ok(())
        })
        .is_err()
        {
            tracing::error!(slot = slot.0, "failed to release a slot");
        }
    }

    /// Answers everybody; whoever submits from now on is refused.
    fn fail(mut self, cause: &str) {
        self.shared.failed.cancel();
        self.queue.close();
        while let Ok(job) = self.queue.try_recv() {
            self.waiting.push_back(job);
        }
        let lost = || Err(ExecutorError::DeviceLost(cause.to_owned()));
        for job in self.waiting.drain(..) {
            self.shared.metrics.waiting.dec();
            self.shared.metrics.ended(Ending::Failed);
            answer(job.reply, lost());
        }
        for running in self.running.drain(..) {
            self.shared.metrics.running.dec();
            self.shared.metrics.ended(Ending::Failed);
            answer(running.reply, lost());
        }
    }
}

/// A client that went away meanwhile needs no answer.
fn answer(
    reply: oneshot::Sender<Result<Generated, ExecutorError>>,
    outcome: Result<Generated, ExecutorError>,
) {
    if let Err(Err(error)) = reply.send(outcome) {
        tracing::debug!(%error, "nobody waits for this answer");
    }
}

fn lost(error: &ExecutorError) -> Result<(), Lost> {
    match error {
        ExecutorError::DeviceLost(cause) => Err(Lost(cause.clone())),
        _ => Ok(()),
    }
}

/// A panic leaves the executor in an unknown state: the device counts as lost.
fn guard<T>(call: impl FnOnce() -> Result<T, ExecutorError>) -> Result<T, ExecutorError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(ExecutorError::DeviceLost(format!(
            "the executor panicked: {}",
            words(&*panic)
        )))
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
