//! How long a device takes, from what it took before.

use crate::guidance::Guidance;
use crate::request::ImageRequest;
use std::collections::VecDeque;
use std::time::Duration;

/// Measurements of one kind that count: the last ones.
const SAMPLES: usize = 15;
/// Kinds and sizes that are remembered; the one that was measured longest ago is forgotten.
const KINDS: usize = 128;

/// A kind of call of the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Encoding the prompt and drawing the noise.
    Begin,
    /// A denoising step.
    Step,
    /// A preview of the latents.
    Preview,
    /// Decoding the latents.
    Decode,
    /// Giving the slot back.
    Release,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Begin,
        Self::Step,
        Self::Preview,
        Self::Decode,
        Self::Release,
    ];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Step => "step",
            Self::Preview => "preview",
            Self::Decode => "decode",
            Self::Release => "release",
        }
    }
}

/// Width and height in pixels.
pub type Size = (u32, u32);

/// What a request still costs a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Width and height in pixels.
    pub size: Size,
    /// Denoising steps that are left.
    pub steps: u32,
    /// Forwards of the transformer in each: two with guidance.
    pub forwards: u32,
    /// Whether the request has begun.
    pub begun: bool,
}

impl Work {
    /// Of a request that has not begun.
    pub fn of<I>(request: &ImageRequest<I>) -> Self {
        Self {
            size: (request.width, request.height),
            steps: (request.num_inference_steps).saturating_sub(request.skipped_steps()),
            forwards: 1 + u32::from(Guidance::of(request).is_some()),
            begun: false,
        }
    }
}

/// What a device took for its last calls. Of a [`Phase::Step`] it knows the time of one forward.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// The last one measured is the last of the queue.
    kinds: VecDeque<Kind>,
}

#[derive(Clone, Debug)]
struct Kind {
    phase: Phase,
    size: Size,
    last: VecDeque<Duration>,
    median: Duration,
}

impl Pace {
    /// A call took `time`; that of a step is of `forwards` forwards, any other of one.
    pub fn record(&mut self, phase: Phase, size: Size, forwards: u32, time: Duration) {
        let position =
            (self.kinds.iter()).position(|kind| (kind.phase, kind.size) == (phase, size));
        let mut kind = position
            .and_then(|position| self.kinds.remove(position))
            .unwrap_or_else(|| Kind::new(phase, size));
        kind.push(time / forwards.max(1));
        if self.kinds.len() == KINDS {
            self.kinds.pop_front();
        }
        self.kinds.push_back(kind);
    }

    /// The median time of such a call, that of a step by forward. Of a size that was not measured: from the next one, in
    /// proportion to the pixels. `None`: nothing of the kind was measured.
    pub fn typical(&self, phase: Phase, size: Size) -> Option<Duration> {
        let of_the_phase = self.kinds.iter().filter(|kind| kind.phase == phase);
        let ratio = |kind: &Kind| pixels(size) / pixels(kind.size);
        let far = |kind: &Kind| {
            let same = kind.size == size;
            (!same, ratio(kind).ln().abs())
        };
        let nearest = of_the_phase.min_by(|a, b| {
            let (a, b) = (far(a), far(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        })?;
        Some(nearest.median.mul_f64(ratio(nearest)))
    }

    /// The time that a device needs for what is left of a request. `None`: no step was measured.
    pub fn estimate(&self, work: &Work) -> Option<Duration> {
        let typical = |phase| self.typical(phase, work.size);
        let forwards = work.steps.saturating_mul(work.forwards);
        let steps = typical(Phase::Step)?.saturating_mul(forwards);
        let begin = typical(Phase::Begin).filter(|_| !work.begun);
        let around = [begin, typical(Phase::Decode)];
        Some(
            around
                .into_iter()
                .flatten()
                .fold(steps, Duration::saturating_add),
        )
    }
}

impl Kind {
    fn new(phase: Phase, size: Size) -> Self {
        Self {
            phase,
            size,
            last: VecDeque::with_capacity(SAMPLES),
            median: Duration::ZERO,
        }
    }

    fn push(&mut self, time: Duration) {
        if self.last.len() == SAMPLES {
            self.last.pop_front();
        }
        self.last.push_back(time);
        let mut sorted: Vec<_> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        self.median = sorted.get(sorted.len() / 2).copied().unwrap_or(time);
    }
}

/// At least one.
fn pixels((width, height): Size) -> f64 {
    (f64::from(width) * f64::from(height)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn measured(seconds: &[u64]) -> Pace {
        let mut pace = Pace::default();
        for &seconds in seconds {
            pace.record(Phase::Step, (64, 64), 1, Duration::from_secs(seconds));
        }
        pace
    }

    #[test]
    fn the_median_of_the_last_calls_counts() {
        assert_eq!(measured(&[]).typical(Phase::Step, (64, 64)), None);
        assert_eq!(
            measured(&[1, 90, 2]).typical(Phase::Step, (64, 64)),
            Some(2 * SECOND)
        );
        let later = [[9; SAMPLES], [3; SAMPLES]].concat();
        assert_eq!(
            measured(&later).typical(Phase::Step, (64, 64)),
            Some(3 * SECOND)
        );
    }

    #[test]
    fn a_size_that_was_not_measured_is_taken_from_the_next_one_by_its_pixels() {
        let mut pace = measured(&[1]);
        pace.record(Phase::Step, (1024, 1024), 1, 60 * SECOND);
        assert_eq!(pace.typical(Phase::Step, (128, 64)), Some(2 * SECOND));
        assert_eq!(pace.typical(Phase::Step, (2048, 1024)), Some(120 * SECOND));
        assert_eq!(pace.typical(Phase::Decode, (64, 64)), None);
    }

    #[test]
    fn a_size_that_was_measured_is_not_that_of_its_neighbour_with_as_many_pixels() {
        let mut pace = Pace::default();
        pace.record(Phase::Step, (64, 128), 1, SECOND);
        pace.record(Phase::Step, (128, 64), 1, 2 * SECOND);
        assert_eq!(pace.typical(Phase::Step, (64, 128)), Some(SECOND));
        assert_eq!(pace.typical(Phase::Step, (128, 64)), Some(2 * SECOND));
    }

    #[test]
    fn a_request_costs_what_is_left_of_it() {
        let mut pace = Pace::default();
        let request = ImageRequest {
            guidance_scale: 4.0,
            ..ImageRequest::plain("a fox", (64, 64))
        };
        let work = Work::of(&request);
        assert_eq!(pace.estimate(&work), None);
        pace.record(Phase::Begin, (64, 64), 1, SECOND);
        pace.record(Phase::Decode, (64, 64), 1, 2 * SECOND);
        // Two forwards took two seconds.
        pace.record(Phase::Step, (64, 64), 2, 2 * SECOND);
        assert_eq!(pace.estimate(&work), Some((1 + 16 + 2) * SECOND));
        let later = Work {
            steps: 1,
            begun: true,
            ..work
        };
        assert_eq!(pace.estimate(&later), Some((2 + 2) * SECOND));
    }

    #[test]
    fn no_more_is_remembered_than_is_useful() {
        let mut pace = Pace::default();
        for width in 1..1000 {
            pace.record(Phase::Step, (16 * width, 64), 1, SECOND);
        }
        assert_eq!(pace.kinds.len(), KINDS);
    }
}
