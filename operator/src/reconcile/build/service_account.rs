//! ServiceAccounts: one for each part, so that rights are given to one part alone.

use super::part::Part;
use k8s_openapi::api::core::v1::ServiceAccount;
use zimage_crds::ZImageDeployment;

/// The part's account. Only the gateway talks to the API server, so only its pods carry a token.
pub(super) fn service_account(owner: &ZImageDeployment, part: Part) -> ServiceAccount {
    ServiceAccount {
        metadata: part.metadata_named(owner, part.account(owner)),
        automount_service_account_token: Some(part == Part::Gateway),
        ..ServiceAccount::default()
    }
}
