//! The thread that owns an executor.

use crate::metrics::Ending;
use crate::progress::{Call, Progress};
use crate::queue::{Job, Queue, State};
use crate::reply::{Event, Generated, Reply};
use std::any::Any;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zimage_core::admission::Id;
use zimage_core::executor::{Begun, Executor, ExecutorError, Slot};
use zimage_core::pace::{Phase, Work};
use zimage_core::scheduler::{Scheduler, Turn};

/// The progress of each worker.
pub(crate) type Devices = Arc<[Progress]>;

/// An image on the device.
struct Running {
    id: Id,
    reply: Reply,
    preview_every: Option<NonZeroU32>,
    work: Work,
    begun: Begun,
    done: u32,
    queue_time: Duration,
    started: Instant,
}

pub(crate) struct Worker {
    executor: Box<dyn Executor>,
    queue: Arc<Queue>,
    devices: Devices,
    /// Its own among the devices.
    number: usize,
    scheduler: Scheduler,
    running: BTreeMap<Slot, Running>,
}

/// What a worker does next.
enum Order {
    Begin(Id, Box<Job>),
    Step(Slot),
    Decode(Slot),
    /// The client went away.
    Cancel(Slot),
    End,
}

/// The device cannot go on.
struct Lost(String);

impl Worker {
    pub(crate) fn new(
        executor: Box<dyn Executor>,
        queue: Arc<Queue>,
        devices: Devices,
        number: usize,
        max_running: usize,
    ) -> Self {
        Self {
            executor,
            queue,
            devices,
            number,
            scheduler: Scheduler::new(max_running),
            running: BTreeMap::new(),
        }
    }

    /// Works until the last handle of the engine is gone or a device is lost.
    pub(crate) fn run(mut self) {
        loop {
            let outcome = match self.next() {
                Order::Begin(id, job) => self.begin(id, *job),
                Order::Step(slot) => self.step(slot),
                Order::Decode(slot) => self.decode(slot),
                Order::Cancel(slot) => {
                    self.leave(slot, Ending::Cancelled);
                    Ok(())
                }
                Order::End => break,
            };
            if let Err(Lost(cause)) = outcome {
                self.queue.fail(&cause, Some(self.number));
            }
        }
        for running in std::mem::take(&mut self.running).into_values() {
            self.queue.metrics.running.dec();
            self.queue.metrics.ended(Ending::Failed);
            let lost = self.queue.lost(Some(self.number));
            running.reply.end(Err(lost));
        }
    }

    /// Waits when there is nothing to do.
    fn next(&self) -> Order {
        self.queue.wait_for(|state| self.decide(state))
    }

    fn decide(&self, state: &mut State) -> Option<Order> {
        if self.queue.failed().is_cancelled() {
            return Some(Order::End);
        }
        let gone = |(_, running): &(_, &Running)| !state.admission.holds(running.id);
        if let Some((&slot, _)) = self.running.iter().find(gone) {
            return Some(Order::Cancel(slot));
        }
        match self.scheduler.next(state.may_begin(self.running.len())) {
            Turn::Begin => {
                (state.admission.take()).map(|(id, job)| Order::Begin(id, Box::new(job)))
            }
            Turn::Step(slot) => Some(Order::Step(slot)),
            Turn::Decode(slot) => Some(Order::Decode(slot)),
            Turn::Idle => state.is_over().then_some(Order::End),
        }
    }

    fn begin(&mut self, id: Id, job: Job) -> Result<(), Lost> {
        let queue_time = job.submitted.elapsed();
        self.queue.metrics.queue.observe(queue_time.as_secs_f64());
        let work = Work::of(&job.request);
        let started = Instant::now();
        job.reply.tell(Event::Started {
            device: self.number,
        });
        let begun = match self.call(Phase::Begin, work, |executor| executor.begin(&job.request)) {
            Ok(begun) => begun,
            Err(error) => {
                self.queue.metrics.ended(Ending::Failed);
                self.queue.end(id);
                job.reply.end(Err(error.clone()));
                return lost(&error);
            }
        };
        self.queue.metrics.running.inc();
        self.queue
            .change(|state| state.admission.has_left(id, begun.steps));
        self.scheduler.began(begun.slot, begun.steps);
        let running = Running {
            id,
            reply: job.reply,
            preview_every: job.preview_every,
            work,
            begun,
            done: 0,
            queue_time,
            started,
        };
        self.running.insert(begun.slot, running);
        Ok(())
    }

    fn step(&mut self, slot: Slot) -> Result<(), Lost> {
        let work = self.running.get(&slot).map(|running| running.work);
        let outcome = match work {
            Some(work) => self.call(Phase::Step, work, |executor| executor.step(&[slot])),
            None => Err(ExecutorError::Failed(format!(
                "slot {} is not taken",
                slot.0
            ))),
        };
        if let Err(error) = outcome {
            // The state of the slot is undefined now; that of others is not.
            return self.fail(slot, error);
        }
        self.scheduler.stepped(slot);
        self.tell_progress(slot)
    }

    /// Tells of a step that was taken, with a preview when it is time for one.
    fn tell_progress(&mut self, slot: Slot) -> Result<(), Lost> {
        let Some(running) = self.running.get_mut(&slot) else {
            return Ok(());
        };
        running.done += 1;
        let (id, work, done, of) = (running.id, running.work, running.done, running.begun.steps);
        running.reply.tell(Event::Step { done, of });
        let every = running.preview_every.filter(|every| done % *every == 0);
        let left = of.saturating_sub(done);
        self.queue
            .change(|state| state.admission.has_left(id, left));
        if every.is_none() || left == 0 {
            return Ok(());
        }
        match self.call(Phase::Preview, work, |executor| executor.preview(slot)) {
            Ok(pixels) => {
                if let Some(running) = self.running.get(&slot) {
                    running.reply.tell(Event::Preview(pixels));
                }
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "failed to make a preview");
                lost(&error)
            }
        }
    }

    fn decode(&mut self, slot: Slot) -> Result<(), Lost> {
        let Some(work) = self.running.get(&slot).map(|running| running.work) else {
            self.scheduler.left(slot);
            return Ok(());
        };
        let pixels = match self.call(Phase::Decode, work, |executor| executor.decode(slot)) {
            Ok(pixels) => pixels,
            Err(error) => return self.fail(slot, error),
        };
        let Some(running) = self.forget(slot) else {
            return Ok(());
        };
        let generated = Generated {
            pixels,
            steps: running.begun.steps,
            prompt_tokens: running.begun.prompt_tokens,
            truncated: running.begun.truncated,
            queue_time: running.queue_time,
            compute_time: running.started.elapsed(),
        };
        // The room is free before the client hears of its image, so that its next request finds it.
        let ending = match self.queue.end(running.id) {
            true => Ending::Done,
            false => Ending::Cancelled,
        };
        self.queue.metrics.ended(ending);
        running.reply.end(Ok(generated));
        // Memory is given back while the client already has its image.
        self.release(slot, work);
        Ok(())
    }

    /// One image cannot be made; the others go on unless the device is lost.
    fn fail(&mut self, slot: Slot, error: ExecutorError) -> Result<(), Lost> {
        let lost = lost(&error);
        if let Some(running) = self.leave(slot, Ending::Failed) {
            self.queue.end(running.id);
            running.reply.end(Err(error));
        }
        lost
    }

    /// Takes an image off the device that has not ended well.
    fn leave(&mut self, slot: Slot, ending: Ending) -> Option<Running> {
        let running = self.forget(slot)?;
        self.queue.metrics.ended(ending);
        self.release(slot, running.work);
        Some(running)
    }

    fn forget(&mut self, slot: Slot) -> Option<Running> {
        self.scheduler.left(slot);
        let running = self.running.remove(&slot)?;
        self.queue.metrics.running.dec();
        Some(running)
    }

    fn release(&mut self, slot: Slot, work: Work) {
        let released = self.call(Phase::Release, work, |executor| {
            executor.release(slot);
            Ok(())
        });
        if let Err(error) = released {
            tracing::error!(slot = slot.0, %error, "failed to release a slot");
        }
    }

    /// Calls the executor where the watchdog sees it, and measures.
    fn call<T>(
        &mut self,
        phase: Phase,
        work: Work,
        call: impl FnOnce(&mut dyn Executor) -> Result<T, ExecutorError>,
    ) -> Result<T, ExecutorError> {
        let forwards = if phase == Phase::Step {
            work.forwards
        } else {
            1
        };
        let what = Call {
            phase,
            size: work.size,
            forwards,
        };
        let progress = &self.devices[self.number];
        progress.enter(what);
        let began = Instant::now();
        let outcome = guard(|| call(&mut *self.executor));
        let time = began.elapsed();
        progress.leave();
        match phase {
            Phase::Step => self.queue.metrics.step.observe(time.as_secs_f64()),
            Phase::Decode => self.queue.metrics.decode.observe(time.as_secs_f64()),
            Phase::Begin | Phase::Preview | Phase::Release => {}
        }
        if outcome.is_ok() {
            self.queue.record(what, time);
        }
        outcome
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
