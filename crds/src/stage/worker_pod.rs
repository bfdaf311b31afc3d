//! Pod settings of the workers.
//!
//! Used by the operator only: it adds them to the pod template, and the worker never reads them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pod_schema::{pod_template_schema, resources_schema};

/// Pod settings of the workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkerPod {
    /// Image of the worker. Default, also if empty: the operator's default worker image.
    #[schemars(length(max = 512))]
    pub image: String,

    /// Resource requests and limits of the worker container. Default: those of the operator.
    #[schemars(schema_with = "resources_schema")]
    pub resources: ResourceRequirements,

    /// Pod options, with the field names of a `PodTemplateSpec`. Only the listed fields are allowed.
    #[schemars(schema_with = "pod_template_schema")]
    pub pod_template: BTreeMap<String, Value>,
}
