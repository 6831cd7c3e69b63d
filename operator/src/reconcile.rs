//! One reconciliation: what exists, what is wanted, the difference applied, and what there is to say about it.
//!
//! A spec that cannot be is refused by the API server, by the rules of the CRD or those of the children.

mod apply;
pub mod build;
pub mod dereference;
mod events;
mod kubelet;
mod status;

#[cfg(test)]
mod tests;

use crate::args::DefaultImages;
use crate::clock::Moment;
use crate::metrics::Metrics;
use crate::observe::{Decision, Observer, PodTarget, Situation, TierTargets};
use crate::traffic::Policy;
use build::{Desired, Part, Peers};
use dereference::{Caches, Existing};
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use status::Fault;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zimage_crds::{Tier, ZImageDeployment, ZImageDeploymentStatus};

pub use dereference::owner_of_child;
pub use status::MODEL_INVALID;

/// The name of a deployment.
pub type DeploymentRef = ObjectRef<ZImageDeployment>;

/// Port of the servers' metrics.
const METRICS_PORT: u16 = 9090;

/// What reconciliation works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Children and pods.
    pub caches: Caches,
    /// The traffic decisions.
    pub observer: Arc<Observer>,
    /// Images of parts whose spec names none.
    pub images: DefaultImages,
    /// Who may connect to the pods; `None`: everyone, without policies.
    pub peers: Option<Peers>,
    /// Events.
    pub recorder: Recorder,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The last status written for each deployment: the cache of deployments may be behind it.
    pub written: Mutex<HashMap<ObjectRef<ZImageDeployment>, ZImageDeploymentStatus>>,
}

/// Why a reconciliation failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server cannot be asked, or refuses.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// The deployment is paused and its spec is not what runs: what differs.
    #[error("spec.paused is true, and the spec is not what runs: {0}")]
    Held(String),
    /// A child cannot be written as JSON.
    #[error("failed to write a child as JSON: {0}")]
    Serialize(#[from] serde_json::Error),
    /// It took too long.
    #[error("the API server did not answer everything within {} s", .0.as_secs())]
    Late(Duration),
    /// A fault of this program.
    #[error("the reconciliation panicked; the log says where")]
    Panicked,
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
    let applied = match owner.spec.paused {
        true => context.hold(owner, &existing),
        false => context.apply(owner, &existing).await,
    };
    // A refusal leaves the pods alone, not the traffic: it still follows their readiness.
    let decision = context.decide(owner, &existing, &before);
    let fault = applied.as_ref().err().map(Fault::of);
    let children = applied.as_ref().unwrap_or(&existing.children);
    let seen = status::Seen::new(owner, children, &existing, &decision);
    let after = status::of(owner, &seen, fault.as_ref(), &before, now);
    context.update_status(owner, &before, after).await?;
    match applied {
        Err(error) if !error.is_of_the_spec() => Err(error),
        // An event of the kubelet changes no pod: nothing but time brings it here.
        _ if existing.pods().any(kubelet::is_starting) => Ok(Some(kubelet::AGAIN)),
        _ => Ok(None),
    }
}

impl ReconcileError {
    /// Whether only another spec helps: what it asks for cannot be, or it is paused.
    fn is_of_the_spec(&self) -> bool {
        match self {
            Self::Api(kube::Error::Api(refusal)) => refusal.code == 422,
            Self::Held(_) => true,
            Self::Api(_) | Self::Serialize(_) | Self::Late(_) | Self::Panicked => false,
        }
    }
}

impl Context {
    fn last_status(&self, owner: &ZImageDeployment) -> ZImageDeploymentStatus {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let last = written
            .get(&ObjectRef::from_obj(owner))
            .or(owner.status.as_ref());
        last.cloned().unwrap_or_default()
    }

    /// The children as they are then.
    async fn apply(
        &self,
        owner: &ZImageDeployment,
        existing: &Existing,
    ) -> Result<Vec<Arc<DynamicObject>>, ReconcileError> {
        let accounts = apply::apply(&self.client, build::accounts(owner)?, existing).await?;
        let wanted = self.wanted(owner, existing, &accounts)?;
        let others = apply::apply(&self.client, wanted, existing).await?;
        let children = [accounts, others].concat();
        apply::prune(&self.client, &children, existing).await?;
        Ok(children)
    }

    /// The children as they are, when they are as the spec asks for; nothing is changed.
    fn hold(
        &self,
        owner: &ZImageDeployment,
        existing: &Existing,
    ) -> Result<Vec<Arc<DynamicObject>>, ReconcileError> {
        let others = self.wanted(owner, existing, &existing.children)?;
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
        existing: &Existing,
        accounts: &[Arc<DynamicObject>],
    ) -> Result<Vec<DynamicObject>, serde_json::Error> {
        let name = Part::Gateway.name(owner);
        let is_account = |child: &&Arc<DynamicObject>| {
            let types = child.types.as_ref();
            child.name_any() == name && types.is_some_and(|it| it.kind == "ServiceAccount")
        };
        let account = accounts.iter().find(is_account);
        build::children(&Desired {
            owner,
            images: existing.images(owner, &self.images),
            gateway_account: account.and_then(|account| account.meta().uid.as_deref()),
            peers: self.peers.as_ref(),
        })
    }

    fn decide(
        &self,
        owner: &ZImageDeployment,
        existing: &Existing,
        before: &ZImageDeploymentStatus,
    ) -> Decision {
        let situation = Situation {
            policy: Policy::from(&owner.spec),
            primary: targets(owner, existing, Tier::Primary),
            fallback: targets(owner, existing, Tier::Fallback),
            status: before.traffic.as_ref(),
        };
        self.observer
            .decide(&ObjectRef::from_obj(owner), situation, Moment::now())
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
        let patch = json!({
            "apiVersion": ZImageDeployment::api_version(&()),
            "kind": ZImageDeployment::kind(&()),
            "status": after,
        });
        let parameters = PatchParams::apply(apply::FIELD_MANAGER).force();
        api.patch_status(&owner.name_any(), &parameters, &Patch::Apply(patch))
            .await?;
        self.metrics.shifted(owner, before, &after);
        for event in events::between(before, &after) {
            // A lost event is no reason to reconcile again.
            if let Err(error) = self.recorder.publish(&event, &owner.object_ref(&())).await {
                tracing::warn!(%error, reason = event.reason, "failed to publish an event");
            }
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(ObjectRef::from_obj(owner), after);
        Ok(())
    }

    /// Forgets deployments that are gone.
    pub fn forget(&self, exists: impl Fn(&ObjectRef<ZImageDeployment>) -> bool) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|deployment, _| exists(deployment));
    }
}

/// The ready pods of a tier and where they tell their load.
fn targets(owner: &ZImageDeployment, existing: &Existing, tier: Tier) -> TierTargets {
    let pods = existing.pods_of(owner, Part::Server(tier)).into_iter();
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
