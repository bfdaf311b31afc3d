//! Metadata that all owned objects share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::owned::{labels, object_name};
use crate::validate::Valid;

/// Name, namespace, labels and owner reference, the same for each of the five objects.
pub(super) fn metadata(valid: &Valid<'_>) -> ObjectMeta {
    ObjectMeta {
        name: Some(object_name(valid.stage)),
        namespace: Some(valid.stage.namespace().to_owned()),
        labels: Some(labels(valid.stage)),
        owner_references: Some(vec![valid.owner.clone()]),
        ..ObjectMeta::default()
    }
}
