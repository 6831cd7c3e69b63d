//! Which pod gets the next attempt of a request. Pure.

use crate::topology::Topology;
use std::collections::HashSet;
use std::net::SocketAddr;
use zimage_crds::Tier;

/// A pod and its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The pod's tier.
    pub tier: Tier,
    /// The pod.
    pub pod: SocketAddr,
}

/// What is known about a request's attempts.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Tiers that may answer, the one to ask first in front.
    tiers: Vec<Tier>,
    tried: HashSet<SocketAddr>,
}

impl Journey {
    /// A request that `tiers` may answer and that asks `first` before the others, if it is one of them.
    pub fn new(mut tiers: Vec<Tier>, first: Tier) -> Self {
        tiers.sort_by_key(|tier| *tier != first);
        Self {
            tiers,
            tried: HashSet::new(),
        }
    }

    /// The pod did not take the request.
    pub fn passed_on_by(&mut self, pod: SocketAddr) {
        self.tried.insert(pod);
    }

    /// The next pod: of the first tier that has an untried one, the pod with the fewest requests. Between equals a tier's
    /// `turn` decides, so that idle pods take turns.
    pub fn next(
        &self,
        topology: &Topology,
        in_flight: impl Fn(SocketAddr) -> usize,
        turn: impl Fn(Tier) -> usize,
    ) -> Option<Candidate> {
        self.tiers.iter().find_map(|&tier| {
            let pods = topology
                .pods(tier)
                .iter()
                .copied()
                .filter(|pod| !self.tried.contains(pod));
            let loads: Vec<_> = pods.map(|pod| (in_flight(pod), pod)).collect();
            let least = loads.iter().map(|(load, _)| *load).min()?;
            let idle: Vec<_> = loads.iter().filter(|(load, _)| *load == least).collect();
            let (_, pod) = idle.get(turn(tier) % idle.len())?;
            Some(Candidate { tier, pod: *pod })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zimage_crds::{Variant, Weights};

    fn pod(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 8000))
    }

    fn topology(primary: &[u8], fallback: &[u8]) -> Topology {
        Topology {
            name: "fox".to_owned(),
            weights: Weights {
                primary: 90,
                fallback: 10,
            },
            primary: Variant::Turbo,
            fallback: Some(Variant::Base),
            primary_pods: primary.iter().copied().map(pod).collect(),
            fallback_pods: fallback.iter().copied().map(pod).collect(),
        }
    }

    fn hosts(
        journey: &mut Journey,
        topology: &Topology,
        load: impl Fn(SocketAddr) -> usize,
    ) -> Vec<SocketAddr> {
        std::iter::from_fn(|| {
            let next = journey.next(topology, &load, |_| 0)?;
            journey.passed_on_by(next.pod);
            Some(next.pod)
        })
        .collect()
    }

    #[test]
    fn every_pod_of_the_first_tier_is_asked_before_the_other_tier() {
        let mut journey = Journey::new(Tier::ALL.to_vec(), Tier::Fallback);
        let asked = hosts(&mut journey, &topology(&[1, 2], &[3, 4]), |_| 0);
        assert_eq!(asked, [pod(3), pod(4), pod(1), pod(2)]);
    }

    #[test]
    fn the_pod_with_the_fewest_requests_is_first() {
        let mut journey = Journey::new(Tier::ALL.to_vec(), Tier::Primary);
        let load = |address| usize::from(address == pod(1)) * 2 + usize::from(address == pod(2));
        assert_eq!(
            hosts(&mut journey, &topology(&[1, 2, 3], &[]), load),
            [pod(3), pod(2), pod(1)]
        );
    }

    #[test]
    fn equals_take_turns() {
        let journey = Journey::new(Tier::ALL.to_vec(), Tier::Primary);
        let topology = topology(&[1, 2], &[]);
        let turns: Vec<_> = (0..4)
            .filter_map(|turn| journey.next(&topology, |_| 0, |_| turn))
            .map(|it| it.pod)
            .collect();
        assert_eq!(turns, [pod(1), pod(2), pod(1), pod(2)]);
    }

    #[test]
    fn a_pinned_request_never_leaves_its_tier() {
        let mut journey = Journey::new(vec![Tier::Fallback], Tier::Primary);
        assert_eq!(hosts(&mut journey, &topology(&[1], &[2]), |_| 0), [pod(2)]);
    }

    #[test]
    fn a_pod_that_came_meanwhile_is_asked() {
        let mut journey = Journey::new(Tier::ALL.to_vec(), Tier::Primary);
        journey.passed_on_by(pod(1));
        assert_eq!(journey.next(&topology(&[1], &[]), |_| 0, |_| 0), None);
        assert!(
            journey
                .next(&topology(&[1, 5], &[]), |_| 0, |_| 0)
                .is_some()
        );
    }
}
