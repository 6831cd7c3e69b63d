//! How long the primary tier has been saturated, relieved or without figures, each without a break.

use super::Load;
use std::time::{Duration, Instant};
use zimage_crds::{ShiftSpec, ShiftTrigger};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Timers {
    saturated_since: Option<Instant>,
    relieved_since: Option<Instant>,
    stale_since: Option<Instant>,
    cool_down_until: Option<Instant>,
}

impl Timers {
    /// Timers after one more sample.
    pub(super) fn update(&self, shift: &ShiftSpec, load: Load, now: Instant) -> Self {
        let since = |holds: bool, since: Option<Instant>| holds.then(|| since.unwrap_or(now));
        Self {
            saturated_since: since(is_saturated(shift, load), self.saturated_since),
            relieved_since: since(is_relieved(shift, load), self.relieved_since),
            stale_since: since(load == Load::Stale, self.stale_since),
            cool_down_until: self.cool_down_until,
        }
    }

    pub(super) fn start_cool_down(&mut self, now: Instant, length: Duration) {
        self.cool_down_until = now.checked_add(length);
    }

    pub(super) fn is_cooling_down(&self, now: Instant) -> bool {
        self.cool_down_until.is_some_and(|until| now < until)
    }

    pub(super) fn is_saturated_for(&self, window: Duration, now: Instant) -> bool {
        has_lasted(self.saturated_since, window, now)
    }

    pub(super) fn is_relieved_for(&self, window: Duration, now: Instant) -> bool {
        has_lasted(self.relieved_since, window, now)
    }

    pub(super) fn is_stale_for(&self, window: Duration, now: Instant) -> bool {
        has_lasted(self.stale_since, window, now)
    }
}

fn has_lasted(since: Option<Instant>, window: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= window)
}

fn is_saturated(shift: &ShiftSpec, load: Load) -> bool {
    match load {
        Load::Fresh {
            utilization,
            waiting,
        } => {
            let queue = match shift.trigger {
                ShiftTrigger::UtilizationAndQueue => waiting > 0,
                ShiftTrigger::Utilization => true,
            };
            queue && utilization > ratio(shift.utilization_percent)
        }
        Load::NoGpu | Load::Stale => false,
    }
}

fn is_relieved(shift: &ShiftSpec, load: Load) -> bool {
    match load {
        Load::Fresh {
            utilization,
            waiting,
        } => waiting == 0 && utilization < ratio(shift.return_below_percent),
        // A tier that lost its GPUs to an edit of the spec must not stay shifted for ever.
        Load::NoGpu => true,
        Load::Stale => false,
    }
}

fn ratio(percent: i32) -> f64 {
    f64::from(percent) / 100.0
}
