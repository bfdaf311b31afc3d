//! Form of a resource in a document: it rejects what Kubernetes would ignore.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// `apiVersion` and `kind` of any resource; empty if missing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TypeMeta {
    #[serde(default)]
    pub(super) api_version: String,
    #[serde(default)]
    pub(super) kind: String,
}

/// Resource that rejects unknown fields. It accepts and ignores the status of a resource copied from a cluster.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "unread fields are declared so that they are not unknown")]
pub(super) struct StrictResource<S> {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    #[serde(deserialize_with = "strict_metadata")]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: S,
    status: Option<IgnoredAny>,
}

/// Deserializes the metadata strictly, because the Kubernetes type itself ignores misspelled fields.
fn strict_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    const METADATA_FIELDS: &[&str] = &[
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    let fields = serde_json::Map::deserialize(deserializer)?;
    if let Some(unknown) = fields
        .keys()
        .find(|field| !METADATA_FIELDS.contains(&field.as_str()))
    {
        return Err(D::Error::unknown_field(unknown, METADATA_FIELDS));
    }
    serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)
}
