//! The traffic policy: which weights are in force, and why.
//!
//! ```text
//!            saturated for the whole window, cool-down over
//!   Normal ────────────────────────────────────────────────▶ Shifted
//!     ▲  ◀──────────────────────────────────────────────────┘  │
//!     │      held for the minimum, and relieved for long enough │
//!     │      or without figures for ten minutes                 │
//!     │                                                         │
//!     └── PrimaryDown · FallbackDown · BothDown ◀───────────────┘
//!              a tier has no ready pod: at once, whatever the figures
//! ```
//!
//! Pure: [`decide`] takes what was seen, what was decided before and the time, and returns what is decided now. Figures that are
//! not fresh move nothing and break every window, so a shift rests on an unbroken row of fresh samples. A shift that can no
//! longer be judged ends after [`BLIND`]: an idle primary would be paid for without end, and one that is full passes requests on.
//! Windows go by the monotonic clock; a wall clock that jumps moves nothing.

mod timers;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use crate::clock::Moment;
use jiff::Timestamp;
use std::time::{Duration, Instant};
use timers::Timers;
use zimage_crds::{
    PerTier, Reason, ShiftSpec, TrafficState, TrafficStatus, Weights, ZImageDeploymentSpec,
};

/// All to the fallback.
const FALLBACK_ONLY: Weights = Weights {
    primary: 0,
    fallback: 100,
};
/// All to the primary.
const PRIMARY_ONLY: Weights = Weights {
    primary: 100,
    fallback: 0,
};

/// How long a shift outlasts the figures that it rests on.
pub const BLIND: Duration = Duration::from_mins(10);

/// Every state with every reason that it may have.
pub const REASONS: [(TrafficState, Reason); 6] = [
    (TrafficState::Normal, Reason::WithinCapacity),
    (TrafficState::Normal, Reason::FiguresMissing),
    (TrafficState::Shifted, Reason::Saturated),
    (TrafficState::PrimaryDown, Reason::PrimaryUnavailable),
    (TrafficState::FallbackDown, Reason::FallbackUnavailable),
    (TrafficState::BothDown, Reason::BothUnavailable),
];

/// What the spec says about traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    normal: Weights,
    shift: ShiftSpec,
    has_fallback: bool,
    is_paused: bool,
}

impl From<&ZImageDeploymentSpec> for Policy {
    fn from(spec: &ZImageDeploymentSpec) -> Self {
        Self {
            normal: spec.traffic.weights,
            shift: spec.traffic.shift.clone(),
            has_fallback: spec.fallback.is_some(),
            is_paused: spec.paused,
        }
    }
}

/// One tier as it was seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TierObservation {
    /// Pods that are ready.
    pub ready_pods: u32,
    /// What the tier's ready pods report.
    pub load: Load,
    /// Age of the oldest of their figures; for a pod without any, the time since it became ready.
    pub figures_age: Duration,
}

/// What the ready pods of a tier report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Load {
    /// Nothing that is fresh enough to act upon.
    #[default]
    Stale,
    /// The pods answer but have no GPU.
    NoGpu,
    /// Fresh figures of every ready pod.
    Fresh {
        /// Mean over the pods, 0 to 1.
        utilization: f64,
        /// Sum of the waiting requests.
        waiting: u64,
    },
}

/// Both tiers as they were seen last; the fallback is not looked at when the policy has none.
pub type Observation = PerTier<TierObservation>;

/// What is decided now and what the next decision needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    state: TrafficState,
    reason: Reason,
    /// When the state began, as it is written.
    since: Timestamp,
    /// The same by the clock that holds are measured with.
    began: Instant,
    weights: Weights,
    timers: Timers,
}

impl State {
    /// The start: nothing was ever observed.
    pub fn new(policy: &Policy, now: Moment) -> Self {
        Self {
            state: TrafficState::Normal,
            reason: Reason::WithinCapacity,
            since: now.wall,
            began: now.monotonic,
            weights: policy.weights(TrafficState::Normal, policy.normal),
            timers: Timers::default(),
        }
    }

    /// What a restarted operator goes on with. Windows start anew: they rest on samples that were not seen. A beginning
    /// that lies ahead was written by a wrong clock; it counts as now.
    pub fn from_status(status: &TrafficStatus, now: Moment) -> Self {
        let missing = Reason::FiguresMissing;
        let reason = match status.state {
            TrafficState::Normal if status.reason == missing.as_str() => missing,
            state => reason_of(state),
        };
        Self {
            state: status.state,
            reason,
            since: status.since.0.min(now.wall),
            began: now.instant_of(status.since.0),
            weights: status.weights,
            timers: Timers::default(),
        }
    }

    /// The state in force.
    pub const fn state(&self) -> TrafficState {
        self.state
    }

    /// When the state began.
    pub const fn since(&self) -> Timestamp {
        self.since
    }

    /// The weights in force.
    pub const fn weights(&self) -> Weights {
        self.weights
    }

    /// Why the state is in force.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Whether both decide the same; the timers do not count.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.state == other.state && self.reason == other.reason && self.weights == other.weights
    }
}

const fn reason_of(state: TrafficState) -> Reason {
    match state {
        TrafficState::Normal => Reason::WithinCapacity,
        TrafficState::Shifted => Reason::Saturated,
        TrafficState::PrimaryDown => Reason::PrimaryUnavailable,
        TrafficState::FallbackDown => Reason::FallbackUnavailable,
        TrafficState::BothDown => Reason::BothUnavailable,
    }
}

impl Policy {
    /// Whether weights split requests as the spec does; only the ratio counts.
    pub fn is_as_specified(&self, weights: Weights) -> bool {
        let normal = self.weights(TrafficState::Normal, self.normal);
        normal.primary * weights.fallback == weights.primary * normal.fallback
    }

    /// The weights of a state. `last` is what was in force before.
    const fn weights(&self, state: TrafficState, last: Weights) -> Weights {
        match state {
            TrafficState::BothDown => last,
            TrafficState::PrimaryDown => FALLBACK_ONLY,
            TrafficState::FallbackDown => PRIMARY_ONLY,
            TrafficState::Normal | TrafficState::Shifted if !self.has_fallback => PRIMARY_ONLY,
            TrafficState::Normal => self.normal,
            TrafficState::Shifted => self.shift.weights,
        }
    }
}

/// The next decision.
///
/// Readiness counts at once. Saturation counts when fresh samples showed it without a break for the whole window, relief
/// likewise; a shift lasts at least the minimum hold, and after a return the cool-down keeps the next one away. While the
/// deployment is paused, time passes and the weights stay.
pub fn decide(policy: &Policy, observation: &Observation, before: &State, now: Moment) -> State {
    let timers = before
        .timers
        .update(&policy.shift, observation.primary.load, now.monotonic);
    let mut next = State {
        timers,
        ..before.clone()
    };
    if policy.is_paused {
        return next;
    }
    (next.state, next.reason) = next_state(policy, observation, &next, now.monotonic);
    if before.state == TrafficState::Shifted && next.state == TrafficState::Normal {
        let length = seconds(policy.shift.cool_down_seconds);
        next.timers.start_cool_down(now.monotonic, length);
    }
    if next.state != before.state {
        (next.since, next.began) = (now.wall, now.monotonic);
    }
    next.weights = policy.weights(next.state, before.weights);
    next
}

/// The state after `before`, whose timers are those of now, and why.
fn next_state(
    policy: &Policy,
    observation: &Observation,
    before: &State,
    now: Instant,
) -> (TrafficState, Reason) {
    let primary_ready = observation.primary.ready_pods > 0;
    let fallback_ready = policy.has_fallback && observation.fallback.ready_pods > 0;
    let state = match (primary_ready, fallback_ready) {
        (false, false) => TrafficState::BothDown,
        (false, true) => TrafficState::PrimaryDown,
        (true, false) if policy.has_fallback => TrafficState::FallbackDown,
        (true, false) => TrafficState::Normal,
        (true, true) if before.state == TrafficState::Shifted => {
            return while_shifted(&policy.shift, before, now);
        }
        (true, true) => {
            let window = seconds(policy.shift.window_seconds);
            let is_stale = observation.primary.load == Load::Stale;
            if before.timers.is_saturated_for(window, now) && !before.timers.is_cooling_down(now) {
                TrafficState::Shifted
            } else if before.reason == Reason::FiguresMissing && is_stale {
                return (TrafficState::Normal, before.reason);
            } else {
                TrafficState::Normal
            }
        }
    };
    (state, reason_of(state))
}

fn while_shifted(shift: &ShiftSpec, before: &State, now: Instant) -> (TrafficState, Reason) {
    let held = now.saturating_duration_since(before.began) >= seconds(shift.minimum_hold_seconds);
    let relief = seconds(shift.return_after_seconds);
    if held && before.timers.is_relieved_for(relief, now) {
        (TrafficState::Normal, Reason::WithinCapacity)
    } else if held && before.timers.is_stale_for(BLIND, now) {
        (TrafficState::Normal, Reason::FiguresMissing)
    } else {
        (TrafficState::Shifted, Reason::Saturated)
    }
}

fn seconds(value: i32) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}
