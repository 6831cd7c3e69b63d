//! The traffic policy: which weights are in force, and why.
//!
//! ```text
//!            saturated for the whole window, cool-down over
//!   Normal ────────────────────────────────────────────────▶ Shifted
//!     ▲  ◀──────────────────────────────────────────────────┘  │
//!     │      held for the minimum, relieved for long enough     │
//!     │                                                         │
//!     └── PrimaryDown · FallbackDown · BothDown ◀───────────────┘
//!              a tier has no ready pod: at once, whatever the figures
//! ```
//!
//! Pure: [`decide`] takes what was seen, what was remembered and the time, and returns what to remember. Figures that are
//! not fresh move nothing and break every window, so a shift rests on an unbroken row of fresh samples.

mod timers;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use timers::Timers;
use zimage_crds::{Reason, ShiftSpec, TrafficState, TrafficStatus, Weights, ZImageDeploymentSpec};

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

/// What the spec says about traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    normal: Weights,
    shift: ShiftSpec,
    has_fallback: bool,
}

impl From<&ZImageDeploymentSpec> for Policy {
    fn from(spec: &ZImageDeploymentSpec) -> Self {
        Self {
            normal: spec.traffic.weights,
            shift: spec.traffic.shift.clone(),
            has_fallback: spec.fallback.is_some(),
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

/// Both tiers as they were seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// The primary tier.
    pub primary: TierObservation,
    /// The fallback tier; not looked at when the policy has none.
    pub fallback: TierObservation,
}

/// What is decided now and what the next decision needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    state: TrafficState,
    since: Timestamp,
    weights: Weights,
    timers: Timers,
}

impl Memory {
    /// The start: nothing was ever observed.
    pub fn new(policy: &Policy, now: Timestamp) -> Self {
        let weights = policy.weights(TrafficState::Normal, policy.normal);
        Self {
            state: TrafficState::Normal,
            since: now,
            weights,
            timers: Timers::default(),
        }
    }

    /// What a restarted operator goes on with. Windows start anew: they rest on samples that were not seen.
    pub fn from_status(status: &TrafficStatus) -> Self {
        Self {
            state: status.state,
            since: status.since.0,
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
        match self.state {
            TrafficState::Normal => Reason::WithinCapacity,
            TrafficState::Shifted => Reason::Saturated,
            TrafficState::PrimaryDown => Reason::PrimaryUnavailable,
            TrafficState::FallbackDown => Reason::FallbackUnavailable,
            TrafficState::BothDown => Reason::BothUnavailable,
        }
    }

    /// Whether both decide the same; the timers do not count.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.state == other.state && self.weights == other.weights
    }
}

impl Policy {
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
/// likewise; a shift lasts at least the minimum hold, and after a return the cool-down keeps the next one away.
pub fn decide(
    policy: &Policy,
    observation: &Observation,
    memory: &Memory,
    now: Timestamp,
) -> Memory {
    let mut timers = memory
        .timers
        .update(&policy.shift, observation.primary.load, now);
    let state = next_state(policy, observation, memory, &timers, now);
    if memory.state == TrafficState::Shifted && state == TrafficState::Normal {
        timers.start_cool_down(now, seconds(policy.shift.cool_down_seconds));
    }
    Memory {
        state,
        since: if state == memory.state {
            memory.since
        } else {
            now
        },
        weights: policy.weights(state, memory.weights),
        timers,
    }
}

fn next_state(
    policy: &Policy,
    observation: &Observation,
    memory: &Memory,
    timers: &Timers,
    now: Timestamp,
) -> TrafficState {
    let primary_ready = observation.primary.ready_pods > 0;
    let fallback_ready = policy.has_fallback && observation.fallback.ready_pods > 0;
    match (primary_ready, fallback_ready) {
        (false, false) => TrafficState::BothDown,
        (false, true) => TrafficState::PrimaryDown,
        (true, false) if policy.has_fallback => TrafficState::FallbackDown,
        (true, false) => TrafficState::Normal,
        (true, true) if memory.state == TrafficState::Shifted => {
            let held =
                now.duration_since(memory.since) >= seconds(policy.shift.minimum_hold_seconds);
            let relieved = timers.relieved_for(now) >= seconds(policy.shift.return_after_seconds);
            if held && relieved {
                TrafficState::Normal
            } else {
                TrafficState::Shifted
            }
        }
        (true, true) => {
            let saturated = timers.saturated_for(now) >= seconds(policy.shift.window_seconds);
            if saturated && !timers.is_cooling_down(now) {
                TrafficState::Shifted
            } else {
                TrafficState::Normal
            }
        }
    }
}

fn seconds(value: i32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(value))
}
