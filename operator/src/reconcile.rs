//! One reconciliation: what exists, what is decided and built, the difference applied, and what there is to say about it.
//!
//! A spec that cannot be is refused by the API server, by the rules of the CRD or those of the children.

mod apply;
pub mod build;
pub mod dereference;
mod events;
mod kubelet;
mod publish;
mod status;
mod validate;
mod written;

#[cfg(test)]
mod tests;

use crate::clock::Moment;
use crate::component::{Component, DeploymentRef};
use crate::decide::rollout::{Choice, DefaultImages};
use crate::failures::Failures;
use crate::fault::ReconcileError;
use crate::metrics::Metrics;
use crate::observe::{Observer, PodTarget, ReadyPods, Snapshot, Targets};
use apply::Target;
use build::{Desired, Peers};
use dereference::{Caches, Existing};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::RoleRef;
use kube::runtime::events::Recorder;
use kube::{Client, Resource, ResourceExt};
use publish::{Publisher, publish};
use status::{Fault, Observed};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use zimage_crds::contract::METRICS_PORT;
use zimage_crds::{PerTier, ZImageDeployment, ZImageDeploymentStatus};

pub use apply::Reverts;
pub use dereference::owner_of_child;
pub use status::{DEVICE_FAILED, MODEL_INVALID};
pub use written::Written;

/// What reconciliation works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Children and pods.
    pub caches: Caches,
    /// The traffic decisions.
    pub observer: Arc<Observer>,
    /// Images of components whose spec names none.
    pub images: DefaultImages,
    /// Who may connect to the pods; `None`: everyone, without policies.
    pub peers: Option<Peers>,
    /// What gateways' accounts may do.
    pub gateway_role: RoleRef,
    /// Events.
    pub recorder: Recorder,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Statuses that were written.
    pub written: Written,
    /// Failed attempts.
    pub failures: Failures,
    /// Children that had to be put back.
    pub reverts: Reverts,
}

/// Brings the children of one deployment to what its spec asks for, and its status to what they are. Returns when to look
/// again without a change, where that is soon.
///
/// # Errors
/// When the API server refuses; what was applied so far stays.
pub async fn reconcile(
    owner: Arc<ZImageDeployment>,
    context: Arc<Context>,
) -> Result<Option<Duration>, ReconcileError> {
    let begun = std::time::Instant::now();
    let outcome = reconcile_one(&owner, &context).await;
    context.metrics.reconciled(begun.elapsed());
    outcome
}

async fn reconcile_one(
    owner: &Arc<ZImageDeployment>,
    context: &Context,
) -> Result<Option<Duration>, ReconcileError> {
    if owner.meta().deletion_timestamp.is_some() {
        // Owner references let the garbage collector take the children.
        return Ok(None);
    }
    let before = context.written.last_status(owner);
    let existing = context.dereference(owner).await;
    let validity = validate::validate(owner, &context.caches.owners.state());
    let now = Moment::now();
    let snapshot = context.decide(owner, &existing, &before, now);
    let (desired, outdated) = context.desire(owner, &existing, &before, &snapshot);
    let wanted = validity.and_then(|()| Ok(build::build(&desired)?));
    let target = Target {
        client: &context.client,
        owner,
        existing: &existing,
        reverts: &context.reverts,
    };
    // A refusal leaves the pods alone, not the traffic: it still follows their readiness.
    let applied = match wanted {
        Err(error) => Err(error),
        Ok(wanted) if owner.spec.paused => apply::hold(&target, &wanted),
        Ok(wanted) => apply::apply(&target, &wanted).await,
    };
    let fault = applied.as_ref().err().map(Fault::of);
    let children = applied.as_ref().unwrap_or(&existing.children);
    let observed = Observed::new(&desired, children, &existing, &snapshot).outdated(outdated);
    let after = status::of(&observed, fault.as_ref(), &before, now.wall);
    publish(&context.publisher(), owner, &before, after).await?;
    match applied {
        // Nothing failed: it is as it is asked to be.
        Err(ReconcileError::Held(_)) => Ok(None),
        Err(error) => Err(error),
        // An event of the kubelet changes no pod: nothing but time brings it here.
        _ if existing.pods().any(kubelet::is_starting) => Ok(Some(kubelet::AGAIN)),
        _ => Ok(None),
    }
}

impl Context {
    /// What exists, and what keeps its pods from starting.
    async fn dereference(&self, owner: &ZImageDeployment) -> Existing {
        let mut existing = self.caches.existing(owner);
        existing.obstacles = kubelet::obstacles(&self.client, existing.pods()).await;
        existing
    }

    /// The decision in force from now on, and what it rests on.
    fn decide(
        &self,
        owner: &Arc<ZImageDeployment>,
        existing: &Existing,
        before: &ZImageDeploymentStatus,
        now: Moment,
    ) -> Snapshot {
        let pods = ReadyPods {
            servers: PerTier::from_fn(|tier| targets(owner, existing, Component::Server(tier))),
            gateway: targets(owner, existing, Component::Gateway),
        };
        self.observer
            .decide(owner, pods, before.traffic.as_ref(), now)
    }

    /// All that the children are made of, and which of them have an older image than the operator's.
    fn desire<'a>(
        &'a self,
        owner: &'a ZImageDeployment,
        existing: &Existing,
        before: &ZImageDeploymentStatus,
        snapshot: &Snapshot,
    ) -> (Desired<'a>, Vec<String>) {
        let choice = Choice {
            spec: &owner.spec,
            before,
            live: &|component| existing.running(owner, component),
            defaults: &self.images,
        };
        let images = choice.images();
        let outdated = choice.outdated(&images);
        let desired = Desired {
            owner,
            images,
            replicas: snapshot.decision.replicas,
            peers: self.peers.as_ref(),
            gateway_role: &self.gateway_role,
            lacking: self.caches.lacking(),
        };
        (desired, outdated)
    }

    fn publisher(&self) -> Publisher<'_> {
        Publisher {
            client: &self.client,
            written: &self.written,
            recorder: &self.recorder,
            metrics: &self.metrics,
        }
    }

    /// Forgets deployments that are gone.
    pub fn forget(&self, exists: impl Fn(&DeploymentRef) -> bool) {
        self.written.retain(&exists);
        self.metrics.forget(&exists);
        self.failures.retain(exists);
    }
}

/// The ready pods of a component and where they tell their figures.
fn targets(owner: &ZImageDeployment, existing: &Existing, component: Component) -> Targets {
    let pods = existing.pods_of(owner, component).into_iter();
    let target = |pod: &Pod| {
        let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some(PodTarget {
            name: pod.name_any(),
            address: SocketAddr::new(address, METRICS_PORT),
        })
    };
    pods.filter(|pod| status::is_ready(pod))
        .filter_map(target)
        .collect()
}
