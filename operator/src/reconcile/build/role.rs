//! The gateway's rights.

use super::part::Part;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use kube::ResourceExt;
use zimage_crds::ZImageDeployment;

/// Reading the one `ZImageDeployment` and the namespace's EndpointSlices.
///
/// A watch for one name is allowed by `resourceNames` when it carries the field selector `metadata.name`
/// (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources>).
pub(super) fn gateway(owner: &ZImageDeployment) -> Role {
    let read = || ["get", "list", "watch"].map(str::to_owned).to_vec();
    Role {
        metadata: Part::Gateway.metadata_named(owner, Part::Gateway.account(owner)),
        rules: Some(vec![
            PolicyRule {
                api_groups: Some(vec!["zimage.dev".to_owned()]),
                resources: Some(vec!["zimagedeployments".to_owned()]),
                resource_names: Some(vec![owner.name_any()]),
                verbs: read(),
                ..PolicyRule::default()
            },
            PolicyRule {
                api_groups: Some(vec!["discovery.k8s.io".to_owned()]),
                resources: Some(vec!["endpointslices".to_owned()]),
                verbs: read(),
                ..PolicyRule::default()
            },
        ]),
    }
}
