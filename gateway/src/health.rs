//! What the gateway thinks of one pod: whether it is in rotation, and when it may be asked. Pure.
//!
//! ```text
//!     2 failures, 1 silence, or a lost device      the time is over
//!   In ─────────────────────────────▶ Out (5 s, …) ────────────────▶ Probed ──▶ Trial ──▶ In
//!   ▲                                   ▲  doubled to 60 s              │ no       │ failure
//!   └── an answer, whatever was ────────┴───────────────────────────────┴──────────┘
//! ```
//! A pod that did not take a connection is [`Suspect`](Standing::Suspect) until it is probed: others are asked before it,
//! so that no second request waits for it.

use std::time::{Duration, Instant};

/// Failures in a row that take a pod out of rotation.
const FAILURES: u32 = 2;
/// Time out of rotation the first time; it doubles each time that the pod is no better.
const OUT_FIRST: Duration = Duration::from_secs(5);
/// The longest time out of rotation before the pod is probed.
const OUT_AT_MOST: Duration = Duration::from_secs(60);
/// A pod that says that it is full is not asked for this long at the most, whatever it says.
pub const FULL_AT_MOST: Duration = Duration::from_secs(60);
/// A pod that says that it is full is looked at so often by one request: clients that filled its queue may have left it.
const LOOKED_AT_EACH: Duration = Duration::from_secs(1);
/// A suspect is probed this long after it failed.
const SUSPECT_FOR: Duration = Duration::from_secs(1);

/// What went wrong with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, or not taken in time.
    Connect,
    /// The connection ended, or what came is no HTTP, or a 502.
    Reset,
    /// Its process answers nothing at all.
    Silent,
    /// A 503, which is not about the request.
    Unavailable,
    /// It says that its device is lost: it makes no further image before it has started again.
    Device,
}

impl Failure {
    /// Label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::Unavailable => "unavailable",
            Self::Device => "device",
        }
    }
}

/// Where a pod stands when the next one to ask is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// In rotation.
    In,
    /// It did not take the last connection: asked after all that are in rotation.
    Suspect,
    /// Out of rotation.
    Out,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    In,
    Out {
        until: Instant,
    },
    /// It answered a probe: one request may try it.
    Trial {
        taken: bool,
    },
}

/// One pod's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    state: State,
    /// Failures since the last answer.
    failures: u32,
    /// When the last one was a connection that was not taken.
    suspect_since: Option<Instant>,
    /// Times out of rotation since the last answer.
    ejections: u32,
    full: Option<Full>,
}

/// What a pod said that has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Full {
    until: Instant,
    /// When the next request may look whether it is so still.
    look_at: Instant,
    /// One has, and was not refused so far.
    was_looked_at: bool,
}

impl Health {
    /// The pod answered a request, whatever it said.
    pub const fn answered(&mut self) {
        let full = self.full;
        *self = Self {
            state: State::In,
            failures: 0,
            suspect_since: None,
            ejections: 0,
            full,
        };
    }

    /// The pod failed. Returns for how long it is out of rotation, when that is news.
    pub fn failed(&mut self, failure: Failure, now: Instant) -> Option<Duration> {
        // What the requests that it had say afterwards is no news.
        if matches!(self.state, State::Out { .. }) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.suspect_since = (failure == Failure::Connect).then_some(now);
        let is_out = self.failures >= FAILURES
            || matches!(failure, Failure::Silent | Failure::Device)
            || matches!(self.state, State::Trial { .. });
        is_out.then(|| self.leave(now))
    }

    fn leave(&mut self, now: Instant) -> Duration {
        let time = OUT_FIRST
            .saturating_mul(1 << self.ejections.min(8))
            .min(OUT_AT_MOST);
        self.ejections = self.ejections.saturating_add(1);
        self.suspect_since = None;
        self.state = State::Out { until: now + time };
        time
    }

    /// The pod has no room before `time` has passed, as far as it knows.
    pub fn is_full(&mut self, time: Duration, now: Instant) {
        self.full = Some(Full {
            until: now + time.min(FULL_AT_MOST),
            look_at: now + LOOKED_AT_EACH,
            was_looked_at: false,
        });
    }

    /// A request left its place at the pod: another one may have it.
    pub const fn has_room(&mut self) {
        self.full = None;
    }

    /// For how long the pod is still full; none when it may be asked.
    pub fn full_for(&self, now: Instant) -> Option<Duration> {
        self.full
            .filter(|full| now < full.look_at)
            .map(|full| full.until.saturating_duration_since(now))
            .filter(|time| !time.is_zero())
    }

    /// Whether it is time to look whether the pod answers.
    pub fn wants_probe(&self, now: Instant) -> bool {
        match self.state {
            State::Out { until } => until <= now,
            State::In => self
                .suspect_since
                .is_some_and(|since| since + SUSPECT_FOR <= now),
            State::Trial { .. } => false,
        }
    }

    /// What the probe that [`wants_probe`](Self::wants_probe) asked for found. Returns for how long the pod is out of
    /// rotation, when that is news.
    pub fn probed(&mut self, answers: bool, now: Instant) -> Option<Duration> {
        match self.state {
            State::Out { until } if until <= now => {
                if answers {
                    self.state = State::Trial { taken: false };
                    None
                } else {
                    self.leave(now);
                    None
                }
            }
            State::In if self.suspect_since.is_some() => {
                if answers {
                    self.suspect_since = None;
                    self.failures = 0;
                    None
                } else {
                    self.failed(Failure::Connect, now)
                }
            }
            _ => None,
        }
    }

    /// Where the pod stands.
    pub const fn standing(&self) -> Standing {
        match self.state {
            State::In if self.suspect_since.is_some() => Standing::Suspect,
            State::In | State::Trial { taken: false } => Standing::In,
            State::Out { .. } | State::Trial { taken: true } => Standing::Out,
        }
    }

    /// A request is sent to the pod.
    pub fn asked(&mut self, now: Instant) {
        if let State::Trial { taken } = &mut self.state {
            *taken = true;
        }
        self.full = self.full.and_then(|full| full.asked(now));
    }

    /// A request left the pod without saying anything about it: its client went away.
    pub const fn left(&mut self) {
        if let State::Trial { taken } = &mut self.state {
            *taken = false;
        }
    }
}

impl Full {
    /// A request is sent to the pod. None: the one before was not refused for as long, so there is room.
    fn asked(self, now: Instant) -> Option<Self> {
        if now < self.look_at {
            return Some(self);
        }
        (!self.was_looked_at).then_some(Self {
            look_at: now + LOOKED_AT_EACH,
            was_looked_at: true,
            ..self
        })
    }
}

#[cfg(test)]
mod tests;
