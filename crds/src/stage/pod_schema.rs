//! Schema of the pod settings: structural, so that the API server drops or, with strict validation, rejects other fields.
//!
//! Never contains a rule that [`super::validate()`] does not repeat.

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{
    names::{LABEL_NAME_PATTERN, MAX_LABEL_NAME_LENGTH, MAX_OBJECT_NAME_LENGTH, OBJECT_NAME_PATTERN},
    pod_template::{FORBIDDEN_ANNOTATIONS, SYSTEM_PRIORITY_PREFIX, WORKER_CONTAINER},
    rules::{message, rule},
};

/// Maximum number of items of a list, which bounds the cost of its rules.
const MAX_ITEMS: u32 = 32;

/// Schema of requests and limits only, since the schema of the Kubernetes type repeats the documentation of
/// quantities for each of its maps.
pub(super) fn resources_schema(_: &mut SchemaGenerator) -> Schema {
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

/// Schema of the allowed fields of a pod template.
pub(super) fn pod_template_schema(generator: &mut SchemaGenerator) -> Schema {
    let annotations_rule = FORBIDDEN_ANNOTATIONS.map(|prefix| format!("!key.startsWith('{prefix}')"));
    let annotations_rule = format!("self.all(key, {})", annotations_rule.join(" && "));
    let mut annotations = string_map(
        "Additional annotations; those of the operator take precedence.",
        4096,
    );
    annotations["x-kubernetes-validations"] = json!([rule(&annotations_rule, message::ANNOTATION)]);
    let metadata = json!({
        "type": "object",
        "description": "Metadata of the pods.",
        "properties": {
            "annotations": annotations,
            "labels": string_map("Additional labels; those of the operator take precedence.", 63),
        },
    });
    json_schema!({"type": "object", "properties": {"metadata": metadata, "spec": pod_options(generator)}})
}

fn pod_options(generator: &mut SchemaGenerator) -> Value {
    let mut priority_class = object_name("Priority class of the pods; not one with the prefix `system-`.");
    let expression = format!("!self.startsWith('{SYSTEM_PRIORITY_PREFIX}')");
    priority_class["x-kubernetes-validations"] = json!([rule(&expression, message::PRIORITY_CLASS)]);
    let pull_secret = json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": object_name("Name of the Secret.")},
    });
    let affinity = kubernetes_type::<Affinity>(generator, "Affinity of the pods, as in a pod.");
    json!({
        "type": "object",
        "description": "Options of the pods.",
        "properties": {
            "affinity": affinity,
            "containers": list("Options of the container `worker`; no other item is allowed.", 1, &worker_container()),
            "imagePullSecrets": list("Image pull Secrets, in addition to the operator's.", MAX_ITEMS, &pull_secret),
            "nodeSelector": string_map("Labels of the nodes for the pods.", 63),
            "priorityClassName": priority_class,
            "serviceAccountName": object_name(
                "ServiceAccount of the pods, without its token. It must have the annotation \
                 `streamstage.dev/allow-stages: \"true\"`. Default: one of the operator.",
            ),
            "tolerations": list(
                "Tolerations, in addition to the operator's, as in a pod.",
                MAX_ITEMS,
                &kubernetes_type::<Toleration>(generator, "Toleration."),
            ),
            "topologySpreadConstraints": list(
                "Topology spread constraints, in addition to the operator's, as in a pod.",
                MAX_ITEMS,
                &kubernetes_type::<TopologySpreadConstraint>(generator, "Topology spread constraint."),
            ),
            "volumes": list("Additional volumes, each a `configMap` or an `emptyDir`.", MAX_ITEMS, &volume()),
        },
    })
}

fn worker_container() -> Value {
    let resources = json!({
        "type": "object",
        "description": "Resource requests and limits; `spec.worker.resources` takes precedence.",
        "properties": {
            "limits": quantity_map("Resource limits."),
            "requests": quantity_map("Resource requests."),
        },
    });
    let variable = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "Name of the variable.", "minLength": 1, "maxLength": 253, "pattern": "^[!-<>-~]+$"},
            "value": {"type": "string", "description": "Literal value.", "maxLength": 32768},
        },
    });
    let mut mount_path = json!({"type": "string", "minLength": 2, "maxLength": 512, "pattern": "^/[^:]+$"});
    mount_path["description"] = "Absolute path, outside of `/etc/streamstage`.".into();
    let expression = "!(self + '/').startsWith('/etc/streamstage/') && self != '/etc' && \
                      !self.matches('//|/$|/[.][.]?(/|$)')";
    mount_path["x-kubernetes-validations"] = json!([rule(expression, message::MOUNT_PATH)]);
    let mount = json!({
        "type": "object",
        "required": ["name", "mountPath"],
        "properties": {
            "mountPath": mount_path,
            "name": label_name("Name of one of the volumes of the pod template."),
            "readOnly": {"type": "boolean", "description": "True to mount without write access."},
        },
    });
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "env": list("Additional environment variables, with literal values.", 64, &variable),
            "name": {"type": "string", "description": "`worker`.", "enum": [WORKER_CONTAINER]},
            "resources": resources,
            "volumeMounts": list("Mounts of the additional volumes.", MAX_ITEMS, &mount),
        },
    })
}

fn volume() -> Value {
    let mode = |description: &str| json!({"type": "integer", "description": description, "minimum": 0, "maximum": 511});
    let item = json!({
        "type": "object",
        "required": ["key", "path"],
        "properties": {
            "key": {"type": "string", "description": "Key in the ConfigMap.", "maxLength": 253},
            "mode": mode("Mode of the file."),
            "path": {"type": "string", "description": "Relative path of the file.", "maxLength": 512},
        },
    });
    let config_map = json!({
        "type": "object",
        "description": "Content of a ConfigMap in the namespace of the stage.",
        "required": ["name"],
        "properties": {
            "defaultMode": mode("Mode of the files."),
            "items": list("Keys to mount. Default: all.", MAX_ITEMS, &item),
            "name": object_name("Name of the ConfigMap."),
            "optional": {"type": "boolean", "description": "True if the ConfigMap may be missing."},
        },
    });
    let empty_dir = json!({
        "type": "object",
        "description": "Empty folder that lives as long as the pod.",
        "properties": {
            "medium": {"type": "string", "description": "`Memory` for a file system in memory.", "enum": ["", "Memory"]},
            "sizeLimit": {"x-kubernetes-int-or-string": true, "nullable": false, "description": "Maximum size."},
        },
    });
    let mut name = label_name("Name of the volume; not `document`, and not with the prefix `secret-`.");
    let free = rule(
        "self != 'document' && !self.startsWith('secret-')",
        message::VOLUME_NAME,
    );
    name["x-kubernetes-validations"] = json!([free]);
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {"configMap": config_map, "emptyDir": empty_dir, "name": name},
        "x-kubernetes-validations": [rule("has(self.configMap) != has(self.emptyDir)", message::VOLUME_KIND)],
    })
}

fn object_name(description: &str) -> Value {
    json!({
        "type": "string",
        "description": description,
        "minLength": 1,
        "maxLength": MAX_OBJECT_NAME_LENGTH,
        "pattern": OBJECT_NAME_PATTERN,
    })
}

fn label_name(description: &str) -> Value {
    json!({
        "type": "string",
        "description": description,
        "minLength": 1,
        "maxLength": MAX_LABEL_NAME_LENGTH,
        "pattern": LABEL_NAME_PATTERN,
    })
}

fn string_map(description: &str, max_length: u32) -> Value {
    json!({
        "type": "object",
        "description": description,
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": max_length},
    })
}

fn quantity_map(description: &str) -> Value {
    json!({
        "type": "object",
        "description": description,
        "maxProperties": 32,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "nullable": false},
    })
}

fn list(description: &str, max_items: u32, item: &Value) -> Value {
    json!({"type": "array", "description": description, "maxItems": max_items, "items": item})
}

/// Schema of a Kubernetes type without `null`, and with the first sentence of each description: the whole text would
/// triple the CRD.
fn kubernetes_type<T: JsonSchema>(generator: &mut SchemaGenerator, description: &str) -> Value {
    let mut schema = Value::from(T::json_schema(generator));
    simplify(&mut schema);
    schema["description"] = description.into();
    schema
}

fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            if let Some(Value::String(text)) = keywords.get_mut("description") {
                let end = text.find(". ").map_or(text.len(), |end| end + 1);
                text.truncate(end);
            }
            keywords.retain(|keyword, value| keyword != "nullable" || *value != json!(true));
            keywords.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}
