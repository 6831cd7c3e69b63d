//! The parts of a `ZImageDeployment`: their names and labels.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;
use zimage_crds::{Tier, ZImageDeployment, labels};

/// One of the workloads that a `ZImageDeployment` consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The server pods of a tier.
    Server(Tier),
    /// The gateway pods.
    Gateway,
}

impl Part {
    /// The name of the part's objects.
    pub fn name(self, owner: &ZImageDeployment) -> String {
        let suffix = match self {
            Self::Server(tier) => tier.as_str(),
            Self::Gateway => "gateway",
        };
        format!("{}-{suffix}", owner.name_any())
    }

    const fn component(self) -> &'static str {
        match self {
            Self::Server(_) => "server",
            Self::Gateway => "gateway",
        }
    }

    /// Labels that tell the part's pods from all others. They can never change: Deployments' selectors are immutable.
    pub fn selector_labels(self, owner: &ZImageDeployment) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            (labels::NAME.to_owned(), labels::NAME_VALUE.to_owned()),
            (labels::INSTANCE.to_owned(), owner.name_any()),
            (labels::COMPONENT.to_owned(), self.component().to_owned()),
        ]);
        if let Self::Server(tier) = self {
            labels.insert(labels::TIER.to_owned(), tier.as_str().to_owned());
        }
        labels
    }

    /// [`Part::selector_labels`] as a selector.
    pub fn selector(self, owner: &ZImageDeployment) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector_labels(owner)),
            ..LabelSelector::default()
        }
    }

    /// Labels of everything that belongs to the part.
    pub fn labels(self, owner: &ZImageDeployment) -> BTreeMap<String, String> {
        let mut labels = self.selector_labels(owner);
        labels.insert(
            labels::MANAGED_BY.to_owned(),
            labels::MANAGED_BY_VALUE.to_owned(),
        );
        labels
    }

    /// Metadata of an object of the part that has the part's name.
    pub fn metadata(self, owner: &ZImageDeployment) -> ObjectMeta {
        self.metadata_named(owner, self.name(owner))
    }

    /// Metadata of an object of the part that has a name of its own.
    pub fn metadata_named(self, owner: &ZImageDeployment, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: owner.namespace(),
            labels: Some(self.labels(owner)),
            owner_references: owner.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }
}
