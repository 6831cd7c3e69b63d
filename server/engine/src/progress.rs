//! What a device does now, and since when. Never locked: a thread that stands still holds nobody else up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zimage_core::pace::{Phase, Size};

/// A call of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) phase: Phase,
    /// Width and height in pixels.
    pub(crate) size: Size,
    /// Forwards of a step; one of every other call.
    pub(crate) forwards: u32,
}

/// A worker's progress: each begin and end of a call, on the monotonic clock.
#[derive(Debug)]
pub(crate) struct Progress {
    origin: Instant,
    /// Microseconds from the origin to the last progress.
    at: AtomicU64,
    /// The call that runs, packed; 0 between calls.
    call: AtomicU64,
}

/// What a worker does, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    /// `None` between calls.
    pub(crate) call: Option<Call>,
    pub(crate) age: Duration,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            at: AtomicU64::new(0),
            call: AtomicU64::new(0),
        }
    }

    pub(crate) fn enter(&self, call: Call) {
        self.set(pack(call));
    }

    pub(crate) fn leave(&self) {
        self.set(0);
    }

    /// The time first: whoever sees the new call sees its time too.
    fn set(&self, call: u64) {
        let now = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.at.store(now, Ordering::Relaxed);
        self.call.store(call, Ordering::Release);
    }

    pub(crate) fn doing(&self) -> Doing {
        let call = unpack(self.call.load(Ordering::Acquire));
        let at = Duration::from_micros(self.at.load(Ordering::Relaxed));
        Doing {
            call,
            age: self.origin.elapsed().saturating_sub(at),
        }
    }
}

/// Phase and forwards in a byte each, sides in 24 bits each. The phase counts from 1.
fn pack(call: Call) -> u64 {
    let phase = Phase::ALL.iter().position(|phase| *phase == call.phase);
    let side = |pixels: u32| u64::from(pixels.min((1 << 24) - 1));
    let (width, height) = call.size;
    let phase = phase.map_or(0, |position| position as u64 + 1);
    phase << 56 | u64::from(call.forwards.min(255)) << 48 | side(width) << 24 | side(height)
}

fn unpack(call: u64) -> Option<Call> {
    let phase = usize::try_from(call >> 56).ok()?.checked_sub(1)?;
    let side = |bits: u64| (bits & 0xff_ffff) as u32;
    Some(Call {
        phase: *Phase::ALL.get(phase)?,
        size: (side(call >> 24), side(call)),
        forwards: (call >> 48 & 0xff) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_that_runs_is_told_whole() {
        let progress = Progress::new();
        assert_eq!(progress.doing().call, None);
        for phase in Phase::ALL {
            for size in [(64, 2048), (2048, 64)] {
                let call = Call {
                    phase,
                    size,
                    forwards: 2,
                };
                progress.enter(call);
                assert_eq!(progress.doing().call, Some(call));
            }
        }
        progress.leave();
        assert_eq!(progress.doing().call, None);
    }
}
