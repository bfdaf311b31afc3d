//! Step 2 of a reconcile: checks that the objects of the stage can be planned.
//!
//! Does no I/O. Planning cannot fail: every check of the stage and of what it refers to is here.

use crds::StreamStage;
use crds::document::render_worker_document;
use crds::stage::validate as validate_spec;
use crds::status::Reason;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::observe::{Observed, SecretKeys};
use crate::owned;

/// Stage that passed every check, with what planning derives from it.
#[derive(Clone, Debug)]
pub struct Valid<'a> {
    /// The stage itself.
    pub stage: &'a StreamStage,
    /// Owner reference of the owned objects: they are garbage-collected with the stage.
    pub owner: OwnerReference,
    /// Stage file of the workers, as YAML.
    pub document: String,
    /// Digest of the referenced Secrets; `None` if the stage references none of them.
    pub secrets_digest: Option<String>,
    /// `spec.worker.podTemplate`, which is merged into the pod template.
    pub overlay: PodTemplateSpec,
}

/// Terminal error: the stage is stalled until a user fixes the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason of the condition `Stalled`.
    pub reason: Reason,
    /// Cause with the field, and the remedy.
    pub message: String,
}

/// Checks everything that planning relies on.
///
/// # Errors
/// Returns the first terminal error; violations of the spec are reported together.
pub fn validate(observed: &Observed) -> Result<Valid<'_>, Refusal> {
    let stage = &observed.stage;
    let invalid = |message: String| Refusal {
        reason: Reason::ConfigInvalid,
        message,
    };
    validate_spec(stage).map_err(|violations| {
        let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
        invalid(violations.join("; "))
    })?;
    let overlay = parse_overlay(stage).map_err(invalid)?;
    let document = render_worker_document(stage)
        .map_err(|error| invalid(format!("cannot write the stage file as YAML: {error}")))?;
    let owner = stage.controller_owner_ref(&()).ok_or_else(|| {
        invalid("metadata.uid is missing: only a stage in a cluster can own objects".to_owned())
    })?;
    check_consumer_group(observed)?;
    check_object_names(observed)?;
    Ok(Valid {
        stage,
        owner,
        document,
        secrets_digest: secrets_digest(observed)?,
        overlay,
    })
}

/// Parses `spec.worker.podTemplate`. The CRD allows any field there, and parsing drops unknown ones silently; so they
/// are found by a comparison with the result.
fn parse_overlay(stage: &StreamStage) -> Result<PodTemplateSpec, String> {
    let given = Value::Object(stage.spec.worker.pod_template.clone().into_iter().collect());
    let parsed: PodTemplateSpec = serde_json::from_value(given.clone()).map_err(|error| {
        format!("spec.worker.podTemplate is not a valid pod template: {error}; correct it")
    })?;
    let recognized = serde_json::to_value(&parsed).unwrap_or_default();
    match unknown_field(&given, &recognized) {
        None => Ok(parsed),
        Some(path) => Err(format!(
            "spec.worker.podTemplate has the unknown field `{}`: remove it",
            &path[1..]
        )),
    }
}

/// Path of the first field of `given` that `recognized` lacks, such as `.spec.nodeSelectors`.
fn unknown_field(given: &Value, recognized: &Value) -> Option<String> {
    match (given, recognized) {
        (Value::Object(given), recognized) => {
            given
                .iter()
                .filter(|(_, value)| !value.is_null())
                .find_map(|(field, value)| {
                    let inner = recognized
                        .get(field)
                        .map_or(Some(String::new()), |recognized| unknown_field(value, recognized));
                    inner.map(|inner| format!(".{field}{inner}"))
                })
        }
        (Value::Array(given), Value::Array(recognized)) => {
            let mut pairs = given.iter().zip(recognized).enumerate();
            pairs.find_map(|(index, (given, recognized))| {
                unknown_field(given, recognized).map(|inner| format!("[{index}]{inner}"))
            })
        }
        _ => None,
    }
}

/// Checks that no older stage consumes the same topic in the same group: each would get only a part of the partitions.
fn check_consumer_group(observed: &Observed) -> Result<(), Refusal> {
    let Some(older) = &observed.conflicting_stage else {
        return Ok(());
    };
    let source = &observed.stage.spec.source;
    Err(Refusal {
        reason: Reason::ConsumerGroupConflict,
        message: format!(
            "spec.source.consumerGroup: the older stage {older} consumes {} with the same group {}; \
             recreate this stage with another group, or delete the older one",
            source.topic,
            observed.stage.consumer_group()
        ),
    })
}

/// Checks that no object with the name of an owned object has another owner: it must not be overwritten.
fn check_object_names(observed: &Observed) -> Result<(), Refusal> {
    let owned = &observed.owned;
    let objects = [
        ("Deployment", owned.deployment.as_ref().map(Resource::meta)),
        ("ConfigMap", owned.config_map.as_ref().map(Resource::meta)),
        (
            "ServiceAccount",
            owned.service_account.as_ref().map(Resource::meta),
        ),
        ("Service", owned.service.as_ref().map(Resource::meta)),
        (
            "PodDisruptionBudget",
            owned.disruption_budget.as_ref().map(Resource::meta),
        ),
    ];
    let is_foreign = |meta: &ObjectMeta| !owned::is_owned_by(&observed.stage, meta);
    match objects.into_iter().find(|(_, meta)| meta.is_some_and(is_foreign)) {
        None => Ok(()),
        Some((kind, _)) => Err(Refusal {
            reason: Reason::ResourceExists,
            message: format!(
                "metadata.name: a {kind} named {} exists and is not owned by this stage; \
                 delete it, or rename the stage",
                owned::object_name(&observed.stage)
            ),
        }),
    }
}

/// Digest of the referenced Secrets; `None` if the stage references none of them. Fails if a Secret or a required key
/// is missing.
fn secrets_digest(observed: &Observed) -> Result<Option<String>, Refusal> {
    let referenced = observed.stage.referenced_secrets();
    if referenced.is_empty() {
        return Ok(None);
    }
    let missing = |message: String| Refusal {
        reason: Reason::SecretNotFound,
        message,
    };
    let mut digest = Sha256::new();
    for (field, name) in referenced {
        let Some(keys) = observed.secrets.get(name).and_then(Option::as_ref) else {
            return Err(missing(format!(
                "{field}: Secret {name} not found in the namespace of the stage; create it"
            )));
        };
        if let Some(key) = missing_key(field, keys) {
            return Err(missing(format!(
                "{field}: Secret {name} has no key {key}; add it"
            )));
        }
        digest.update(&keys.digest);
    }
    Ok(Some(owned::short_digest(&digest.finalize())))
}

/// First key that the Secret referenced by `field` requires and lacks.
fn missing_key(field: &str, keys: &SecretKeys) -> Option<&'static str> {
    let has = |key: &str| keys.names.iter().any(|name| name == key);
    let required: &[&'static str] = match field {
        "spec.warehouse.authSecretName" => &["username"],
        "spec.referenceData.authSecretName" => &["password"],
        _ if has("username") => &["password"],
        _ => &[],
    };
    required.iter().copied().find(|key| !has(key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_unknown_to_kubernetes_is_found_at_any_depth() {
        let given =
            json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "valeu": "1"}]}]}});
        let recognized =
            json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A"}]}], "more": 1}});
        assert_eq!(
            unknown_field(&given, &recognized).as_deref(),
            Some(".spec.containers[0].env[0].valeu")
        );
        assert_eq!(unknown_field(&recognized["spec"], &recognized["spec"]), None);
    }

    #[test]
    fn each_secret_needs_the_keys_of_its_dependency() {
        for (field, names, missing) in [
            (
                "spec.warehouse.authSecretName",
                &["password"][..],
                Some("username"),
            ),
            ("spec.warehouse.authSecretName", &["username"], None),
            (
                "spec.referenceData.authSecretName",
                &["username"],
                Some("password"),
            ),
            ("spec.referenceData.authSecretName", &["password"], None),
            ("spec.source.authSecretName", &["username"], Some("password")),
            ("spec.source.authSecretName", &["ca.crt"], None),
        ] {
            let keys = SecretKeys {
                names: names.iter().map(ToString::to_string).collect(),
                ..SecretKeys::default()
            };
            assert_eq!(missing_key(field, &keys), missing, "{field} {names:?}");
        }
    }
}
