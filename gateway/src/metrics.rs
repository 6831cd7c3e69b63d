//! The gateway's figures, `zimage_gateway_*`.

use crate::health::Failure;
use crate::knowledge::Source;
use crate::topology::Topology;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use zimage_crds::{PerTier, Tier};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    tier: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTier {
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassedOn {
    tier: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSource {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfField {
    field: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithReason {
    reason: &'static str,
}

/// All figures. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    /// Connections, bodies, and what is refused before a request is one.
    pub edge: zimage_edge::Metrics,
    requests: Family<Outcome, Counter>,
    duration: Family<OfTier, Histogram, fn() -> Histogram>,
    passed_on: Family<PassedOn, Counter>,
    pub(crate) in_flight: Gauge,
    weight: Family<OfTier, Gauge>,
    ready_endpoints: Family<OfTier, Gauge>,
    pods_ejected: Family<OfTier, Gauge>,
    ejections: Family<WithReason, Counter>,
    retries: Counter,
    retries_refused: Counter,
    poison: Counter,
    answers_cut: Family<OfTier, Counter>,
    knowledge_age: Family<OfSource, Gauge<f64, AtomicU64>>,
    knowledge_refused: Family<OfSource, Gauge>,
    unreadable: Family<OfField, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations = || Histogram::new(exponential_buckets(0.01, 2.0, 17));
        Self {
            edge: zimage_edge::Metrics::default(),
            requests: Family::default(),
            duration: Family::new_with_constructor(durations),
            passed_on: Family::default(),
            in_flight: Gauge::default(),
            weight: Family::default(),
            ready_endpoints: Family::default(),
            pods_ejected: Family::default(),
            ejections: Family::default(),
            retries: Counter::default(),
            retries_refused: Counter::default(),
            poison: Counter::default(),
            answers_cut: Family::default(),
            knowledge_age: Family::default(),
            knowledge_refused: Family::default(),
            unreadable: Family::default(),
        }
    }
}

impl Metrics {
    /// Shows every figure in a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.show_zeros();
        let registry = registry.sub_registry_with_prefix("zimage_gateway");
        self.edge.register(registry);
        registry.register(
            "requests",
            "Requests by the tier that answered and by status; tier none: the gateway itself",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from the request's head to the answer's end",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register(
            "passed_on",
            "Attempts that a pod did not take, by the reason",
            self.passed_on.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests that are not answered yet",
            self.in_flight.clone(),
        );
        registry.register("tier_weight", "Weight in force", self.weight.clone());
        registry.register(
            "ready_endpoints",
            "Pods that take requests",
            self.ready_endpoints.clone(),
        );
        registry.register(
            "pods_ejected",
            "Ready pods that are out of rotation, at most half of a tier",
            self.pods_ejected.clone(),
        );
        registry.register(
            "ejections",
            "Times that a pod left the rotation, by the reason",
            self.ejections.clone(),
        );
        registry.register(
            "retries",
            "Requests that were sent again after a pod failed with them",
            self.retries.clone(),
        );
        registry.register(
            "retries_refused",
            "Requests that were not, because the retry budget was used up",
            self.retries_refused.clone(),
        );
        registry.register(
            "poison",
            "Requests that cost as many pods as one may, or were refused because they did before",
            self.poison.clone(),
        );
        registry.register(
            "answers_cut",
            "Answers that broke off at the pod",
            self.answers_cut.clone(),
        );
        registry.register_with_unit(
            "knowledge_age",
            "Time since the API server last let the gateway see what it follows",
            Unit::Seconds,
            self.knowledge_age.clone(),
        );
        registry.register(
            "knowledge_refused",
            "1 while the API server has refused the gateway (401, 403) for a minute and more",
            self.knowledge_refused.clone(),
        );
        registry.register(
            "unreadable_fields",
            "Times that a field of the ZImageDeployment could not be read",
            self.unreadable.clone(),
        );
    }

    /// A counter is shown before it counts, so that its first increase is seen.
    fn show_zeros(&self) {
        for failure in [
            Failure::Connect,
            Failure::Reset,
            Failure::Silent,
            Failure::Unavailable,
            Failure::Device,
        ] {
            let reason = failure.as_str();
            drop(self.ejections.get_or_create(&WithReason { reason }));
        }
        for tier in Tier::ALL {
            let tier = tier.as_str();
            drop(self.answers_cut.get_or_create(&OfTier { tier }));
        }
        for field in ["spec.traffic.weights", "status.traffic.weights"] {
            drop(self.unreadable.get_or_create(&OfField { field }));
        }
    }

    pub(crate) fn answered(&self, tier: Option<Tier>, code: u16, took: Duration) {
        let tier = tier.map_or("none", Tier::as_str);
        self.requests.get_or_create(&Outcome { tier, code }).inc();
        self.duration
            .get_or_create(&OfTier { tier })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn passed_on(&self, tier: Tier, reason: &'static str) {
        self.passed_on
            .get_or_create(&PassedOn {
                tier: tier.as_str(),
                reason,
            })
            .inc();
    }

    pub(crate) fn ejected(&self, failure: Failure) {
        let reason = failure.as_str();
        self.ejections.get_or_create(&WithReason { reason }).inc();
    }

    pub(crate) fn out_of_rotation(&self, tier: Tier, pods: usize) {
        let tier = tier.as_str();
        let pods = i64::try_from(pods).unwrap_or(i64::MAX);
        self.pods_ejected.get_or_create(&OfTier { tier }).set(pods);
    }

    pub(crate) fn retried(&self, was_allowed: bool) {
        if was_allowed {
            self.retries.inc();
        } else {
            self.retries_refused.inc();
        }
    }

    pub(crate) fn poison(&self) {
        self.poison.inc();
    }

    pub(crate) fn cut(&self, tier: Tier) {
        let tier = tier.as_str();
        self.answers_cut.get_or_create(&OfTier { tier }).inc();
    }

    pub(crate) fn knows(&self, source: Source, age: Duration, refused: bool) {
        let labels = OfSource {
            source: source.as_str(),
        };
        self.knowledge_age
            .get_or_create(&labels)
            .set(age.as_secs_f64());
        self.knowledge_refused
            .get_or_create(&labels)
            .set(i64::from(refused));
    }

    pub(crate) fn unreadable(&self, field: &'static str) {
        self.unreadable.get_or_create(&OfField { field }).inc();
    }

    pub(crate) fn learned(&self, topology: &Topology) {
        for (tier, weight) in PerTier::from(topology.weights).iter() {
            let labels = OfTier {
                tier: tier.as_str(),
            };
            self.weight.get_or_create(&labels).set(i64::from(*weight));
            let pods = i64::try_from(topology.pods(tier).len()).unwrap_or(i64::MAX);
            self.ready_endpoints.get_or_create(&labels).set(pods);
        }
    }
}
