//! What is to be, out of what the spec asks for, what is seen and what was decided before. Pure.
//!
//! ```text
//! spec, observation, time ──▶ decide ──▶ Decision   traffic: the weights, and why
//!                               ▲   │               scale:   pods of each tier
//!                               └───┘
//! spec, status, what runs ──▶ rollout::choose ──▶ Images   what each component's pods run
//! ```
//!
//! Each second and each reconciliation decide by the same function. A decision needs nothing that applying gives: it is taken
//! before anything is built.

pub mod rollout;
pub mod scale;
pub mod traffic;

use crate::clock::Moment;
use traffic::{Observation, Policy};
use zimage_crds::{PerTier, TrafficStatus, ZImageDeploymentSpec};

/// What is decided upon.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What is asked for.
    pub spec: &'a ZImageDeploymentSpec,
    /// The tiers as they are seen.
    pub observation: Observation,
    /// When it is decided.
    pub now: Moment,
}

/// What is decided, and what the next decision needs to know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The weights in force.
    pub traffic: traffic::State,
    /// Pods of each tier; 0 of a tier that the spec does not have.
    pub replicas: PerTier<i32>,
}

impl Decision {
    /// What the first decision of a process goes on from: the status that an earlier one left, if there is one.
    pub fn begin(spec: &ZImageDeploymentSpec, status: Option<&TrafficStatus>, now: Moment) -> Self {
        Self {
            traffic: match status {
                Some(status) => traffic::State::from_status(status, now),
                None => traffic::State::new(&Policy::from(spec), now),
            },
            replicas: scale::replicas(spec),
        }
    }

    /// Whether both lead to the same objects and the same status.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.traffic.agrees_with(&other.traffic) && self.replicas == other.replicas
    }
}

/// The next decision.
pub fn decide(inputs: &Inputs<'_>, before: &Decision) -> Decision {
    let Inputs {
        spec,
        observation,
        now,
    } = inputs;
    let policy = Policy::from(*spec);
    Decision {
        traffic: traffic::decide(&policy, observation, &before.traffic, *now),
        replicas: scale::replicas(spec),
    }
}
