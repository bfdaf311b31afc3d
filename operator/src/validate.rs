//! Second step: whether the stage can be kept as it stands. All failure is spent here.
//!
//! Must never reach the cluster. What passes can be planned without another question.

use crds::StreamStage;
use crds::document::worker_document;
use crds::stage::validate as violations;
use crds::status::Reason;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::observe::{Keys, Observed};
use crate::owned;

/// A stage that can be planned.
#[derive(Clone, Debug)]
pub struct Valid<'a> {
    /// The stage.
    pub stage: &'a StreamStage,
    /// What ties the objects to the stage, so that they go when it goes.
    pub owner: OwnerReference,
    /// The document that the workers read.
    pub document: String,
    /// Digest of the Secrets that the stage names; none when it names none.
    pub secrets: Option<String>,
    /// What the user merges into the pod template.
    pub overlay: PodTemplateSpec,
}

/// Why a stage cannot be kept, until a person changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason of the condition `Stalled`.
    pub reason: Reason,
    /// What is wrong, with the field, and what to do.
    pub message: String,
}

/// Checks everything that planning relies on.
///
/// # Errors
/// The first thing that stands in the way.
pub fn validate(observed: &Observed) -> Result<Valid<'_>, Refusal> {
    let stage = &observed.stage;
    let invalid = |message: String| Refusal {
        reason: Reason::ConfigInvalid,
        message,
    };
    violations(stage).map_err(|found| {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        invalid(found.join("; "))
    })?;
    let overlay = overlay(stage).map_err(invalid)?;
    let document =
        worker_document(stage).map_err(|error| invalid(format!("cannot be written as YAML: {error}")))?;
    let owner = stage.controller_owner_ref(&()).ok_or_else(|| {
        invalid("metadata.uid is missing: only a stage of a cluster can own objects".to_owned())
    })?;
    refuse_rival(observed)?;
    refuse_taken_names(observed)?;
    Ok(Valid {
        stage,
        owner,
        document,
        secrets: secrets_digest(observed)?,
        overlay,
    })
}

/// The user's pod template, with no field that Kubernetes does not know.
fn overlay(stage: &StreamStage) -> Result<PodTemplateSpec, String> {
    let given = Value::Object(stage.spec.worker.pod_template.clone().into_iter().collect());
    let typed: PodTemplateSpec = serde_json::from_value(given.clone())
        .map_err(|error| format!("spec.worker.podTemplate is no pod template: {error}; correct it"))?;
    let known = serde_json::to_value(&typed).unwrap_or_default();
    match lost(&given, &known) {
        None => Ok(typed),
        Some(path) => Err(format!(
            "spec.worker.podTemplate has the unknown field `{}`: remove it",
            &path[1..]
        )),
    }
}

/// The path of the first field of `given` that `known` lacks.
fn lost(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), known) => {
            given
                .iter()
                .filter(|(_, value)| !value.is_null())
                .find_map(|(field, value)| {
                    let inner = known
                        .get(field)
                        .map_or(Some(String::new()), |known| lost(value, known));
                    inner.map(|inner| format!(".{field}{inner}"))
                })
        }
        (Value::Array(given), Value::Array(known)) => {
            let mut pairs = given.iter().zip(known).enumerate();
            pairs.find_map(|(index, (given, known))| {
                lost(given, known).map(|inner| format!("[{index}]{inner}"))
            })
        }
        _ => None,
    }
}

fn refuse_rival(observed: &Observed) -> Result<(), Refusal> {
    let Some(rival) = &observed.rival else {
        return Ok(());
    };
    let source = &observed.stage.spec.source;
    Err(Refusal {
        reason: Reason::Conflict,
        message: format!(
            "spec.source.consumerGroup: the older stage {rival} reads {} with the same group {}; \
             create this stage anew with another group, or delete the older one",
            source.topic,
            observed.stage.consumer_group()
        ),
    })
}

/// Refuses to take over an object that the stage does not own.
fn refuse_taken_names(observed: &Observed) -> Result<(), Refusal> {
    let owned = &observed.owned;
    let found = [
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
    let is_foreign = |meta: &ObjectMeta| !owned::is_own(&observed.stage, meta);
    match found.into_iter().find(|(_, meta)| meta.is_some_and(is_foreign)) {
        None => Ok(()),
        Some((kind, _)) => Err(Refusal {
            reason: Reason::NameTaken,
            message: format!(
                "metadata.name: a {kind} named {} exists and is not this stage's own; rename one of them",
                owned::name(&observed.stage)
            ),
        }),
    }
}

/// The digest of the Secrets that the stage names, each with the keys that it must have.
fn secrets_digest(observed: &Observed) -> Result<Option<String>, Refusal> {
    let named = observed.stage.secrets();
    if named.is_empty() {
        return Ok(None);
    }
    let missing = |message: String| Refusal {
        reason: Reason::SecretNotFound,
        message,
    };
    let mut digest = Sha256::new();
    for (field, name) in named {
        let Some(keys) = observed.secrets.get(name).and_then(Option::as_ref) else {
            return Err(missing(format!(
                "{field}: there is no Secret {name} in the namespace; create it"
            )));
        };
        if let Some(key) = missing_key(field, keys) {
            return Err(missing(format!(
                "{field}: the Secret {name} has no key {key}; add it"
            )));
        }
        digest.update(&keys.digest);
    }
    Ok(Some(crate::plan::short(&digest.finalize())))
}

/// The first key that a Secret must have for `field`, and has not.
fn missing_key(field: &str, keys: &Keys) -> Option<&'static str> {
    let has = |key: &str| keys.names.iter().any(|name| name == key);
    let needed: &[&'static str] = match field {
        "spec.warehouse.authSecret" => &["username"],
        "spec.dictionary.authSecret" => &["password"],
        _ if has("username") => &["password"],
        _ => &[],
    };
    needed.iter().copied().find(|key| !has(key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_kubernetes_does_not_know_is_found_at_any_depth() {
        let given =
            json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "valeu": "1"}]}]}});
        let known = json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A"}]}], "more": 1}});
        assert_eq!(
            lost(&given, &known).as_deref(),
            Some(".spec.containers[0].env[0].valeu")
        );
        assert_eq!(lost(&known["spec"], &known["spec"]), None);
    }

    #[test]
    fn each_secret_must_have_the_keys_of_its_service() {
        for (field, names, missing) in [
            ("spec.warehouse.authSecret", &["password"][..], Some("username")),
            ("spec.warehouse.authSecret", &["username"], None),
            ("spec.dictionary.authSecret", &["username"], Some("password")),
            ("spec.dictionary.authSecret", &["password"], None),
            ("spec.source.authSecret", &["username"], Some("password")),
            ("spec.source.authSecret", &["ca.crt"], None),
        ] {
            let keys = Keys {
                names: names.iter().map(ToString::to_string).collect(),
                ..Keys::default()
            };
            assert_eq!(missing_key(field, &keys), missing, "{field} {names:?}");
        }
    }
}
