//! The document that the workers read, without what the operator alone uses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::validate::Valid;

/// The key of the document.
pub(super) const DOCUMENT: &str = "stage.yaml";

pub(super) fn plan(valid: &Valid<'_>) -> ConfigMap {
    ConfigMap {
        metadata: super::metadata(valid),
        data: Some(BTreeMap::from([(DOCUMENT.to_owned(), valid.document.clone())])),
        ..ConfigMap::default()
    }
}
