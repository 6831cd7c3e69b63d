//! The time by both clocks of a machine.

use jiff::Timestamp;
use std::time::{Duration, Instant};

/// One moment. Whatever is measured goes by the monotonic clock; the wall clock, which may jump, is only written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the clock that never jumps.
    pub monotonic: Instant,
    /// By the clock that people and the API read.
    pub wall: Timestamp,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: Timestamp::now(),
        }
    }

    /// The monotonic time `earlier` by the wall clock was at, as far as both agree; now for what lies ahead.
    pub(crate) fn instant_of(&self, earlier: Timestamp) -> Instant {
        let passed = Duration::try_from(self.wall.duration_since(earlier)).unwrap_or_default();
        self.monotonic.checked_sub(passed).unwrap_or(self.monotonic)
    }
}

/// Times in the API have whole seconds; a finer one would differ from what is read back.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
