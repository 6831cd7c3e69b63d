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
use zimage_crds::{PerTier, Tier, TierSpec, ZImageDeployment};

use crate::component::Component;
pub(super) use deployment::computes_on_gpu;
pub use network_policy::{Peers, operator};

/// The container image of each component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Each tier's server; of no meaning where the spec has no such tier.
    pub servers: PerTier<String>,
    /// The gateway.
    pub gateway: String,
}

/// What the children are made of.
pub struct Desired<'a> {
    /// The deployment whose spec they follow.
    pub owner: &'a ZImageDeployment,
    /// The containers' images.
    pub images: Images,
    /// UID of the gateway's ServiceAccount. A token is of one account alone: the gateway's pods are replaced with it.
    pub gateway_account: Option<&'a str>,
    /// Who may connect to the pods. `None`: everyone, without policies.
    pub peers: Option<&'a Peers>,
    /// What the gateway's account may do.
    pub gateway_role: &'a RoleRef,
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

/// The children whose identity the others need: the ServiceAccounts of the pods.
///
/// # Errors
/// When an object cannot be written as JSON; it is a fault of this program.
pub fn accounts(owner: &ZImageDeployment) -> Result<Vec<DynamicObject>, serde_json::Error> {
    let account = |component| dynamic(&service_account::service_account(owner, component));
    components(owner).map(account).collect()
}

/// The workloads that the spec asks for.
fn components(owner: &ZImageDeployment) -> impl Iterator<Item = Component> {
    let tiers = owner.spec.tiers();
    let tiers = Tier::ALL
        .into_iter()
        .filter(move |tier| tiers[*tier].is_some());
    iter::once(Component::Gateway).chain(tiers.map(Component::Server))
}

/// Every child but [`accounts`], in the order in which they are applied.
///
/// # Errors
/// When an object cannot be written as JSON; it is a fault of this program.
pub fn children(desired: &Desired<'_>) -> Result<Vec<DynamicObject>, serde_json::Error> {
    let owner = desired.owner;
    let binding = role_binding::gateway(owner, desired.gateway_role.clone());
    let mut children = vec![dynamic(&binding)?];
    // Before the pods, so that none is open for a moment.
    if let Some(peers) = desired.peers {
        for component in components(owner) {
            children.push(dynamic(&network_policy::network_policy(
                owner, component, peers,
            ))?);
        }
    }
    children.push(dynamic(&service::front(owner))?);
    let replicas = owner.spec.gateway.replicas;
    if let Some(budget) =
        pod_disruption_budget::pod_disruption_budget(owner, Component::Gateway, replicas)
    {
        children.push(dynamic(&budget)?);
    }
    for (tier, spec) in owner.spec.tiers().iter() {
        if let Some(spec) = spec {
            let image = &desired.images.servers[tier];
            children.extend(tier_children(owner, tier, spec, image)?);
        }
    }
    children.push(dynamic(&deployment::gateway(desired))?);
    Ok(children)
}

fn tier_children(
    owner: &ZImageDeployment,
    tier: Tier,
    spec: &TierSpec,
    image: &str,
) -> Result<Vec<DynamicObject>, serde_json::Error> {
    let component = Component::Server(tier);
    let mut children = vec![dynamic(&service::tier(owner, tier))?];
    if let Some(budget) =
        pod_disruption_budget::pod_disruption_budget(owner, component, spec.replicas)
    {
        children.push(dynamic(&budget)?);
    }
    let image = image.to_owned();
    children.push(dynamic(&deployment::server(owner, tier, spec, image))?);
    Ok(children)
}

fn dynamic<K>(object: &K) -> Result<DynamicObject, serde_json::Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    serde_json::from_value(serde_json::to_value(object)?)
}
