//! Who has the gateway's rights.

use crate::component::Component;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::ResourceExt;
use zimage_crds::ZImageDeployment;

/// What `role` allows, in its own namespace, for the gateway's account.
pub(super) fn gateway(owner: &ZImageDeployment, role: RoleRef) -> RoleBinding {
    let name = Component::Gateway.account(owner);
    RoleBinding {
        metadata: Component::Gateway.metadata_named(owner, name.clone()),
        role_ref: role,
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: owner.namespace(),
            ..Subject::default()
        }]),
    }
}
