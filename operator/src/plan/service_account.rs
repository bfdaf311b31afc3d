//! The identity of the workers: one that may do nothing, and has no token.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::validate::Valid;

pub(super) fn plan(valid: &Valid<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: super::metadata(valid),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
