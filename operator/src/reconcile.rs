//! One reconciliation: what exists, what is wanted, the difference applied, and what there is to say about it.
//!
//! A spec that cannot be is refused by the API server, by the rules of the CRD or those of the children.

mod apply;
pub mod build;
pub mod dereference;
mod events;
mod fault;
mod images;
mod kubelet;
mod status;
mod validate;

#[cfg(test)]
mod tests;

use crate::args::DefaultImages;
use crate::clock::Moment;
use crate::component::Component;
use crate::failures::Failures;
use crate::metrics::Metrics;
use crate::observe::{Decision, Inputs, Observer, PodTarget, Targets};
use crate::traffic::Policy;
use apply::Target;
use build::{Desired, Images, Peers};
use dereference::{Caches, Existing};
use images::Choice;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::RoleRef;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use status::Fault;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zimage_crds::contract::METRICS_PORT;
use zimage_crds::{PerTier, ZImageDeployment, ZImageDeploymentStatus};

pub use apply::Reverts;
pub use dereference::owner_of_child;
pub use fault::{Cause, Contested, Holder, ReconcileError, Taken};
pub use status::{DEVICE_FAILED, MODEL_INVALID};

/// The name of a deployment.
pub type DeploymentRef = ObjectRef<ZImageDeployment>;

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
    /// The last status written for each deployment: the cache of deployments may be behind it.
    pub written: Mutex<HashMap<DeploymentRef, Written>>,
    /// Failed attempts.
    pub failures: Failures,
    /// Children that had to be put back.
    pub reverts: Reverts,
}

/// A status that was written.
#[derive(Clone, Debug)]
pub struct Written {
    uid: Option<String>,
    version: Option<String>,
    status: ZImageDeploymentStatus,
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
    owner: &ZImageDeployment,
    context: &Context,
) -> Result<Option<Duration>, ReconcileError> {
    if owner.meta().deletion_timestamp.is_some() {
        // Owner references let the garbage collector take the children.
        return Ok(None);
    }
    let now = whole_seconds(Timestamp::now());
    let before = context.last_status(owner);
    let mut existing = context.caches.existing(owner);
    existing.obstacles = kubelet::obstacles(&context.client, existing.pods()).await;
    let choice = Choice {
        owner,
        before: &before,
        existing: &existing,
        defaults: &context.images,
    };
    let images = choice.images();
    let applied = match owner.spec.paused {
        true => context.hold(owner, &existing, &images),
        false => context.apply(owner, &existing, &images).await,
    };
    // A refusal leaves the pods alone, not the traffic: it still follows their readiness.
    let decision = context.decide(owner, &existing, &before);
    let fault = applied.as_ref().err().map(Fault::of);
    let children = applied.as_ref().unwrap_or(&existing.children);
    let outdated = choice.outdated(&images);
    let observed = status::Observed::new(owner, children, &existing, &decision).outdated(outdated);
    let mut after = status::of(owner, &observed, fault.as_ref(), &before, now);
    images::remember(&images, owner, &mut after);
    context.update_status(owner, &before, after).await?;
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
    fn last_status(&self, owner: &ZImageDeployment) -> ZImageDeploymentStatus {
        let written = self.written(owner).map(|written| written.status);
        written.or(owner.status.clone()).unwrap_or_default()
    }

    /// What was written last for this very deployment, not for one of its name before it.
    fn written(&self, owner: &ZImageDeployment) -> Option<Written> {
        let all = self.lock_written();
        let written = all.get(&DeploymentRef::from_obj(owner))?;
        (written.uid == owner.uid()).then(|| written.clone())
    }

    /// The children as they are then.
    async fn apply(
        &self,
        owner: &ZImageDeployment,
        existing: &Existing,
        images: &Images,
    ) -> Result<Vec<Arc<DynamicObject>>, ReconcileError> {
        validate::validate(owner, &self.caches.owners.state())?;
        let accounts = build::accounts(owner)?;
        let others = self.wanted(owner, images, &existing.children)?;
        let all = [accounts.as_slice(), others.as_slice()].concat();
        apply::check_names(&self.client, owner, &all, existing).await?;
        let target = Target {
            client: &self.client,
            owner,
            existing,
            reverts: &self.reverts,
        };
        let accounts = apply::apply(&target, accounts).await?;
        let wanted = self.wanted(owner, images, &accounts)?;
        let others = apply::apply(&target, wanted).await?;
        let children = [accounts, others].concat();
        apply::prune(&self.client, &children, existing).await?;
        Ok(children)
    }

    /// The children as they are, when they are as the spec asks for; nothing is changed.
    fn hold(
        &self,
        owner: &ZImageDeployment,
        existing: &Existing,
        images: &Images,
    ) -> Result<Vec<Arc<DynamicObject>>, ReconcileError> {
        let others = self.wanted(owner, images, &existing.children)?;
        let wanted = [build::accounts(owner)?, others].concat();
        match apply::differences(wanted, existing) {
            None => Ok(existing.children.clone()),
            Some(differences) => Err(ReconcileError::Held(differences)),
        }
    }

    /// The children that go with these accounts.
    fn wanted(
        &self,
        owner: &ZImageDeployment,
        images: &Images,
        accounts: &[Arc<DynamicObject>],
    ) -> Result<Vec<DynamicObject>, serde_json::Error> {
        let name = Component::Gateway.account(owner);
        let is_account = |child: &&Arc<DynamicObject>| {
            let types = child.types.as_ref();
            child.name_any() == name && types.is_some_and(|it| it.kind == "ServiceAccount")
        };
        let account = accounts.iter().find(is_account);
        build::children(&Desired {
            owner,
            images: images.clone(),
            gateway_account: account.and_then(|account| account.meta().uid.as_deref()),
            peers: self.peers.as_ref(),
            gateway_role: &self.gateway_role,
        })
    }

    fn decide(
        &self,
        owner: &ZImageDeployment,
        existing: &Existing,
        before: &ZImageDeploymentStatus,
    ) -> Decision {
        let inputs = Inputs {
            policy: Policy::from(&owner.spec),
            servers: PerTier::from_fn(|tier| targets(owner, existing, Component::Server(tier))),
            gateway: targets(owner, existing, Component::Gateway),
            status: before.traffic.as_ref(),
        };
        self.observer
            .decide(&ObjectRef::from_obj(owner), inputs, Moment::now())
    }

    async fn update_status(
        &self,
        owner: &ZImageDeployment,
        before: &ZImageDeploymentStatus,
        after: ZImageDeploymentStatus,
    ) -> Result<(), ReconcileError> {
        if *before == after && owner.status.as_ref() == Some(&after) {
            return Ok(());
        }
        let api: Api<ZImageDeployment> =
            Api::namespaced(self.client.clone(), &owner.namespace().unwrap_or_default());
        // Of two writers one is refused, and a deployment of the same name made since is another one.
        let patch = json!({
            "apiVersion": ZImageDeployment::api_version(&()),
            "kind": ZImageDeployment::kind(&()),
            "metadata": {"uid": owner.uid(), "resourceVersion": self.version(owner)},
            "status": after,
        });
        let parameters = PatchParams::apply(apply::FIELD_MANAGER).force();
        let patch = Patch::Apply(patch);
        let name = owner.name_any();
        let stored = match api.patch_status(&name, &parameters, &patch).await {
            Ok(stored) => stored,
            Err(error) => {
                // What is there may be another's: the cache tells.
                self.lock_written().remove(&DeploymentRef::from_obj(owner));
                return Err(error.into());
            }
        };
        self.metrics
            .shifted(&DeploymentRef::from_obj(owner), before, &after);
        for event in events::between(before, &after) {
            // A lost event is no reason to reconcile again.
            if let Err(error) = self.recorder.publish(&event, &owner.object_ref(&())).await {
                tracing::warn!(%error, reason = event.reason, "failed to publish an event");
            }
        }
        let written = Written {
            uid: owner.uid(),
            version: stored.resource_version(),
            status: after,
        };
        self.lock_written()
            .insert(DeploymentRef::from_obj(owner), written);
        Ok(())
    }

    /// The version that a status is written on: the cache's when it has our last one, and else that one's.
    fn version(&self, owner: &ZImageDeployment) -> Option<String> {
        let written = self.written(owner);
        let ahead = written.filter(|written| owner.status.as_ref() != Some(&written.status));
        ahead.map_or_else(|| owner.resource_version(), |written| written.version)
    }

    fn lock_written(&self) -> MutexGuard<'_, HashMap<DeploymentRef, Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets deployments that are gone.
    pub fn forget(&self, exists: impl Fn(&DeploymentRef) -> bool) {
        self.lock_written()
            .retain(|deployment, _| exists(deployment));
        self.metrics.forget(&exists);
        self.failures.retain(exists);
    }
}

/// The ready pods of a component and where they tell their figures.
fn targets(owner: &ZImageDeployment, existing: &Existing, component: Component) -> Targets {
    let pods = existing.pods_of(owner, component).into_iter();
    let target = |pod: &k8s_openapi::api::core::v1::Pod| {
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

/// Times in the API have whole seconds; a finer one would differ from what is read back.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
