//! The gateway's figures, `zimage_gateway_*`.

use crate::topology::Topology;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;
use zimage_crds::Tier;

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

/// All figures. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Outcome, Counter>,
    duration: Family<OfTier, Histogram, fn() -> Histogram>,
    passed_on: Family<PassedOn, Counter>,
    pub(crate) in_flight: Gauge,
    weight: Family<OfTier, Gauge>,
    ready_endpoints: Family<OfTier, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations = || Histogram::new(exponential_buckets(0.01, 2.0, 17));
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(durations),
            passed_on: Family::default(),
            in_flight: Gauge::default(),
            weight: Family::default(),
            ready_endpoints: Family::default(),
        }
    }
}

impl Metrics {
    /// Shows every figure in a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("zimage_gateway");
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

    pub(crate) fn learned(&self, topology: &Topology) {
        for (tier, weight) in [
            (Tier::Primary, topology.weights.primary),
            (Tier::Fallback, topology.weights.fallback),
        ] {
            let labels = OfTier {
                tier: tier.as_str(),
            };
            self.weight.get_or_create(&labels).set(i64::from(weight));
            let pods = i64::try_from(topology.pods(tier).len()).unwrap_or(i64::MAX);
            self.ready_endpoints.get_or_create(&labels).set(pods);
        }
    }
}
