//! The status of a deployment out of what was seen. Pure.

mod conditions;
mod trouble;

#[cfg(test)]
mod tests;

use super::ReconcileError;
use super::build::{Part, tier_spec};
use super::dereference::Existing;
use super::kubelet::Obstacles;
use crate::observe::Decision;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::DynamicObject;
use std::sync::Arc;
use zimage_crds::{
    Reason, Tier, TierStatus, TrafficStatus, Weights, ZImageDeployment, ZImageDeploymentStatus,
};

pub(super) use trouble::Trouble;
pub use trouble::{DEVICE_FAILED, MODEL_INVALID};

/// One part: its Deployment and its pods.
pub(super) struct Parts<'a> {
    replicas: i32,
    deployment: Option<Deployment>,
    pods: Vec<&'a Pod>,
    /// Pods that are left over.
    ended: Vec<&'a Pod>,
    obstacles: &'a Obstacles,
}

/// What the status is made of.
pub(super) struct Seen<'a> {
    primary: Parts<'a>,
    fallback: Option<Parts<'a>>,
    gateway: Parts<'a>,
    decision: &'a Decision,
    /// Parts with an older image than the operator's.
    outdated: Vec<String>,
}

impl<'a> Seen<'a> {
    /// Collects what was applied and what runs.
    pub(super) fn new(
        owner: &ZImageDeployment,
        applied: &[Arc<DynamicObject>],
        existing: &'a Existing,
        decision: &'a Decision,
    ) -> Self {
        let parts = |part: Part, replicas: i32| Parts {
            replicas,
            deployment: deployment(applied, &part.name(owner)),
            pods: existing.pods_of(owner, part),
            ended: existing.ended_pods_of(owner, part),
            obstacles: &existing.obstacles,
        };
        let tier = |tier| {
            let spec = tier_spec(&owner.spec, tier)?;
            Some(parts(Part::Server(tier), spec.replicas))
        };
        Self {
            primary: parts(Part::Server(Tier::Primary), owner.spec.primary.replicas),
            fallback: tier(Tier::Fallback),
            gateway: parts(Part::Gateway, owner.spec.gateway.replicas),
            decision,
            outdated: Vec::new(),
        }
    }

    /// With parts that have an older image than the operator's.
    pub(super) fn outdated(mut self, parts: Vec<String>) -> Self {
        self.outdated = parts;
        self
    }

    fn tier(&self, tier: Tier) -> Option<&Parts<'a>> {
        match tier {
            Tier::Primary => Some(&self.primary),
            Tier::Fallback => self.fallback.as_ref(),
        }
    }

    fn parts(&self) -> impl Iterator<Item = (&'static str, &Parts<'a>)> {
        let primary = ("primary tier", &self.primary);
        let fallback = self.fallback.as_ref().map(|parts| ("fallback tier", parts));
        [primary]
            .into_iter()
            .chain(fallback)
            .chain([("gateway", &self.gateway)])
    }
}

fn deployment(applied: &[Arc<DynamicObject>], name: &str) -> Option<Deployment> {
    let is_it = |child: &&Arc<DynamicObject>| {
        child.name_any() == name
            && child
                .types
                .as_ref()
                .is_some_and(|types| types.kind == "Deployment")
    };
    DynamicObject::clone(applied.iter().find(is_it)?)
        .try_parse()
        .ok()
}

impl Parts<'_> {
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
    owner: &ZImageDeployment,
    seen: &Seen<'_>,
    fault: Option<&Fault>,
    before: &ZImageDeploymentStatus,
    now: Timestamp,
) -> ZImageDeploymentStatus {
    let verdicts = conditions::verdicts(owner, seen, fault).into_iter();
    let conditions =
        verdicts.map(|(kind, verdict)| verdict.condition(kind, owner, &before.conditions, now));
    let pods = i32::try_from(seen.primary.pods.len()).unwrap_or(i32::MAX);
    ZImageDeploymentStatus {
        observed_generation: owner.metadata.generation,
        replicas: pods,
        selector: Some(selector(owner)),
        primary: tier_status(owner, seen, Tier::Primary),
        fallback: tier_status(owner, seen, Tier::Fallback),
        gateway: None,
        traffic: Some(traffic_status(seen.decision)),
        conditions: conditions.collect(),
    }
}

fn tier_status(owner: &ZImageDeployment, seen: &Seen<'_>, tier: Tier) -> Option<TierStatus> {
    let parts = seen.tier(tier)?;
    let ready = parts.ready();
    Some(TierStatus {
        replicas: parts.replicas,
        ready_replicas: ready,
        ready: format!("{ready}/{}", parts.replicas),
        model: tier_spec(&owner.spec, tier)?
            .model
            .variant
            .model_name()
            .to_owned(),
        image: None,
        device: None,
    })
}

fn traffic_status(decision: &Decision) -> TrafficStatus {
    let memory = &decision.memory;
    TrafficStatus {
        weights: memory.weights(),
        split: split(memory.weights()),
        state: memory.state(),
        reason: memory.reason().as_str().to_owned(),
        since: Time(super::whole_seconds(memory.since())),
    }
}

fn split(weights: Weights) -> String {
    format!("{}/{}", weights.primary, weights.fallback)
}

fn selector(owner: &ZImageDeployment) -> String {
    let labels = Part::Server(Tier::Primary)
        .selector_labels(owner)
        .into_iter();
    labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}
