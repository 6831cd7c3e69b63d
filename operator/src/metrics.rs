//! The operator's own figures, `zimage_operator_*`.

use crate::observe::{Decision, OUTCOMES};
use crate::reconcile::Cause;
use crate::traffic::{Load, REASONS, TierObservation};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use zimage_crds::{Tier, ZImageDeployment, ZImageDeploymentStatus};

type Ratio = Gauge<f64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;

/// All figures and the registry that shows them.
pub struct Metrics {
    registry: Registry,
    reconcile_duration: Histogram,
    reconcile_failures: Family<CauseLabels, Counter>,
    leader: Gauge,
    tier_weight: Family<TierLabels, Gauge>,
    tier_ready_pods: Family<TierLabels, Gauge>,
    tier_utilization: Family<TierLabels, Ratio>,
    tier_waiting: Family<TierLabels, Gauge>,
    tier_figures_age: Family<TierLabels, Seconds>,
    gateway_knowledge_age: Family<DeploymentLabels, Seconds>,
    shifts: Family<ShiftLabels, Counter>,
    scrape_failures: Family<OutcomeLabels, Counter>,
    scraped_bytes: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabels {
    namespace: String,
    name: String,
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeploymentLabels {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShiftLabels {
    namespace: String,
    name: String,
    state: &'static str,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

impl Metrics {
    /// Every figure, registered.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("zimage_operator");
        let metrics = Self {
            reconcile_duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            reconcile_failures: Family::default(),
            leader: Gauge::default(),
            tier_weight: Family::default(),
            tier_ready_pods: Family::default(),
            tier_utilization: Family::default(),
            tier_waiting: Family::default(),
            tier_figures_age: Family::default(),
            gateway_knowledge_age: Family::default(),
            shifts: Family::default(),
            scrape_failures: Family::default(),
            scraped_bytes: Counter::default(),
            registry: Registry::default(),
        };
        registry.register_with_unit(
            "reconcile_duration",
            "Time that a reconciliation took",
            Unit::Seconds,
            metrics.reconcile_duration.clone(),
        );
        registry.register(
            "reconcile_failures",
            "Reconciliations that failed, by who can mend it: the spec, somebody outside it, or time",
            metrics.reconcile_failures.clone(),
        );
        registry.register(
            "leader",
            "1 while this process acts, 0 while it waits",
            metrics.leader.clone(),
        );
        registry.register(
            "tier_weight",
            "Weight in force",
            metrics.tier_weight.clone(),
        );
        registry.register(
            "tier_ready_pods",
            "Pods that are ready",
            metrics.tier_ready_pods.clone(),
        );
        registry.register(
            "tier_gpu_utilization_ratio",
            "Mean GPU utilisation of the ready pods; absent without fresh figures",
            metrics.tier_utilization.clone(),
        );
        registry.register(
            "tier_requests_waiting",
            "Requests that wait in the ready pods; absent without fresh figures",
            metrics.tier_waiting.clone(),
        );
        registry.register_with_unit(
            "tier_figures_age",
            "Age of the oldest figures among the ready pods; above 5 seconds they move nothing",
            Unit::Seconds,
            metrics.tier_figures_age.clone(),
        );
        registry.register_with_unit(
            "gateway_knowledge_age",
            "Age of the oldest of what the ready gateway pods route by; above 120 seconds TrafficReady is False",
            Unit::Seconds,
            metrics.gateway_knowledge_age.clone(),
        );
        registry.register(
            "scrape_failures",
            "Pods' metrics that could not be read, by cause",
            metrics.scrape_failures.clone(),
        );
        registry.register_with_unit(
            "scraped",
            "Bytes that were read of pods' metrics",
            Unit::Bytes,
            metrics.scraped_bytes.clone(),
        );
        registry.register(
            "shifts",
            "Changes of the traffic's state, by the new state",
            metrics.shifts.clone(),
        );
        for cause in Cause::ALL.map(Cause::as_str) {
            drop(
                metrics
                    .reconcile_failures
                    .get_or_create(&CauseLabels { cause }),
            );
        }
        for outcome in OUTCOMES {
            // A counter that is there from the start can be alarmed on.
            let labels = OutcomeLabels { outcome };
            metrics.scrape_failures.get_or_create(&labels).inc_by(0);
        }
        Self {
            registry,
            ..metrics
        }
    }

    /// Shows what `collector` tells too.
    #[must_use]
    pub fn with(mut self, collector: impl Collector) -> Self {
        self.registry.register_collector(Box::new(collector));
        self
    }

    /// The figures in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: the text is written into memory.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Says whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub(crate) fn reconciled(&self, took: Duration) {
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, cause: Cause) {
        let labels = CauseLabels {
            cause: cause.as_str(),
        };
        self.reconcile_failures.get_or_create(&labels).inc();
    }

    pub(crate) fn scraped(&self, bytes: usize) {
        self.scraped_bytes
            .inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(crate) fn scrape_failed(&self, outcome: &'static str) {
        let labels = OutcomeLabels { outcome };
        self.scrape_failures.get_or_create(&labels).inc();
    }

    #[cfg(test)]
    pub(crate) fn scraped_bytes(&self) -> u64 {
        self.scraped_bytes.get()
    }

    #[cfg(test)]
    pub(crate) fn scrape_failures(&self, outcome: &'static str) -> u64 {
        let labels = OutcomeLabels { outcome };
        self.scrape_failures.get_or_create(&labels).get()
    }

    /// Shows a decision and the figures that it rests on.
    pub(crate) fn decided(&self, deployment: &ObjectRef<ZImageDeployment>, decision: &Decision) {
        let weights = decision.memory.weights();
        let observation = &decision.observation;
        for (tier, weight, seen) in [
            (Tier::Primary, weights.primary, &observation.primary),
            (Tier::Fallback, weights.fallback, &observation.fallback),
        ] {
            let labels = labels(deployment, tier);
            self.tier_weight
                .get_or_create(&labels)
                .set(i64::from(weight));
            self.show(&labels, seen);
        }
        let gateway = deployment_labels(deployment);
        match decision.knowledge.age {
            Some(age) => drop(self.gateway_knowledge_age.get_or_create(&gateway).set(age)),
            None => drop(self.gateway_knowledge_age.remove(&gateway)),
        }
    }

    fn show(&self, labels: &TierLabels, seen: &TierObservation) {
        self.tier_ready_pods
            .get_or_create(labels)
            .set(i64::from(seen.ready_pods));
        if seen.ready_pods > 0 {
            self.tier_figures_age
                .get_or_create(labels)
                .set(seen.figures_age.as_secs_f64());
        } else {
            self.tier_figures_age.remove(labels);
        }
        match seen.load {
            Load::Fresh {
                utilization,
                waiting,
            } => {
                self.tier_utilization.get_or_create(labels).set(utilization);
                self.tier_waiting
                    .get_or_create(labels)
                    .set(i64::try_from(waiting).unwrap_or(i64::MAX));
            }
            Load::Stale | Load::NoGpu => {
                self.tier_utilization.remove(labels);
                self.tier_waiting.remove(labels);
            }
        }
    }

    pub(crate) fn shifted(
        &self,
        owner: &ZImageDeployment,
        before: &ZImageDeploymentStatus,
        after: &ZImageDeploymentStatus,
    ) {
        let state = |status: &ZImageDeploymentStatus| status.traffic.as_ref().map(|it| it.state);
        let Some(traffic) = &after.traffic else {
            return;
        };
        if state(before).is_some_and(|before| before != traffic.state) {
            let labels = ShiftLabels {
                namespace: owner.namespace().unwrap_or_default(),
                name: owner.name_any(),
                state: traffic.state.as_str(),
                reason: traffic.reason.clone(),
            };
            self.shifts.get_or_create(&labels).inc();
        }
    }

    /// Takes out the figures of a deployment that is gone.
    pub(crate) fn forget(&self, deployment: &ObjectRef<ZImageDeployment>) {
        self.gateway_knowledge_age
            .remove(&deployment_labels(deployment));
        for tier in Tier::ALL {
            let labels = labels(deployment, tier);
            self.tier_weight.remove(&labels);
            self.tier_ready_pods.remove(&labels);
            self.tier_utilization.remove(&labels);
            self.tier_waiting.remove(&labels);
            self.tier_figures_age.remove(&labels);
        }
        for (state, reason) in REASONS {
            let labels = ShiftLabels {
                namespace: deployment.namespace.clone().unwrap_or_default(),
                name: deployment.name.clone(),
                state: state.as_str(),
                reason: reason.as_str().to_owned(),
            };
            self.shifts.remove(&labels);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn deployment_labels(deployment: &ObjectRef<ZImageDeployment>) -> DeploymentLabels {
    DeploymentLabels {
        namespace: deployment.namespace.clone().unwrap_or_default(),
        name: deployment.name.clone(),
    }
}

fn labels(deployment: &ObjectRef<ZImageDeployment>, tier: Tier) -> TierLabels {
    TierLabels {
        namespace: deployment.namespace.clone().unwrap_or_default(),
        name: deployment.name.clone(),
        tier: tier.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_is_left_of_a_deployment_that_is_gone() {
        let metrics = Metrics::new();
        let tier = json!({"model": {"variant": "Turbo", "source": {"persistentVolumeClaim": {"claimName": "m"}}}});
        let owner: ZImageDeployment = serde_json::from_value(json!({
            "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
            "metadata": {"name": "fox", "namespace": "art"}, "spec": {"primary": tier},
        }))
        .unwrap();
        let status = |(state, reason): (zimage_crds::TrafficState, zimage_crds::Reason)| -> ZImageDeploymentStatus {
            serde_json::from_value(json!({"traffic": {
                "weights": {"primary": 1, "fallback": 0}, "split": "1/0", "state": state.as_str(),
                "reason": reason.as_str(), "since": "2026-01-01T00:00:00Z",
            }}))
            .unwrap()
        };
        for before in REASONS {
            for after in REASONS {
                metrics.shifted(&owner, &status(before), &status(after));
            }
        }
        assert!(metrics.text().unwrap().contains("\"fox\""));
        metrics.forget(&ObjectRef::from_obj(&owner));
        let left = metrics.text().unwrap();
        assert!(!left.contains("\"fox\""), "{left}");
    }
}
