//! ConfigMap with the stage file of the workers, without the fields that only the operator uses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata::metadata;
use crate::validate::Valid;

/// Key of the stage file, and its file name in the pod.
pub(super) const STAGE_FILE: &str = "stage.yaml";

pub(super) fn plan(valid: &Valid<'_>) -> ConfigMap {
    ConfigMap {
        metadata: metadata(valid),
        data: Some(BTreeMap::from([(STAGE_FILE.to_owned(), valid.document.clone())])),
        ..ConfigMap::default()
    }
}
