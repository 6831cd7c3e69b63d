//! The components of a `ZImageDeployment`: their names and labels.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use zimage_crds::{Tier, ZImageDeployment, labels};

/// The name of a deployment.
pub type DeploymentRef = ObjectRef<ZImageDeployment>;

/// Label that a Deployment gives to its ReplicaSets and their pods; its value ends the ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// One of the workloads that a `ZImageDeployment` consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The server pods of a tier.
    Server(Tier),
    /// The gateway pods.
    Gateway,
}

impl Component {
    /// The name of the component's objects.
    pub fn name(self, owner: &ZImageDeployment) -> String {
        self.name_of(&owner.name_any())
    }

    /// The name of the component's objects in a deployment of this name.
    pub fn name_of(self, deployment: &str) -> String {
        format!("{deployment}-{}", self.suffix())
    }

    /// The name of the component's ServiceAccount, and of its rights. Nobody would give one by chance: an account of somebody else
    /// must never be in the place of the component's.
    pub fn account(self, owner: &ZImageDeployment) -> String {
        let name = self.name(owner);
        let of = format!("{}/{name}", owner.namespace().unwrap_or_default());
        let hash = Sha256::digest(of.as_bytes());
        let hash: String = hash
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("zimage-{name}-{hash}")
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Server(tier) => tier.as_str(),
            Self::Gateway => "gateway",
        }
    }

    /// The name of the container that holds the component's program.
    pub const fn container(self) -> &'static str {
        self.kind()
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Server(_) => "server",
            Self::Gateway => "gateway",
        }
    }

    /// Labels that tell the component's pods from all others. They can never change: Deployments' selectors are immutable.
    pub fn selector_labels(self, owner: &ZImageDeployment) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            (labels::NAME.to_owned(), labels::NAME_VALUE.to_owned()),
            (labels::INSTANCE.to_owned(), owner.name_any()),
            (labels::COMPONENT.to_owned(), self.kind().to_owned()),
        ]);
        if let Self::Server(tier) = self {
            labels.insert(labels::TIER.to_owned(), tier.as_str().to_owned());
        }
        labels
    }

    /// [`Component::selector_labels`] as a selector.
    pub fn selector(self, owner: &ZImageDeployment) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector_labels(owner)),
            ..LabelSelector::default()
        }
    }

    /// Labels of everything that belongs to the component.
    pub fn labels(self, owner: &ZImageDeployment) -> BTreeMap<String, String> {
        let mut labels = self.selector_labels(owner);
        labels.insert(
            labels::MANAGED_BY.to_owned(),
            labels::MANAGED_BY_VALUE.to_owned(),
        );
        labels
    }

    /// Whether a pod is one of the component's: it has the labels, and the ReplicaSet that made it has the name of one of the
    /// component's Deployment. Labels alone could be given to any pod, which would then be read and counted; a pod that names a
    /// ReplicaSet which has not made it is collected as garbage.
    pub fn has_made(self, owner: &ZImageDeployment, pod: &Pod) -> bool {
        let labels = pod.labels();
        let is_selected = self
            .selector_labels(owner)
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        let Some(hash) = labels.get(TEMPLATE_HASH) else {
            return false;
        };
        let replica_set = format!("{}-{hash}", self.name(owner));
        let is_its_controller = |maker: &OwnerReference| {
            maker.controller == Some(true)
                && maker.kind == "ReplicaSet"
                && maker.name == replica_set
        };
        is_selected && pod.owner_references().iter().any(is_its_controller)
    }

    /// Metadata of an object of the component that has the component's name.
    pub fn metadata(self, owner: &ZImageDeployment) -> ObjectMeta {
        self.metadata_named(owner, self.name(owner))
    }

    /// Metadata of an object of the component that has a name of its own.
    pub fn metadata_named(self, owner: &ZImageDeployment, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: owner.namespace(),
            labels: Some(self.labels(owner)),
            owner_references: controller(owner).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(tier) => write!(formatter, "{tier} tier"),
            Self::Gateway => formatter.write_str("gateway"),
        }
    }
}

/// A deployment that is deleted in the foreground goes after its children.
fn controller(owner: &ZImageDeployment) -> Option<OwnerReference> {
    Some(OwnerReference {
        block_owner_deletion: Some(true),
        ..owner.controller_owner_ref(&())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_with_the_labels_alone_is_none_of_ours() {
        let tier = json!({"model": {"variant": "Turbo", "source": {"persistentVolumeClaim": {"claimName": "m"}}}});
        let owner: ZImageDeployment = serde_json::from_value(json!({
            "apiVersion": "zimage.dev/v1alpha1", "kind": "ZImageDeployment",
            "metadata": {"name": "fox", "namespace": "art"}, "spec": {"primary": tier},
        }))
        .unwrap();
        let component = Component::Server(Tier::Primary);
        let made_by = |kind: &str, name: &str, is_controller: bool| -> Pod {
            let mut labels = component.labels(&owner);
            labels.insert(TEMPLATE_HASH.to_owned(), "5d9c".to_owned());
            let maker = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": is_controller});
            serde_json::from_value(
                json!({"metadata": {"labels": labels, "ownerReferences": [maker]}}),
            )
            .unwrap()
        };
        assert!(component.has_made(&owner, &made_by("ReplicaSet", "fox-primary-5d9c", true)));
        for (kind, name, is_controller) in [
            ("ReplicaSet", "fox-primary-5d9c", false),
            ("ReplicaSet", "fox-primary-other", true),
            ("ReplicaSet", "rat-5d9c", true),
            ("Job", "fox-primary-5d9c", true),
        ] {
            assert!(
                !component.has_made(&owner, &made_by(kind, name, is_controller)),
                "{kind} {name}"
            );
        }
        let mut alone = made_by("ReplicaSet", "fox-primary-5d9c", true);
        alone.metadata.owner_references = None;
        assert!(!component.has_made(&owner, &alone));
        assert!(
            !Component::Gateway.has_made(&owner, &made_by("ReplicaSet", "fox-gateway-5d9c", true))
        );
    }
}
