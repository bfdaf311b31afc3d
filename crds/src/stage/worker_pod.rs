//! Pod settings of the workers.
//!
//! Used by the operator only: it merges them into the pod template, and the worker never reads them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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

    /// Pod template that is merged into the operator's, such as `{spec: {nodeSelector: {disk: ssd}}}`.
    /// The container name `worker` selects the worker container.
    #[schemars(schema_with = "preserved_object_schema")]
    pub pod_template: BTreeMap<String, Value>,
}

/// Schema of requests and limits only, since the schema of the Kubernetes type repeats the documentation of
/// quantities for each of its maps.
fn resources_schema(_: &mut SchemaGenerator) -> Schema {
    let quantities = json!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "nullable": false},
    });
    let mut limits = quantities.clone();
    limits["description"] = "Resource limits of the container, such as `{memory: 256Mi}`.".into();
    let mut requests = quantities;
    requests["description"] =
        "Resource requests of the container, such as `{cpu: 500m, memory: 128Mi}`.".into();
    json_schema!({"type": "object", "properties": {"limits": limits, "requests": requests}})
}

/// Schema of an object whose unknown fields the API server preserves.
fn preserved_object_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
