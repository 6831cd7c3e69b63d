//! The status of a deployment out of what was seen. Pure.

mod conditions;
mod trouble;

#[cfg(test)]
mod tests;

use super::build::Desired;
use super::dereference::{Existing, find_deployment};
use super::kubelet::Obstacles;
use crate::clock::whole_seconds;
use crate::component::Component;
use crate::decide::{rollout, traffic};
use crate::fault::ReconcileError;
use crate::observe::Snapshot;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DynamicObject;
use std::sync::Arc;
use zimage_crds::{
    PerTier, Reason, Tier, TierStatus, TrafficStatus, Weights, ZImageDeployment,
    ZImageDeploymentStatus,
};

pub use trouble::{DEVICE_FAILED, MODEL_INVALID};

/// One component: its Deployment and its pods.
pub(super) struct ComponentState<'a> {
    replicas: i32,
    deployment: Option<Deployment>,
    pods: Vec<&'a Pod>,
    /// Pods that are left over.
    ended: Vec<&'a Pod>,
    obstacles: &'a Obstacles,
}

/// What the status is made of.
pub(super) struct Observed<'a> {
    desired: &'a Desired<'a>,
    /// The tiers that the spec asks for.
    servers: PerTier<Option<ComponentState<'a>>>,
    gateway: ComponentState<'a>,
    snapshot: &'a Snapshot,
    /// Components with an older image than the operator's.
    outdated: Vec<String>,
}

impl<'a> Observed<'a> {
    /// Collects what was applied and what runs.
    pub(super) fn new(
        desired: &'a Desired<'a>,
        applied: &[Arc<DynamicObject>],
        existing: &'a Existing,
        snapshot: &'a Snapshot,
    ) -> Self {
        let owner = desired.owner;
        let state = |component: Component, replicas: i32| ComponentState {
            replicas,
            deployment: find_deployment(applied, &component.name(owner)),
            pods: existing.pods_of(owner, component),
            ended: existing.ended_pods_of(owner, component),
            obstacles: &existing.obstacles,
        };
        let server = |tier| state(Component::Server(tier), desired.replicas[tier]);
        let tiers = owner.spec.tiers();
        Self {
            desired,
            servers: tiers.map(|tier, spec| spec.map(|_| server(tier))),
            gateway: state(Component::Gateway, owner.spec.gateway.replicas),
            snapshot,
            outdated: Vec::new(),
        }
    }

    /// With components that have an older image than the operator's.
    pub(super) fn outdated(mut self, components: Vec<String>) -> Self {
        self.outdated = components;
        self
    }

    /// Every component that there is to be.
    fn components(&self) -> impl Iterator<Item = (Component, &ComponentState<'a>)> {
        let servers = self.servers.iter();
        let servers =
            servers.filter_map(|(tier, state)| Some((Component::Server(tier), state.as_ref()?)));
        servers.chain([(Component::Gateway, &self.gateway)])
    }
}

impl ComponentState<'_> {
    fn ready(&self) -> i32 {
        let ready = self.pods.iter().filter(|pod| is_ready(pod)).count();
        i32::try_from(ready).unwrap_or(i32::MAX)
    }

    fn updated(&self) -> i32 {
        let status = self
            .deployment
            .as_ref()
            .and_then(|deployment| deployment.status.as_ref());
        status
            .and_then(|status| status.updated_replicas)
            .unwrap_or(0)
    }

    /// The Deployment's controller has seen its present spec and has once had every pod of it available.
    fn is_rolled_out(&self) -> bool {
        let Some(deployment) = &self.deployment else {
            return false;
        };
        let Some(status) = &deployment.status else {
            return false;
        };
        let complete = status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "Progressing"
                && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
        });
        status.observed_generation >= deployment.metadata.generation
            && complete
            && self.updated() == self.replicas
            && status.replicas.unwrap_or(0) == self.replicas
    }
}

/// Whether a pod takes requests.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why the spec was not, or not wholly, applied.
pub(super) struct Fault {
    reason: Reason,
    message: String,
}

impl Fault {
    /// What a failed attempt to apply the spec means.
    pub(super) fn of(error: &ReconcileError) -> Self {
        Self {
            reason: error.reason(),
            message: error.message(),
        }
    }
}

/// The status of a deployment. With a `fault` what ran before goes on.
pub(super) fn of(
    observed: &Observed<'_>,
    fault: Option<&Fault>,
    before: &ZImageDeploymentStatus,
    now: Timestamp,
) -> ZImageDeploymentStatus {
    let owner = observed.desired.owner;
    let now = whole_seconds(now);
    let verdicts = conditions::verdicts(observed, fault).into_iter();
    let conditions =
        verdicts.map(|(kind, verdict)| verdict.condition(kind, owner, &before.conditions, now));
    let primary = observed.servers.primary.as_ref();
    let pods = primary.map_or(0, |primary| primary.pods.len());
    let tiers = PerTier::from_fn(|tier| tier_status(observed, tier));
    let mut status = ZImageDeploymentStatus {
        observed_generation: owner.metadata.generation,
        replicas: i32::try_from(pods).unwrap_or(i32::MAX),
        selector: Some(selector(owner)),
        primary: tiers.primary,
        fallback: tiers.fallback,
        gateway: None,
        traffic: Some(traffic_status(&observed.snapshot.decision.traffic)),
        conditions: conditions.collect(),
    };
    rollout::remember(&observed.desired.images, &owner.spec, &mut status);
    status
}

fn tier_status(observed: &Observed<'_>, tier: Tier) -> Option<TierStatus> {
    let component = observed.servers[tier].as_ref()?;
    let spec = observed.desired.owner.spec.tiers()[tier]?;
    let ready = component.ready();
    Some(TierStatus {
        replicas: component.replicas,
        ready_replicas: ready,
        ready: format!("{ready}/{}", component.replicas),
        model: spec.model.variant.model_name().to_owned(),
        image: None,
        device: None,
    })
}

fn traffic_status(traffic: &traffic::State) -> TrafficStatus {
    TrafficStatus {
        weights: traffic.weights(),
        split: split(traffic.weights()),
        state: traffic.state(),
        reason: traffic.reason().as_str().to_owned(),
        since: Time(whole_seconds(traffic.since())),
    }
}

fn split(weights: Weights) -> String {
    format!("{}/{}", weights.primary, weights.fallback)
}

fn selector(owner: &ZImageDeployment) -> String {
    let labels = Component::Server(Tier::Primary)
        .selector_labels(owner)
        .into_iter();
    labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}
