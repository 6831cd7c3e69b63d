//! ServiceAccounts: one for each component, so that rights are given to one component alone.

use crate::component::Component;
use k8s_openapi::api::core::v1::ServiceAccount;
use zimage_crds::ZImageDeployment;

/// The component's account. Only the gateway talks to the API server, so only its pods carry a token.
pub(super) fn service_account(owner: &ZImageDeployment, component: Component) -> ServiceAccount {
    ServiceAccount {
        metadata: component.metadata_named(owner, component.account(owner)),
        automount_service_account_token: Some(component == Component::Gateway),
        ..ServiceAccount::default()
    }
}
