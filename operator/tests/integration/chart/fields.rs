//! Detects fields that Kubernetes does not know.
//!
//! The types of `k8s-openapi` ignore unknown fields, so such a field is missing after a round trip.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
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

/// Kinds of the Prometheus operator. They have no types here; snapshots cover them.
const KINDS_WITHOUT_TYPE: [&str; 3] = ["ServiceMonitor", "PodMonitor", "PrometheusRule"];

/// Returns the fields of the object that are unknown, missing or of the wrong type.
pub(crate) fn field_errors(object: &Value) -> Vec<String> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    match (api_version, kind) {
        ("v1", "ConfigMap") => round_trip_errors::<ConfigMap>(object),
        ("v1", "Pod") => round_trip_errors::<Pod>(object),
        ("v1", "Service") => round_trip_errors::<Service>(object),
        ("v1", "ServiceAccount") => round_trip_errors::<ServiceAccount>(object),
        ("apps/v1", "Deployment") => round_trip_errors::<Deployment>(object),
        ("batch/v1", "Job") => round_trip_errors::<Job>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => round_trip_errors::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => round_trip_errors::<PodDisruptionBudget>(object),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            round_trip_errors::<ValidatingAdmissionPolicy>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            round_trip_errors::<ValidatingAdmissionPolicyBinding>(object)
        }
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => round_trip_errors::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            round_trip_errors::<ClusterRoleBinding>(object)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => round_trip_errors::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => round_trip_errors::<RoleBinding>(object),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            round_trip_errors::<CustomResourceDefinition>(object)
        }
        ("monitoring.coreos.com/v1", kind) if KINDS_WITHOUT_TYPE.contains(&kind) => Vec::new(),
        _ => vec![format!("unknown kind {api_version}/{kind}")],
    }
}

fn round_trip_errors<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    match serde_path_to_error::deserialize::<_, T>(object) {
        Ok(parsed) => collect_differences("", object, &json!(parsed), &mut errors),
        Err(error) => errors.push(error.to_string()),
    }
    errors
}

fn collect_differences(path: &str, original: &Value, parsed: &Value, errors: &mut Vec<String>) {
    match (original, parsed) {
        (Value::Object(original), Value::Object(parsed)) => {
            for (field, value) in original {
                let path = format!("{path}.{field}");
                match parsed.get(field) {
                    Some(parsed) => collect_differences(&path, value, parsed, errors),
                    None => errors.push(format!("{path} is an unknown field")),
                }
            }
        }
        (Value::Array(original), Value::Array(parsed)) if original.len() == parsed.len() => {
            for (index, (original, parsed)) in original.iter().zip(parsed).enumerate() {
                collect_differences(&format!("{path}[{index}]"), original, parsed, errors);
            }
        }
        // Bounds in a schema are plain numbers: 1 and 1.0 are equal.
        (Value::Number(original), Value::Number(parsed)) if original.as_f64() == parsed.as_f64() => {}
        _ if original == parsed => {}
        _ => errors.push(format!("{path} is {original}, parsed as {parsed}")),
    }
}
