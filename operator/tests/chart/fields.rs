//! Whether an object has only fields that Kubernetes knows.
//!
//! The types of `k8s-openapi` pass over an unknown field: read and written again, it is gone.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Objects of the Prometheus operator, whose types are not here: a snapshot shows them.
const FOREIGN: [&str; 3] = ["ServiceMonitor", "PodMonitor", "PrometheusRule"];

/// What is wrong with the fields of the object: unknown ones, missing ones and those of another type.
pub(crate) fn complaints(object: &Value) -> Vec<String> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    match (api_version, kind) {
        ("v1", "ConfigMap") => lost::<ConfigMap>(object),
        ("v1", "Pod") => lost::<Pod>(object),
        ("v1", "Service") => lost::<Service>(object),
        ("v1", "ServiceAccount") => lost::<ServiceAccount>(object),
        ("apps/v1", "Deployment") => lost::<Deployment>(object),
        ("batch/v1", "Job") => lost::<Job>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => lost::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => lost::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => lost::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => lost::<ClusterRoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => lost::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => lost::<RoleBinding>(object),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => lost::<CustomResourceDefinition>(object),
        ("monitoring.coreos.com/v1", kind) if FOREIGN.contains(&kind) => Vec::new(),
        _ => vec![format!("nobody knows {api_version}/{kind}")],
    }
}

fn lost<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<String> {
    let mut lost = Vec::new();
    match serde_path_to_error::deserialize::<_, T>(object) {
        Ok(known) => differences("", object, &json!(known), &mut lost),
        Err(error) => lost.push(error.to_string()),
    }
    lost
}

fn differences(path: &str, written: &Value, known: &Value, lost: &mut Vec<String>) {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            for (field, value) in written {
                let path = format!("{path}.{field}");
                match known.get(field) {
                    Some(known) => differences(&path, value, known, lost),
                    None => lost.push(format!("{path} is no field")),
                }
            }
        }
        (Value::Array(written), Value::Array(known)) if written.len() == known.len() => {
            for (index, (written, known)) in written.iter().zip(known).enumerate() {
                differences(&format!("{path}[{index}]"), written, known, lost);
            }
        }
        // A bound of a schema is a number without a form: 1 and 1.0 are one.
        (Value::Number(written), Value::Number(known)) if written.as_f64() == known.as_f64() => {}
        _ if written == known => {}
        _ => lost.push(format!("{path} is {written}, read as {known}")),
    }
}
