//! The samples of one tier's ready pods, and what they say together.

use super::exposition::Figures;
use crate::traffic::{Load, TierObservation};
use jiff::{SignedDuration, Timestamp};
use std::net::SocketAddr;

/// Age above which a sample says nothing any more.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(5);

/// A ready pod and the address of its metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// The pod's name.
    pub name: String,
    /// Where `/metrics` is served.
    pub address: SocketAddr,
}

/// The ready pods of one tier.
pub type TierTargets = Vec<PodTarget>;

/// The samples of one tier.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<PodSample>);

#[derive(Debug)]
struct PodSample {
    pod: PodTarget,
    ready_since: Timestamp,
    last: Option<(Timestamp, Figures)>,
}

impl Samples {
    /// Follows these pods from now on; samples of pods that stay are kept.
    pub(super) fn follow(&mut self, pods: TierTargets, now: Timestamp) {
        self.0.retain(|sample| pods.contains(&sample.pod));
        for pod in pods {
            if !self.0.iter().any(|sample| sample.pod == pod) {
                self.0.push(PodSample {
                    pod,
                    ready_since: now,
                    last: None,
                });
            }
        }
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &PodTarget> {
        self.0.iter().map(|sample| &sample.pod)
    }

    pub(super) fn record(&mut self, pod: &PodTarget, figures: Figures, now: Timestamp) {
        if let Some(sample) = self.0.iter_mut().find(|sample| sample.pod == *pod) {
            sample.last = Some((now, figures));
        }
    }

    /// What the tier's pods say together, now.
    pub(super) fn observe(&self, now: Timestamp) -> TierObservation {
        let ready_pods = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        TierObservation {
            ready_pods,
            load: self.load(now),
        }
    }

    fn load(&self, now: Timestamp) -> Load {
        let mut figures = Vec::with_capacity(self.0.len());
        for sample in &self.0 {
            match sample.last {
                Some((at, value)) if now.duration_since(at) <= MAX_AGE => figures.push(value),
                // A pod that has just become ready had no time to answer: it neither counts nor makes the tier stale.
                None if now.duration_since(sample.ready_since) <= MAX_AGE => {}
                _ => return Load::Stale,
            }
        }
        if figures.is_empty() {
            return Load::Stale;
        }
        let utilizations: Vec<f64> = figures
            .iter()
            .filter_map(|value| value.utilization)
            .collect();
        if utilizations.is_empty() {
            return Load::NoGpu;
        }
        Load::Fresh {
            utilization: utilizations.iter().sum::<f64>() / utilizations.len() as f64,
            waiting: figures
                .iter()
                .fold(0, |sum, value| sum.saturating_add(value.waiting)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(seconds: i64) -> Timestamp {
        START + SignedDuration::from_secs(seconds)
    }

    fn pod(name: &str, host: u8) -> PodTarget {
        PodTarget {
            name: name.to_owned(),
            address: SocketAddr::from(([10, 0, 0, host], 9090)),
        }
    }

    fn figures(utilization: f64, waiting: u64) -> Figures {
        Figures {
            utilization: Some(utilization),
            waiting,
        }
    }

    #[test]
    fn the_figure_of_a_tier_is_the_mean_over_its_ready_pods() {
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1), pod("b", 2)], START);
        samples.record(&pod("a", 1), figures(1.0, 3), START);
        samples.record(&pod("b", 2), figures(0.5, 1), START);
        let load = Load::Fresh {
            utilization: 0.75,
            waiting: 4,
        };
        assert_eq!(
            samples.observe(START),
            TierObservation {
                ready_pods: 2,
                load
            }
        );
    }

    #[test]
    fn one_sample_older_than_five_seconds_makes_the_tier_stale() {
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1), pod("b", 2)], START);
        samples.record(&pod("a", 1), figures(1.0, 0), START);
        samples.record(&pod("b", 2), figures(1.0, 0), after(5));
        assert_ne!(samples.observe(after(5)).load, Load::Stale);
        assert_eq!(samples.observe(after(6)).load, Load::Stale);
    }

    #[test]
    fn a_new_pod_does_not_make_the_tier_stale_until_it_had_time_to_answer() {
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1)], START);
        samples.record(&pod("a", 1), figures(1.0, 0), after(9));
        samples.follow(vec![pod("a", 1), pod("b", 2)], after(9));
        assert_eq!(
            samples.observe(after(10)).load,
            Load::Fresh {
                utilization: 1.0,
                waiting: 0
            }
        );
        samples.record(&pod("a", 1), figures(1.0, 0), after(15));
        assert_eq!(samples.observe(after(15)).load, Load::Stale);
    }

    #[test]
    fn a_restarted_pod_at_another_address_is_another_pod() {
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1)], START);
        samples.record(&pod("a", 1), figures(1.0, 0), START);
        samples.follow(vec![pod("a", 2)], START);
        assert_eq!(
            samples.observe(START),
            TierObservation {
                ready_pods: 1,
                load: Load::Stale
            }
        );
    }

    #[test]
    fn pods_without_gpu_have_no_figure() {
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1)], START);
        samples.record(
            &pod("a", 1),
            Figures {
                utilization: None,
                waiting: 2,
            },
            START,
        );
        assert_eq!(samples.observe(START).load, Load::NoGpu);
    }
}
