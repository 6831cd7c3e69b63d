//! The samples of one tier's ready pods, and what they say together.

use super::exposition::Figures;
use crate::decide::traffic::{Load, TierObservation};
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Age above which a sample says nothing any more.
pub(super) const MAX_AGE: Duration = Duration::from_secs(5);

/// What a gateway routes by is outdated when the API server told it nothing for this time: four of its watches.
const OUTDATED: Duration = Duration::from_secs(120);

/// A ready pod and the address of its metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// The pod's name.
    pub name: String,
    /// Where `/metrics` is served.
    pub address: SocketAddr,
}

/// The ready pods of one component.
pub type Targets = Vec<PodTarget>;

/// What the ready gateway pods know. Pods without fresh figures say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knowledge {
    /// Age of the oldest, in seconds.
    pub age: Option<f64>,
    /// Names of the pods that route by what is outdated.
    pub outdated: Vec<String>,
}

/// The samples of one component's ready pods.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<PodSample>);

#[derive(Debug)]
struct PodSample {
    pod: PodTarget,
    ready_since: Instant,
    last: Option<(Instant, Figures)>,
    is_failing: bool,
}

impl PodSample {
    fn age(&self, now: Instant) -> Duration {
        let last = self.last.map_or(self.ready_since, |(at, _)| at);
        now.saturating_duration_since(last)
    }
}

impl Samples {
    /// Follows these pods from now on; samples of pods that stay are kept.
    pub(super) fn follow(&mut self, pods: Targets, now: Instant) {
        self.0.retain(|sample| pods.contains(&sample.pod));
        for pod in pods {
            if !self.0.iter().any(|sample| sample.pod == pod) {
                self.0.push(PodSample {
                    pod,
                    ready_since: now,
                    last: None,
                    is_failing: false,
                });
            }
        }
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &PodTarget> {
        self.0.iter().map(|sample| &sample.pod)
    }

    pub(super) fn record(&mut self, pod: &PodTarget, figures: Figures, now: Instant) {
        if let Some(sample) = self.0.iter_mut().find(|sample| sample.pod == *pod) {
            sample.last = Some((now, figures));
            sample.is_failing = false;
        }
    }

    /// Takes note that a pod's figures could not be read. Whether that is news.
    pub(super) fn fail(&mut self, pod: &PodTarget) -> bool {
        let sample = self.0.iter_mut().find(|sample| sample.pod == *pod);
        sample.is_some_and(|sample| !mem::replace(&mut sample.is_failing, true))
    }

    /// What the tier's pods say together, now.
    pub(super) fn observe(&self, now: Instant) -> TierObservation {
        let ready_pods = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        TierObservation {
            ready_pods,
            load: self.load(now),
            figures_age: self
                .0
                .iter()
                .map(|sample| sample.age(now))
                .max()
                .unwrap_or_default(),
        }
    }

    /// What the pods know, when they are a gateway's.
    pub(super) fn knowledge(&self, now: Instant) -> Knowledge {
        let mut knowledge = Knowledge::default();
        for sample in self.0.iter().filter(|sample| sample.age(now) <= MAX_AGE) {
            let age = sample.last.and_then(|(_, figures)| figures.knowledge_age);
            let Some(age) = age else { continue };
            knowledge.age = Some(knowledge.age.unwrap_or_default().max(age));
            if age > OUTDATED.as_secs_f64() {
                knowledge.outdated.push(sample.pod.name.clone());
            }
        }
        knowledge.outdated.sort();
        knowledge
    }

    fn load(&self, now: Instant) -> Load {
        let mut figures = Vec::with_capacity(self.0.len());
        for sample in &self.0 {
            match sample.last {
                _ if sample.age(now) > MAX_AGE => return Load::Stale,
                Some((_, value)) => figures.push(value),
                // A pod that has just become ready had no time to answer: it neither counts nor makes the tier stale.
                None => {}
            }
        }
        if figures.is_empty() {
            return Load::Stale;
        }
        // Taken for a tier without GPUs it would be relieved, and get its traffic back.
        if figures.iter().any(|figures| figures.has_lost_gpu) {
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

    /// Seconds after a moment that is the same in one test.
    struct Clock(Instant);

    impl Clock {
        fn start() -> Self {
            Self(Instant::now())
        }

        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
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
            ..Figures::default()
        }
    }

    #[test]
    fn the_figure_of_a_tier_is_the_mean_over_its_ready_pods() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1), pod("b", 2)], clock.at(0));
        samples.record(&pod("a", 1), figures(1.0, 3), clock.at(0));
        samples.record(&pod("b", 2), figures(0.5, 1), clock.at(0));
        let load = Load::Fresh {
            utilization: 0.75,
            waiting: 4,
        };
        assert_eq!(
            samples.observe(clock.at(2)),
            TierObservation {
                ready_pods: 2,
                load,
                figures_age: Duration::from_secs(2),
            }
        );
    }

    #[test]
    fn one_sample_older_than_five_seconds_makes_the_tier_stale() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1), pod("b", 2)], clock.at(0));
        samples.record(&pod("a", 1), figures(1.0, 0), clock.at(0));
        samples.record(&pod("b", 2), figures(1.0, 0), clock.at(5));
        assert_ne!(samples.observe(clock.at(5)).load, Load::Stale);
        assert_eq!(samples.observe(clock.at(6)).load, Load::Stale);
    }

    #[test]
    fn a_new_pod_does_not_make_the_tier_stale_until_it_had_time_to_answer() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1)], clock.at(0));
        samples.record(&pod("a", 1), figures(1.0, 0), clock.at(9));
        samples.follow(vec![pod("a", 1), pod("b", 2)], clock.at(9));
        assert_eq!(
            samples.observe(clock.at(10)).load,
            Load::Fresh {
                utilization: 1.0,
                waiting: 0
            }
        );
        samples.record(&pod("a", 1), figures(1.0, 0), clock.at(15));
        assert_eq!(samples.observe(clock.at(15)).load, Load::Stale);
    }

    #[test]
    fn a_restarted_pod_at_another_address_is_another_pod() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1)], clock.at(0));
        samples.record(&pod("a", 1), figures(1.0, 0), clock.at(0));
        samples.follow(vec![pod("a", 2)], clock.at(0));
        assert_eq!(
            samples.observe(clock.at(0)),
            TierObservation {
                ready_pods: 1,
                load: Load::Stale,
                figures_age: Duration::ZERO,
            }
        );
    }

    #[test]
    fn pods_without_gpu_have_no_figure() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1)], clock.at(0));
        samples.record(
            &pod("a", 1),
            Figures {
                waiting: 2,
                ..Figures::default()
            },
            clock.at(0),
        );
        assert_eq!(samples.observe(clock.at(0)).load, Load::NoGpu);
    }

    #[test]
    fn a_pod_whose_gpu_shows_nothing_any_more_makes_the_figures_stale() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1), pod("b", 2)], clock.at(0));
        let lost = Figures {
            has_lost_gpu: true,
            ..Figures::default()
        };
        samples.record(&pod("a", 1), lost, clock.at(0));
        samples.record(&pod("b", 2), figures(0.1, 0), clock.at(0));
        assert_eq!(samples.observe(clock.at(0)).load, Load::Stale);
    }

    #[test]
    fn a_gateway_is_outdated_by_its_own_fresh_word_alone() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1), pod("b", 2), pod("c", 3)], clock.at(0));
        let knows = |age| Figures {
            knowledge_age: Some(age),
            ..Figures::default()
        };
        samples.record(&pod("a", 1), knows(121.0), clock.at(1));
        samples.record(&pod("b", 2), knows(30.0), clock.at(1));
        let told = Knowledge {
            age: Some(121.0),
            outdated: vec!["a".to_owned()],
        };
        assert_eq!(samples.knowledge(clock.at(2)), told);
        assert_eq!(samples.knowledge(clock.at(7)), Knowledge::default());
    }

    #[test]
    fn a_failure_is_news_once_until_the_pod_answers_again() {
        let clock = Clock::start();
        let mut samples = Samples::default();
        samples.follow(vec![pod("a", 1)], clock.at(0));
        assert!(samples.fail(&pod("a", 1)));
        assert!(!samples.fail(&pod("a", 1)));
        samples.record(&pod("a", 1), figures(1.0, 0), clock.at(0));
        assert!(samples.fail(&pod("a", 1)));
        assert!(!samples.fail(&pod("gone", 1)));
    }
}
