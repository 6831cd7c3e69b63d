//! What the engine's handles, its workers and its watchdog share: the images that were taken.

use crate::metrics::{Ending, EngineMetrics};
use crate::progress::Call;
use crate::reply::Reply;
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use zimage_core::admission::{Admission, Bounds, Id};
use zimage_core::executor::ExecutorError;
use zimage_core::request::ImageRequest;

/// An image that waits.
pub(crate) struct Job {
    pub(crate) request: ImageRequest,
    pub(crate) preview_every: Option<NonZeroU32>,
    pub(crate) reply: Reply,
    pub(crate) submitted: Instant,
}

pub(crate) struct State {
    pub(crate) admission: Admission<Job>,
    /// Workers that wait for an image.
    idle: usize,
    pub(crate) draining: bool,
    /// Nobody can submit any more.
    closed: bool,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    /// There is something to do for a worker that waits.
    changed: Condvar,
    /// A place was given back.
    freed: Notify,
    failed: CancellationToken,
    cause: OnceLock<(String, Option<usize>)>,
    pub(crate) metrics: EngineMetrics,
}

impl Queue {
    pub(crate) fn new(bounds: Bounds, metrics: EngineMetrics) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                admission: Admission::new(bounds),
                idle: 0,
                draining: false,
                closed: false,
            }),
            changed: Condvar::new(),
            freed: Notify::new(),
            failed: CancellationToken::new(),
            cause: OnceLock::new(),
            metrics,
        })
    }

    /// Nothing waits or computes while it is held.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a worker see what `change` has done.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        self.metrics.show_waiting(state.admission.waiting());
        drop(state);
        self.changed.notify_all();
        self.freed.notify_waiters();
        result
    }

    /// Calls `decide` until it decides, each time something has changed.
    pub(crate) fn wait_for<T>(&self, mut decide: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(decision) = decide(&mut state) {
                self.metrics.show_waiting(state.admission.waiting());
                return decision;
            }
            state.idle += 1;
            state = (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// A call of an executor has ended well.
    pub(crate) fn record(&self, call: Call, time: Duration) {
        let mut state = self.lock();
        let pace = state.admission.pace_mut();
        pace.record(call.phase, call.size, call.forwards, time);
    }

    /// An image has ended on its device: its place is free. `false`: its client had gone away.
    pub(crate) fn end(&self, id: Id) -> bool {
        self.change(|state| state.admission.end(id)).is_some()
    }

    /// The client of an image went away.
    pub(crate) fn abandon(&self, id: Id) {
        if !self.lock().admission.holds(id) {
            return;
        }
        // The job is dropped here, where the lock is not held.
        let ended = self.change(|state| state.admission.end(id));
        if let Some(Some(_job)) = ended {
            self.metrics.ended(Ending::Cancelled);
        }
    }

    /// The device is lost: everybody is answered, and nothing is taken any more. The first cause is the one that is told.
    /// `device`: which one it is, where that is known.
    pub(crate) fn fail(&self, cause: &str, device: Option<usize>) {
        let first = self.cause.set((cause.to_owned(), device)).is_ok();
        if first {
            tracing::error!(cause, "the device is lost");
        }
        // Before the jobs go, so that their clients hear of the cause.
        self.failed.cancel();
        let jobs: Vec<Job> = self.change(|state| state.admission.end_all().collect());
        for job in jobs {
            self.metrics.ended(Ending::Failed);
            job.reply.end(Err(self.lost(None)));
        }
    }

    pub(crate) const fn failed(&self) -> &CancellationToken {
        &self.failed
    }

    /// What is told when a device has failed to an image that device `begun` had begun: it may be why, unless the device
    /// that failed is known to be another.
    pub(crate) fn lost(&self, begun: Option<usize>) -> ExecutorError {
        let cause = self.cause().to_owned();
        let failed = self.cause.get().and_then(|(_, device)| *device);
        match (begun, failed) {
            (Some(begun), Some(failed)) if begun != failed => ExecutorError::NotBegun(cause),
            (Some(_), _) => ExecutorError::DeviceLost(cause),
            (None, _) => ExecutorError::NotBegun(cause),
        }
    }

    pub(crate) fn cause(&self) -> &str {
        let unknown = "the device thread ended";
        self.cause
            .get()
            .map_or(unknown, |(cause, _)| cause.as_str())
    }

    /// Takes nothing new and returns when all places are free.
    pub(crate) async fn drain(&self) {
        self.change(|state| state.draining = true);
        loop {
            let freed = self.freed.notified();
            if self.lock().admission.used() == 0 {
                return;
            }
            freed.await;
        }
    }

    /// Nobody can submit any more: workers end when everything is done.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }
}

impl State {
    /// Whether a worker may begin an image: not while it has others and another worker has nothing to do.
    pub(crate) fn may_begin(&self, running: usize) -> bool {
        let waiting = self.admission.waiting();
        waiting > if running == 0 { 0 } else { self.idle }
    }

    /// Whether a worker without images ends.
    pub(crate) fn is_over(&self) -> bool {
        self.closed && self.admission.waiting() == 0
    }
}
