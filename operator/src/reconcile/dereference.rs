//! What exists of a deployment: its children and its pods, out of the caches.

use super::build::{computes_on_gpu, is_of};
use super::kubelet::Obstacles;
use crate::component::{Component, DeploymentRef};
use crate::decide::rollout::Running;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zimage_crds::ZImageDeployment;

/// The caches that the watches keep current.
#[derive(Clone)]
pub struct Caches {
    /// The deployments.
    pub owners: Store<ZImageDeployment>,
    /// Their children, by kind.
    pub children: Vec<Children>,
    /// Pods of all deployments.
    pub pods: Store<Pod>,
}

/// The children of one kind.
#[derive(Clone)]
pub struct Children {
    /// The kind.
    pub kind: ApiResource,
    /// All that there are.
    pub objects: Store<DynamicObject>,
    /// Whether the API server has the kind.
    pub is_served: Arc<AtomicBool>,
}

/// What exists of one deployment.
#[derive(Default)]
pub struct Existing {
    /// Objects that it owns.
    pub children: Vec<Arc<DynamicObject>>,
    /// Pods of all its components.
    pub pods: Vec<Arc<Pod>>,
    /// What keeps pods from starting, as far as it was asked for.
    pub(super) obstacles: Obstacles,
}

impl Caches {
    /// The kinds of children that the API server does not have.
    pub fn lacking(&self) -> Vec<ApiResource> {
        let children = self.children.iter();
        children
            .filter(|of_kind| !of_kind.is_served.load(Ordering::Relaxed))
            .map(|of_kind| of_kind.kind.clone())
            .collect()
    }

    /// What exists of `owner`.
    pub fn existing(&self, owner: &ZImageDeployment) -> Existing {
        let namespace = owner.namespace();
        let uid = owner.uid();
        let is_child = |child: &DynamicObject| {
            controller_of(child).is_some_and(|owner| Some(&owner.uid) == uid.as_ref())
        };
        let labels = Component::Gateway.selector_labels(owner);
        let instance = labels.get(zimage_crds::labels::INSTANCE);
        let is_pod = |pod: &Pod| {
            pod.namespace() == namespace
                && pod.labels().get(zimage_crds::labels::INSTANCE) == instance
        };
        Existing {
            children: self
                .children
                .iter()
                .flat_map(|of_kind| of_kind.objects.state_filter(is_child))
                .collect(),
            pods: self.pods.state_filter(is_pod),
            obstacles: Obstacles::default(),
        }
    }
}

impl Existing {
    /// The Deployment of a component.
    pub fn deployment(&self, owner: &ZImageDeployment, component: Component) -> Option<Deployment> {
        find_deployment(&self.children, &component.name(owner))
    }

    /// What the live Deployment of a component runs, in the component's own container: others may have put theirs beside it.
    pub fn running(&self, owner: &ZImageDeployment, component: Component) -> Option<Running> {
        let pod = self.deployment(owner, component)?.spec?.template.spec?;
        let mut containers = pod.containers.into_iter();
        let container = containers.find(|it| it.name == component.container())?;
        Some(Running {
            on_gpu: computes_on_gpu(&container),
            image: container.image,
        })
    }

    /// Whether a pod still uses an account, or the rights of one: of its account both have the name.
    pub fn is_in_use(&self, child: &DynamicObject) -> bool {
        let types = child.types.as_ref();
        let is_of_an_account = types
            .is_some_and(|types| ["ServiceAccount", "RoleBinding"].contains(&types.kind.as_str()));
        let name = child.name_any();
        is_of_an_account
            && self.pods().filter(|pod| !has_ended(pod)).any(|pod| {
                let spec = pod.spec.as_ref();
                spec.and_then(|spec| spec.service_account_name.as_ref()) == Some(&name)
            })
    }

    /// Pods of all components.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(AsRef::as_ref)
    }

    /// Pods of one component that are not being deleted and have not ended.
    pub fn pods_of(&self, owner: &ZImageDeployment, component: Component) -> Vec<&Pod> {
        let pods = self.selected(owner, component);
        pods.filter(|pod| !has_ended(pod)).collect()
    }

    /// Pods of one component that have ended and are left over, as evicted ones are.
    pub fn ended_pods_of(&self, owner: &ZImageDeployment, component: Component) -> Vec<&Pod> {
        let pods = self.selected(owner, component);
        pods.filter(|pod| has_ended(pod)).collect()
    }

    fn selected(
        &self,
        owner: &ZImageDeployment,
        component: Component,
    ) -> impl Iterator<Item = &Pod> {
        self.pods().filter(move |pod| {
            pod.meta().deletion_timestamp.is_none() && component.has_made(owner, pod)
        })
    }
}

/// The Deployment of this name.
pub(super) fn find_deployment(children: &[Arc<DynamicObject>], name: &str) -> Option<Deployment> {
    let kind = ApiResource::erase::<Deployment>(&());
    let mut children = children.iter();
    let child = children.find(|child| child.name_any() == name && is_of(&kind, child))?;
    DynamicObject::clone(child).try_parse().ok()
}

/// Whether none of a pod's containers will run again.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Which deployment a pod belongs to.
pub fn owner_of_pod(pod: &Pod) -> Option<DeploymentRef> {
    let name = pod.labels().get(zimage_crds::labels::INSTANCE)?;
    Some(DeploymentRef::new(name).within(&pod.namespace()?))
}

/// Which deployment controls a child.
pub fn owner_of_child(child: &DynamicObject) -> Option<DeploymentRef> {
    let owner = controller_of(child).filter(|owner| {
        owner.kind == ZImageDeployment::kind(&())
            && owner.api_version == ZImageDeployment::api_version(&())
    })?;
    Some(DeploymentRef::new(&owner.name).within(&child.namespace()?))
}

/// The one owner that acts on an object, if it has one.
pub fn controller_of(object: &DynamicObject) -> Option<&OwnerReference> {
    let mut owners = object.owner_references().iter();
    owners.find(|owner| owner.controller == Some(true))
}
