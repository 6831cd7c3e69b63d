//! What the observer tells in `/metrics`: how its reading goes, and each deployment's figures at the moment they are asked for.

use super::{Observer, Snapshot};
use crate::clock::Moment;
use crate::component::DeploymentRef;
use crate::decide::traffic::Load;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use zimage_crds::{PerTier, Tier};

/// How the reading of pods' metrics goes. Clones share their counters.
#[derive(Clone, Debug)]
pub struct ScrapeMetrics {
    failures: Family<OutcomeLabels, Counter>,
    bytes: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl Default for ScrapeMetrics {
    fn default() -> Self {
        let failures = Family::<OutcomeLabels, Counter>::default();
        for outcome in super::scrape::OUTCOMES {
            // A counter that is there from the start can be alarmed on.
            drop(failures.get_or_create(&OutcomeLabels { outcome }));
        }
        Self {
            failures,
            bytes: Counter::default(),
        }
    }
}

impl ScrapeMetrics {
    /// Shows the counters in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "scrape_failures",
            "Pods' metrics that could not be read, by cause",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "scraped",
            "Bytes that were read of pods' metrics",
            Unit::Bytes,
            self.bytes.clone(),
        );
    }

    pub(super) fn read(&self, bytes: usize) {
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn failed(&self, outcome: &'static str) {
        self.of(outcome).inc();
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    #[cfg(test)]
    pub(super) fn failures(&self, outcome: &'static str) -> u64 {
        self.of(outcome).get()
    }

    fn of(&self, outcome: &'static str) -> impl std::ops::Deref<Target = Counter> + '_ {
        self.failures.get_or_create(&OutcomeLabels { outcome })
    }
}

/// The decisions of these observers and what they rest on. Nothing is stored: whatever is shown is looked up at that moment,
/// and goes with its deployment.
pub struct DecisionGauges(pub Vec<Arc<Observer>>);

impl fmt::Debug for DecisionGauges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DecisionGauges")
            .finish_non_exhaustive()
    }
}

#[derive(EncodeLabelSet)]
struct TierLabels {
    namespace: String,
    name: String,
    tier: &'static str,
}

#[derive(EncodeLabelSet)]
struct DeploymentLabels {
    namespace: String,
    name: String,
}

impl Collector for DecisionGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = Moment::now();
        let snapshots: Vec<_> = self.0.iter().flat_map(|it| it.in_force(now)).collect();
        Gauge::new("tier_weight", "Weight in force").encode(
            &mut encoder,
            of_tiers(&snapshots, |snapshot, tier| {
                let weights = PerTier::from(snapshot.decision.traffic.weights());
                Some(i64::from(weights[tier]))
            }),
        )?;
        Gauge::new("tier_ready_pods", "Pods that are ready").encode(
            &mut encoder,
            of_tiers(&snapshots, |snapshot, tier| {
                Some(i64::from(snapshot.observation[tier].ready_pods))
            }),
        )?;
        Gauge::new(
            "tier_gpu_utilization_ratio",
            "Mean GPU utilisation of the ready pods; absent without fresh figures",
        )
        .encode(
            &mut encoder,
            of_tiers(&snapshots, |snapshot, tier| {
                match snapshot.observation[tier].load {
                    Load::Fresh { utilization, .. } => Some(utilization),
                    Load::Stale | Load::NoGpu => None,
                }
            }),
        )?;
        Gauge::new(
            "tier_requests_waiting",
            "Requests that wait in the ready pods; absent without fresh figures",
        )
        .encode(
            &mut encoder,
            of_tiers(&snapshots, |snapshot, tier| {
                match snapshot.observation[tier].load {
                    Load::Fresh { waiting, .. } => Some(i64::try_from(waiting).unwrap_or(i64::MAX)),
                    Load::Stale | Load::NoGpu => None,
                }
            }),
        )?;
        Gauge::seconds(
            "tier_figures_age",
            "Age of the oldest figures among the ready pods; above 5 seconds they move nothing",
        )
        .encode(
            &mut encoder,
            of_tiers(&snapshots, |snapshot, tier| {
                let seen = snapshot.observation[tier];
                (seen.ready_pods > 0).then_some(seen.figures_age.as_secs_f64())
            }),
        )?;
        let knowledge = snapshots.iter().filter_map(|(deployment, snapshot)| {
            let labels = DeploymentLabels {
                namespace: deployment.namespace.clone().unwrap_or_default(),
                name: deployment.name.clone(),
            };
            Some((labels, snapshot.knowledge.age?))
        });
        Gauge::seconds(
            "gateway_knowledge_age",
            "Age of the oldest of what the ready gateway pods route by; above 120 seconds TrafficReady is False",
        )
        .encode(&mut encoder, knowledge)
    }
}

/// A value of each tier that has one.
fn of_tiers<T>(
    snapshots: &[(DeploymentRef, Snapshot)],
    value: impl Fn(&Snapshot, Tier) -> Option<T>,
) -> impl Iterator<Item = (TierLabels, T)> {
    let each = snapshots
        .iter()
        .flat_map(|decided| Tier::ALL.map(|tier| (decided, tier)));
    each.filter_map(move |((deployment, snapshot), tier)| {
        let labels = TierLabels {
            namespace: deployment.namespace.clone().unwrap_or_default(),
            name: deployment.name.clone(),
            tier: tier.as_str(),
        };
        Some((labels, value(snapshot, tier)?))
    })
}

/// A gauge as it is described.
struct Gauge {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
}

impl Gauge {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            unit: None,
        }
    }

    const fn seconds(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            unit: Some(Unit::Seconds),
        }
    }

    /// A gauge without any sample is not there.
    fn encode<L: EncodeLabelSet, T: EncodeGaugeValue>(
        self,
        encoder: &mut DescriptorEncoder<'_>,
        samples: impl Iterator<Item = (L, T)>,
    ) -> fmt::Result {
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut gauge = encoder.encode_descriptor(
            self.name,
            self.help,
            self.unit.as_ref(),
            MetricType::Gauge,
        )?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(gauge.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
