//! `ServiceAccount` of the workers, without permissions and without a token: workers never call the Kubernetes API.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata::metadata;
use crate::validate::Valid;

pub(super) fn plan(valid: &Valid<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(valid),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
