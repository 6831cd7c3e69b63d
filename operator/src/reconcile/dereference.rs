//! What exists of a deployment: its children and its pods, out of the caches.

use super::build::{Images, Part, kinds};
use crate::args::DefaultImages;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use zimage_crds::{Tier, TierSpec, ZImageDeployment};

/// The caches that the watches keep current.
pub struct Caches {
    /// One for each of [`kinds`], in that order.
    pub children: Vec<Store<DynamicObject>>,
    /// Pods of all deployments.
    pub pods: Store<Pod>,
}

/// What exists of one deployment.
#[derive(Default)]
pub struct Existing {
    /// Objects that it owns.
    pub children: Vec<Arc<DynamicObject>>,
    /// Pods of all its parts.
    pub pods: Vec<Arc<Pod>>,
}

impl Caches {
    /// What exists of `owner`.
    pub fn existing(&self, owner: &ZImageDeployment) -> Existing {
        let namespace = owner.namespace();
        let uid = owner.uid();
        let is_child = |child: &DynamicObject| {
            child
                .owner_references()
                .iter()
                .any(|reference| Some(&reference.uid) == uid.as_ref())
        };
        let labels = Part::Gateway.selector_labels(owner);
        let instance = labels.get(zimage_crds::labels::INSTANCE);
        let is_pod = |pod: &Pod| {
            pod.namespace() == namespace
                && pod.labels().get(zimage_crds::labels::INSTANCE) == instance
        };
        Existing {
            children: self
                .children
                .iter()
                .flat_map(|cache| cache.state_filter(is_child))
                .collect(),
            pods: self.pods.state_filter(is_pod),
        }
    }
}

impl Existing {
    /// The object of `desired`'s kind and name.
    pub fn same_as(&self, desired: &DynamicObject) -> Option<&Arc<DynamicObject>> {
        let kind = |object: &DynamicObject| object.types.as_ref().map(|types| types.kind.clone());
        self.children
            .iter()
            .find(|child| kind(child) == kind(desired) && child.name_any() == desired.name_any())
    }

    /// Pods of one part that are not being deleted.
    pub fn pods_of(&self, owner: &ZImageDeployment, part: Part) -> Vec<&Pod> {
        let selector = part.selector_labels(owner);
        let selected = |pod: &&Pod| {
            pod.meta().deletion_timestamp.is_none()
                && selector
                    .iter()
                    .all(|(key, value)| pod.labels().get(key) == Some(value))
        };
        self.pods
            .iter()
            .map(AsRef::as_ref)
            .filter(selected)
            .collect()
    }

    /// The image of each part: the spec's; without one what runs already, so that an upgrade of the operator replaces no
    /// pod; for a new part the default.
    pub fn images(&self, owner: &ZImageDeployment, defaults: &DefaultImages) -> Images {
        let choose = |part: Part, wanted: Option<&String>, default: &str| {
            wanted
                .cloned()
                .or_else(|| self.running_image(&part.name(owner)))
                .unwrap_or_else(|| default.to_owned())
        };
        let spec = &owner.spec;
        let server = |tier: Tier, spec: Option<&TierSpec>| {
            let default = match spec.is_some_and(TierSpec::uses_gpu) {
                true => &defaults.server_cuda,
                false => &defaults.server,
            };
            let wanted = spec.and_then(|spec| spec.image.as_ref());
            choose(Part::Server(tier), wanted, default)
        };
        Images {
            primary: server(Tier::Primary, Some(&spec.primary)),
            fallback: server(Tier::Fallback, spec.fallback.as_ref()),
            gateway: choose(
                Part::Gateway,
                spec.gateway.image.as_ref(),
                &defaults.gateway,
            ),
        }
    }

    fn running_image(&self, deployment: &str) -> Option<String> {
        let child = self.children.iter().find(|child| {
            child.name_any() == deployment
                && child
                    .types
                    .as_ref()
                    .is_some_and(|types| types.kind == "Deployment")
        })?;
        let deployment: Deployment = DynamicObject::clone(child).try_parse().ok()?;
        deployment
            .spec?
            .template
            .spec?
            .containers
            .into_iter()
            .next()?
            .image
    }
}

/// Which deployment a pod belongs to.
pub fn owner_of_pod(pod: &Pod) -> Option<ObjectRef<ZImageDeployment>> {
    let name = pod.labels().get(zimage_crds::labels::INSTANCE)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

/// Index of a kind in [`Caches::children`].
pub fn kind_of(object: &DynamicObject) -> Option<kube::core::ApiResource> {
    let types = object.types.as_ref()?;
    kinds()
        .into_iter()
        .find(|kind| kind.kind == types.kind && kind.api_version == types.api_version)
}
