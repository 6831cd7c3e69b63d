//! The children of a `ZImageDeployment` as they should be. Pure.

mod deployment;
mod part;
mod pod_disruption_budget;
mod role;
mod role_binding;
mod service;
mod service_account;

#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Resource;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use serde::Serialize;
use zimage_crds::{Tier, TierSpec, ZImageDeployment, ZImageDeploymentSpec};

pub(super) use deployment::computes_on_gpu;
pub use part::Part;

/// The container image of each part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Server of the primary tier.
    pub primary: String,
    /// Server of the fallback tier.
    pub fallback: String,
    /// Gateway.
    pub gateway: String,
}

/// The kinds of all children, in the order in which they are applied: accounts and rights before the pods that use them.
pub fn kinds() -> [ApiResource; 6] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Role>(&()),
        ApiResource::erase::<RoleBinding>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<Deployment>(&()),
    ]
}

/// The tier's part of the spec.
pub const fn tier_spec(spec: &ZImageDeploymentSpec, tier: Tier) -> Option<&TierSpec> {
    match tier {
        Tier::Primary => Some(&spec.primary),
        Tier::Fallback => spec.fallback.as_ref(),
    }
}

/// Every child, in the order in which they are applied.
///
/// # Errors
/// When an object cannot be written as JSON; it is a fault of this program.
pub fn children(
    owner: &ZImageDeployment,
    images: Images,
) -> Result<Vec<DynamicObject>, serde_json::Error> {
    let gateway = Part::Gateway;
    let mut children = vec![
        dynamic(&service_account::service_account(owner, gateway))?,
        dynamic(&role::gateway(owner))?,
        dynamic(&role_binding::gateway(owner))?,
        dynamic(&service::front(owner))?,
    ];
    let replicas = owner.spec.gateway.replicas;
    if let Some(budget) = pod_disruption_budget::pod_disruption_budget(owner, gateway, replicas) {
        children.push(dynamic(&budget)?);
    }
    for (tier, image) in [
        (Tier::Primary, images.primary),
        (Tier::Fallback, images.fallback),
    ] {
        if let Some(spec) = tier_spec(&owner.spec, tier) {
            children.extend(tier_children(owner, tier, spec, image)?);
        }
    }
    children.push(dynamic(&deployment::gateway(owner, images.gateway))?);
    Ok(children)
}

fn tier_children(
    owner: &ZImageDeployment,
    tier: Tier,
    spec: &TierSpec,
    image: String,
) -> Result<Vec<DynamicObject>, serde_json::Error> {
    let part = Part::Server(tier);
    let mut children = vec![
        dynamic(&service_account::service_account(owner, part))?,
        dynamic(&service::tier(owner, tier))?,
    ];
    if let Some(budget) = pod_disruption_budget::pod_disruption_budget(owner, part, spec.replicas) {
        children.push(dynamic(&budget)?);
    }
    children.push(dynamic(&deployment::server(owner, tier, spec, image))?);
    Ok(children)
}

fn dynamic<K>(object: &K) -> Result<DynamicObject, serde_json::Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    serde_json::from_value(serde_json::to_value(object)?)
}
