//! Which pods a request asks, in which order, and when it stops. Pure.

use crate::health::Standing;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use zimage_crds::Tier;

/// Pods that a request may reach.
pub const MOST_PODS: usize = 3;
/// Pods that may get its body.
pub const MOST_BODIES: usize = 2;

/// A pod as it may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contestant {
    /// The pod's tier.
    pub tier: Tier,
    /// The pod.
    pub pod: SocketAddr,
    /// Whether it is in rotation.
    pub standing: Standing,
    /// For how long it has no room, as it said.
    pub full_for: Option<Duration>,
    /// Requests that it works on, as this gateway counts them.
    pub load: usize,
}

/// A pod and its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The pod's tier.
    pub tier: Tier,
    /// The pod.
    pub pod: SocketAddr,
}

/// How far a request got.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Tiers that may answer, the one to ask first in front.
    tiers: Vec<Tier>,
    reached: HashSet<SocketAddr>,
    bodies: usize,
    most_bodies: usize,
    lost: usize,
    full_for: Option<Duration>,
}

impl Journey {
    /// A request that `tiers` may answer and that asks `first` before the others, if it is one of them. `most_bodies`
    /// pods may get its body.
    pub fn new(mut tiers: Vec<Tier>, first: Tier, most_bodies: usize) -> Self {
        tiers.sort_by_key(|tier| *tier != first);
        Self {
            tiers,
            reached: HashSet::new(),
            bodies: 0,
            most_bodies: most_bodies.min(MOST_BODIES),
            lost: 0,
            full_for: None,
        }
    }

    /// A pod was sent the request and did not take it, with or without its body.
    pub fn declined(&mut self, pod: SocketAddr, body_sent: bool) {
        self.reached.insert(pod);
        self.bodies += usize::from(body_sent);
    }

    /// A pod was lost with the request in its hands.
    pub const fn lost(&mut self) {
        self.lost += 1;
    }

    /// A pod said that it has no room for `time`.
    pub fn is_full(&mut self, time: Duration) {
        self.full_for = Some(self.full_for.map_or(time, |known| known.min(time)));
    }

    /// Pods that were lost with it.
    pub const fn losses(&self) -> usize {
        self.lost
    }

    /// Whether another pod may be asked.
    pub fn goes_on(&self) -> bool {
        self.reached.len() < MOST_PODS && self.bodies < self.most_bodies
    }

    /// Whether it was sent to a pod: then the next one is asked on the head alone, and gets the body once it takes it.
    pub fn was_declined(&self) -> bool {
        !self.reached.is_empty()
    }

    /// How soon a pod may have room, when one said that it has none.
    pub const fn full_for(&self) -> Option<Duration> {
        self.full_for
    }

    /// The pods to ask next, the best first. In rotation: the first tier's, then the other's, each by their load; between
    /// equals a tier's `turn` decides, so that idle pods take turns. Then those that did not take their last connection.
    /// Then, when no pod is merely full, those that are out of rotation, but never more than half of a tier leaves it:
    /// as many of these are left out altogether, whichever they are. A probe brings back any that is well.
    pub fn next(
        &mut self,
        contestants: &[Contestant],
        turn: impl Fn(Tier) -> usize,
    ) -> Vec<Candidate> {
        let mut order = Vec::with_capacity(contestants.len());
        let mut last_resort = Vec::new();
        let of_tier = |tier: Tier| contestants.iter().filter(move |pod| pod.tier == tier);
        for standing in [Standing::In, Standing::Suspect, Standing::Out] {
            for &tier in &self.tiers {
                let mut pods: Vec<_> = of_tier(tier)
                    .filter(|pod| pod.standing == standing)
                    .collect();
                if standing == Standing::Out {
                    pods.truncate(pods.len().saturating_sub(of_tier(tier).count() / 2));
                }
                let mut open = Vec::with_capacity(pods.len());
                for pod in pods {
                    if self.reached.contains(&pod.pod) {
                        continue;
                    }
                    match pod.full_for {
                        Some(time) => {
                            self.full_for =
                                Some(self.full_for.map_or(time, |known| known.min(time)));
                        }
                        None => open.push(pod),
                    }
                }
                in_turn(&mut open, turn(tier));
                let open = open.into_iter().map(|pod| Candidate { tier, pod: pod.pod });
                if standing == Standing::Out {
                    last_resort.extend(open);
                } else {
                    order.extend(open);
                }
            }
        }
        if self.full_for.is_none() {
            order.append(&mut last_resort);
        }
        order
    }
}

/// Sorts by load; those of the same load are turned.
fn in_turn(pods: &mut [&Contestant], turn: usize) {
    pods.sort_by_key(|pod| pod.load);
    for equals in pods.chunk_by_mut(|a, b| a.load == b.load) {
        equals.rotate_left(turn % equals.len());
    }
}

/// How many pods of a tier are out of rotation.
pub fn out_of_rotation(pods: usize, out: usize) -> usize {
    out.min(pods / 2)
}

#[cfg(test)]
mod tests;
