//! The operator's own figures, `zimage_operator_*`.

use crate::component::DeploymentRef;
use crate::decide::traffic::REASONS;
use crate::fault::Cause;
use crate::observe::ScrapeMetrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zimage_crds::{TrafficState, ZImageDeploymentStatus};

/// All figures and the registry that shows them.
pub struct Metrics {
    registry: Registry,
    /// Connections of the probes' and the metrics' clients, and what is refused there.
    pub edge: zimage_edge::Metrics,
    reconcile_duration: Histogram,
    reconcile_failures: Family<CauseLabels, Counter>,
    leader: Gauge,
    shifts: Family<ShiftLabels, Counter>,
    /// The deployments that have shifts.
    shifted: Mutex<HashSet<DeploymentRef>>,
    scrapes: ScrapeMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShiftLabels {
    namespace: String,
    name: String,
    state: &'static str,
    reason: String,
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
            edge: zimage_edge::Metrics::default().of("probes"),
            reconcile_duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            reconcile_failures: Family::default(),
            leader: Gauge::default(),
            shifts: Family::default(),
            shifted: Mutex::default(),
            scrapes: ScrapeMetrics::default(),
            registry: Registry::default(),
        };
        metrics.edge.register_connections(&mut registry);
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
        metrics.scrapes.register(&mut registry);
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

    /// The counters of those who read pods' metrics.
    pub fn scrapes(&self) -> ScrapeMetrics {
        self.scrapes.clone()
    }

    /// Counts a change of the traffic's state.
    pub(crate) fn shifted(
        &self,
        deployment: &DeploymentRef,
        before: &ZImageDeploymentStatus,
        after: &ZImageDeploymentStatus,
    ) {
        let state = |status: &ZImageDeploymentStatus| status.traffic.as_ref().map(|it| it.state);
        let Some(traffic) = &after.traffic else {
            return;
        };
        if state(before).is_some_and(|before| before != traffic.state) {
            let labels = labels(deployment, traffic.state, traffic.reason.clone());
            self.shifts.get_or_create(&labels).inc();
            self.lock_shifted().insert(deployment.clone());
        }
    }

    /// Takes out the shifts of deployments that are gone.
    pub(crate) fn forget(&self, exists: impl Fn(&DeploymentRef) -> bool) {
        self.lock_shifted().retain(|deployment| {
            let stays = exists(deployment);
            for (state, reason) in REASONS.into_iter().filter(|_| !stays) {
                let labels = labels(deployment, state, reason.as_str().to_owned());
                self.shifts.remove(&labels);
            }
            stays
        });
    }

    fn lock_shifted(&self) -> MutexGuard<'_, HashSet<DeploymentRef>> {
        self.shifted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn labels(deployment: &DeploymentRef, state: TrafficState, reason: String) -> ShiftLabels {
    ShiftLabels {
        namespace: deployment.namespace.clone().unwrap_or_default(),
        name: deployment.name.clone(),
        state: state.as_str(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use zimage_crds::Reason;

    #[test]
    fn nothing_is_left_of_a_deployment_that_is_gone() {
        let metrics = Metrics::new();
        let fox = DeploymentRef::new("fox").within("art");
        let status = |(state, reason): (TrafficState, Reason)| -> ZImageDeploymentStatus {
            serde_json::from_value(json!({"traffic": {
                "weights": {"primary": 1, "fallback": 0}, "split": "1/0", "state": state.as_str(),
                "reason": reason.as_str(), "since": "2026-01-01T00:00:00Z",
            }}))
            .unwrap()
        };
        for before in REASONS {
            for after in REASONS {
                metrics.shifted(&fox, &status(before), &status(after));
            }
        }
        metrics.forget(|_| true);
        assert!(metrics.text().unwrap().contains("\"fox\""));
        metrics.forget(|_| false);
        let left = metrics.text().unwrap();
        assert!(!left.contains("\"fox\""), "{left}");
    }
}
