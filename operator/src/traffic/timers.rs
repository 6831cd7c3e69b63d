//! How long the primary tier has been saturated or relieved without a break.

use super::Load;
use jiff::{SignedDuration, Timestamp};
use zimage_crds::{ShiftSpec, ShiftTrigger};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Timers {
    saturated_since: Option<Timestamp>,
    relieved_since: Option<Timestamp>,
    cool_down_until: Option<Timestamp>,
}

impl Timers {
    /// Timers after one more sample.
    pub(super) fn update(&self, shift: &ShiftSpec, load: Load, now: Timestamp) -> Self {
        Self {
            saturated_since: is_saturated(shift, load).then(|| self.saturated_since.unwrap_or(now)),
            relieved_since: is_relieved(shift, load).then(|| self.relieved_since.unwrap_or(now)),
            cool_down_until: self.cool_down_until,
        }
    }

    pub(super) fn start_cool_down(&mut self, now: Timestamp, length: SignedDuration) {
        self.cool_down_until = now.checked_add(length).ok();
    }

    pub(super) fn is_cooling_down(&self, now: Timestamp) -> bool {
        self.cool_down_until.is_some_and(|until| now < until)
    }

    pub(super) fn saturated_for(&self, now: Timestamp) -> SignedDuration {
        elapsed(self.saturated_since, now)
    }

    pub(super) fn relieved_for(&self, now: Timestamp) -> SignedDuration {
        elapsed(self.relieved_since, now)
    }
}

/// Time since the beginning; negative when there is none, so that a window of any length is unfulfilled.
fn elapsed(since: Option<Timestamp>, now: Timestamp) -> SignedDuration {
    since.map_or(SignedDuration::from_secs(-1), |since| {
        now.duration_since(since)
    })
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
