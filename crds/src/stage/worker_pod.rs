//! What the pods of a stage look like.
//!
//! Must never reach the worker: the operator turns this into a pod template.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The pods that run the stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkerPod {
    /// Image of the worker. Default, also when empty: the image that the operator was installed with.
    #[schemars(length(max = 512))]
    pub image: String,

    /// Requests and limits of the worker's container, as in a pod. Default: the operator's.
    #[schemars(schema_with = "resources")]
    pub resources: ResourceRequirements,

    /// A pod template that is merged into the one that the operator writes, such as
    /// `{spec: {nodeSelector: {disk: ssd}}}`. The name `worker` addresses the worker's container.
    #[schemars(schema_with = "preserved_object")]
    pub pod_template: BTreeMap<String, Value>,
}

/// The part of a container's resources that is offered here; the type's own schema repeats the manual of
/// quantities for each of its maps.
fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = json!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "nullable": false},
    });
    let mut limits = quantities.clone();
    limits["description"] =
        "The most of each resource that the container may use, such as `{memory: 256Mi}`.".into();
    let mut requests = quantities;
    requests["description"] =
        "What is set aside for the container, such as `{cpu: 500m, memory: 128Mi}`.".into();
    json_schema!({"type": "object", "properties": {"limits": limits, "requests": requests}})
}

/// An object whose fields the API server keeps without knowing them.
fn preserved_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
