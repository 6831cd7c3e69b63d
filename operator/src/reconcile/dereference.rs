//! What exists of a deployment: its children and its pods, out of the caches.

use super::build::{Images, Part, computes_on_gpu, kinds};
use super::kubelet::Obstacles;
use crate::args::DefaultImages;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use zimage_crds::{Tier, TierSpec, ZImageDeployment};

/// The caches that the watches keep current.
#[derive(Clone)]
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
    /// What keeps pods from starting, as far as it was asked for.
    pub(super) obstacles: Obstacles,
}

impl Caches {
    /// What exists of `owner`.
    pub fn existing(&self, owner: &ZImageDeployment) -> Existing {
        let namespace = owner.namespace();
        let uid = owner.uid();
        let is_child = |child: &DynamicObject| {
            controller_of(child).is_some_and(|owner| Some(&owner.uid) == uid.as_ref())
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
            obstacles: Obstacles::default(),
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

    /// Pods of all parts.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(AsRef::as_ref)
    }

    /// Pods of one part that are not being deleted and have not ended.
    pub fn pods_of(&self, owner: &ZImageDeployment, part: Part) -> Vec<&Pod> {
        let pods = self.selected(owner, part);
        pods.filter(|pod| !has_ended(pod)).collect()
    }

    /// Pods of one part that have ended and are left over, as evicted ones are.
    pub fn ended_pods_of(&self, owner: &ZImageDeployment, part: Part) -> Vec<&Pod> {
        let pods = self.selected(owner, part);
        pods.filter(|pod| has_ended(pod)).collect()
    }

    fn selected(&self, owner: &ZImageDeployment, part: Part) -> impl Iterator<Item = &Pod> {
        self.pods()
            .filter(move |pod| pod.meta().deletion_timestamp.is_none() && part.has_made(owner, pod))
    }

    /// The image of each part: the spec's; without one what runs already, so that an upgrade of the operator replaces no
    /// pod; for a new part, and for a tier that gets or loses its GPU, the default.
    pub fn images(&self, owner: &ZImageDeployment, defaults: &DefaultImages) -> Images {
        let running = |part: Part| self.running(&part.name(owner));
        let server = |tier: Tier, spec: Option<&TierSpec>| {
            let uses_gpu = spec.is_some_and(TierSpec::uses_gpu);
            let default = match uses_gpu {
                true => &defaults.server_cuda,
                false => &defaults.server,
            };
            // The image for the CPU has no CUDA libraries.
            let fits = |server: &Container| computes_on_gpu(server) == uses_gpu;
            let wanted = spec.and_then(|spec| spec.image.as_ref());
            choose(wanted, running(Part::Server(tier)).filter(fits), default)
        };
        let spec = &owner.spec;
        Images {
            primary: server(Tier::Primary, Some(&spec.primary)),
            fallback: server(Tier::Fallback, spec.fallback.as_ref()),
            gateway: choose(
                spec.gateway.image.as_ref(),
                running(Part::Gateway),
                &defaults.gateway,
            ),
        }
    }

    /// The container of a part's Deployment.
    fn running(&self, deployment: &str) -> Option<Container> {
        let child = self.children.iter().find(|child| {
            child.name_any() == deployment
                && child
                    .types
                    .as_ref()
                    .is_some_and(|types| types.kind == "Deployment")
        })?;
        let deployment: Deployment = DynamicObject::clone(child).try_parse().ok()?;
        let pod = deployment.spec?.template.spec?;
        pod.containers.into_iter().next()
    }
}

/// Whether none of a pod's containers will run again.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn choose(wanted: Option<&String>, running: Option<Container>, default: &str) -> String {
    wanted
        .cloned()
        .or_else(|| running?.image)
        .unwrap_or_else(|| default.to_owned())
}

/// Which deployment a pod belongs to.
pub fn owner_of_pod(pod: &Pod) -> Option<ObjectRef<ZImageDeployment>> {
    let name = pod.labels().get(zimage_crds::labels::INSTANCE)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

/// Which deployment controls a child.
pub fn owner_of_child(child: &DynamicObject) -> Option<ObjectRef<ZImageDeployment>> {
    let owner = controller_of(child).filter(|owner| {
        owner.kind == ZImageDeployment::kind(&())
            && owner.api_version == ZImageDeployment::api_version(&())
    })?;
    Some(ObjectRef::new(&owner.name).within(&child.namespace()?))
}

/// The one owner that acts on an object, if it has one.
pub fn controller_of(object: &DynamicObject) -> Option<&OwnerReference> {
    let mut owners = object.owner_references().iter();
    owners.find(|owner| owner.controller == Some(true))
}

/// What the API server needs to know of a child's kind.
pub fn kind_of(object: &DynamicObject) -> Option<kube::core::ApiResource> {
    let types = object.types.as_ref()?;
    kinds()
        .into_iter()
        .find(|kind| kind.kind == types.kind && kind.api_version == types.api_version)
}

#[cfg(test)]
mod tests {
    use super::super::build::{Desired, children};
    use super::*;
    use serde_json::{Value, json};

    fn owner(primary: Value) -> ZImageDeployment {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        let mut tier = json!({"model": {"variant": "Turbo", "source": source}});
        tier.as_object_mut()
            .unwrap()
            .extend(primary.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "zimage.dev/v1alpha1",
            "kind": "ZImageDeployment",
            "metadata": {"name": "fox", "namespace": "art"},
            "spec": {"primary": tier},
        }))
        .unwrap()
    }

    fn defaults(version: u32) -> DefaultImages {
        DefaultImages {
            server: format!("server:{version}"),
            server_cuda: format!("server-cuda:{version}"),
            gateway: format!("gateway:{version}"),
        }
    }

    /// What version 1 of the operator made of a spec.
    fn made_by_1(owner: &ZImageDeployment) -> Existing {
        let images = Existing::default().images(owner, &defaults(1));
        let desired = Desired {
            owner,
            images,
            gateway_account: None,
            peers: None,
        };
        Existing {
            children: children(&desired)
                .unwrap()
                .into_iter()
                .map(Arc::new)
                .collect(),
            ..Existing::default()
        }
    }

    /// The primary's image after version 2 of the operator met a spec where version 1 had made another.
    fn image(before: Value, after: Value) -> String {
        let existing = made_by_1(&owner(before));
        existing.images(&owner(after), &defaults(2)).primary
    }

    #[test]
    fn an_upgrade_of_the_operator_keeps_what_runs() {
        assert_eq!(image(json!({}), json!({})), "server:1");
        let gpu = json!({"gpu": {}});
        assert_eq!(image(gpu.clone(), gpu), "server-cuda:1");
        let existing = made_by_1(&owner(json!({})));
        let images = existing.images(&owner(json!({})), &defaults(2));
        assert_eq!(images.gateway, "gateway:1");
    }

    #[test]
    fn a_tier_that_gets_or_loses_its_gpu_takes_the_image_for_it() {
        assert_eq!(image(json!({}), json!({"gpu": {}})), "server-cuda:2");
        assert_eq!(image(json!({"gpu": {}}), json!({})), "server:2");
        let on_the_cpu = json!({"gpu": {}, "device": "Cpu"});
        assert_eq!(image(json!({"gpu": {}}), on_the_cpu), "server:2");
    }

    #[test]
    fn the_image_of_the_spec_is_taken_as_it_is() {
        let own = json!({"image": "mine:7"});
        assert_eq!(image(json!({}), own.clone()), "mine:7");
        assert_eq!(image(own, json!({})), "mine:7");
    }
}
