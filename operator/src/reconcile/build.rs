//! The children of a `ZImageDeployment` as they should be. Pure.

mod deployment;
mod network_policy;
mod pod_disruption_budget;
mod role_binding;
mod service;
mod service_account;

#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef};
use kube::Resource;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use serde::Serialize;
use std::iter;
use zimage_crds::{PerTier, Tier, ZImageDeployment};

use crate::component::Component;
use crate::decide::rollout::Images;
pub(super) use deployment::computes_on_gpu;
pub use network_policy::{Peers, operator};

/// What the children are made of: all that was decided, and nothing else.
#[derive(Clone, Debug)]
pub struct Desired<'a> {
    /// The deployment whose spec they follow.
    pub owner: &'a ZImageDeployment,
    /// The containers' images.
    pub images: Images,
    /// Pods of each tier.
    pub replicas: PerTier<i32>,
    /// Who may connect to the pods. `None`: everyone, without policies.
    pub peers: Option<&'a Peers>,
    /// What the gateway's account may do.
    pub gateway_role: &'a RoleRef,
    /// Kinds that the API server does not have: there are no children of them.
    pub lacking: Vec<ApiResource>,
}

/// The children that were built.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The children whose identity the others need: the ServiceAccounts of the pods.
    pub accounts: Vec<DynamicObject>,
    others: Vec<DynamicObject>,
    gateway: Deployment,
}

impl Wanted {
    /// Every child but [`Wanted::accounts`], in the order in which they are applied, where the gateway's account has the UID
    /// `account`. A token is of one account alone: the gateway's pods are replaced with it.
    ///
    /// # Errors
    /// When an object cannot be written as JSON; it is a fault of this program.
    pub fn others(&self, account: Option<&str>) -> Result<Vec<DynamicObject>, serde_json::Error> {
        let mut gateway = self.gateway.clone();
        if let Some(uid) = account {
            deployment::hold_token_of(&mut gateway, uid);
        }
        let mut others = self.others.clone();
        others.push(dynamic(&gateway)?);
        Ok(others)
    }

    /// Every child, in the order in which they are applied, where the gateway's account has the UID `account`.
    ///
    /// # Errors
    /// When an object cannot be written as JSON; it is a fault of this program.
    pub fn children(&self, account: Option<&str>) -> Result<Vec<DynamicObject>, serde_json::Error> {
        Ok([self.accounts.clone(), self.others(account)?].concat())
    }
}

/// The kinds of all children, in the order in which they are applied: accounts and rights before the pods that use them.
pub fn kinds() -> [ApiResource; 6] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<RoleBinding>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<Deployment>(&()),
    ]
}

/// Whether a deployment serves without the children of a kind, so that a cluster may lack it. What protects is never left out.
pub fn is_optional(kind: &ApiResource) -> bool {
    kind.kind == PodDisruptionBudget::kind(&())
}

/// Builds every child.
///
/// # Errors
/// When an object cannot be written as JSON; it is a fault of this program.
pub fn build(desired: &Desired<'_>) -> Result<Wanted, serde_json::Error> {
    let account = |component| dynamic(&service_account::service_account(desired.owner, component));
    let mut others = others(desired)?;
    others.retain(|child| desired.lacking.iter().all(|kind| !is_of(kind, child)));
    Ok(Wanted {
        accounts: components(desired.owner)
            .map(account)
            .collect::<Result<_, _>>()?,
        others,
        gateway: deployment::gateway(desired),
    })
}

/// Whether an object is of a kind.
pub(super) fn is_of(kind: &ApiResource, object: &DynamicObject) -> bool {
    let types = object.types.as_ref();
    types.is_some_and(|it| it.kind == kind.kind && it.api_version == kind.api_version)
}

/// The workloads that the spec asks for.
fn components(owner: &ZImageDeployment) -> impl Iterator<Item = Component> {
    let tiers = owner.spec.tiers();
    let tiers = Tier::ALL
        .into_iter()
        .filter(move |tier| tiers[*tier].is_some());
    iter::once(Component::Gateway).chain(tiers.map(Component::Server))
}

/// Every child but the accounts and the gateway's Deployment.
fn others(desired: &Desired<'_>) -> Result<Vec<DynamicObject>, serde_json::Error> {
    let owner = desired.owner;
    let binding = role_binding::gateway(owner, desired.gateway_role.clone());
    let mut children = vec![dynamic(&binding)?];
    // Before the pods, so that none is open for a moment.
    if let Some(peers) = desired.peers {
        for component in components(owner) {
            let policy = network_policy::network_policy(owner, component, peers);
            children.push(dynamic(&policy)?);
        }
    }
    children.push(dynamic(&service::front(owner))?);
    children.extend(budget(
        owner,
        Component::Gateway,
        owner.spec.gateway.replicas,
    )?);
    for (tier, spec) in owner.spec.tiers().iter() {
        if let Some(spec) = spec {
            children.push(dynamic(&service::tier(owner, tier))?);
            let replicas = desired.replicas[tier];
            children.extend(budget(owner, Component::Server(tier), replicas)?);
            children.push(dynamic(&deployment::server(desired, tier, spec))?);
        }
    }
    Ok(children)
}

fn budget(
    owner: &ZImageDeployment,
    component: Component,
    replicas: i32,
) -> Result<Option<DynamicObject>, serde_json::Error> {
    let budget = pod_disruption_budget::pod_disruption_budget(owner, component, replicas);
    budget.as_ref().map(dynamic).transpose()
}

fn dynamic<K>(object: &K) -> Result<DynamicObject, serde_json::Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    serde_json::from_value(serde_json::to_value(object)?)
}
