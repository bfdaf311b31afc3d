//! Decides which stages the operator acts on, and which Secrets it uses for them. Pure.
//!
//! The operator has more permissions than the author of a stage. Before a name of a stage becomes part of a request, or
//! a Secret part of a connection, it must have passed these checks. [`crate::observe`] applies them before it reads,
//! [`crate::validate`] reports them.

use std::collections::BTreeMap;

use crds::StreamStage;
use crds::stage::{PodTemplate, is_label_name, validate as validate_spec};
use crds::status::Reason;

use crate::grants::{ALLOW_CLEAR_TEXT_ANNOTATION, ALLOW_HOSTS_ANNOTATION, ALLOW_STAGES_ANNOTATION, Grant};
use crate::hosts::{HostPattern, StageHost, allow_others, stage_hosts};

/// Terminal error: the stage is stalled until a user fixes the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason of the condition `Stalled`.
    pub reason: Reason,
    /// Cause with the field, and the remedy.
    pub message: String,
}

/// Keys and owner's grant of a Secret, without its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretKeys {
    /// Key names, sorted.
    pub names: Vec<String>,
    /// UID and resource version, which change with every change of the Secret. A digest of the values would allow
    /// whoever can read the pod template to guess them.
    pub version: String,
    /// What the owner allows.
    pub grant: Grant,
}

/// Referenced Secrets by name; `None` for a Secret that does not exist.
pub type Secrets = BTreeMap<String, Option<SecretKeys>>;

/// Checks everything that depends on the stage and on the settings of the operator alone.
///
/// `allowed_hosts` is empty for the default rule of [`crate::hosts`].
///
/// # Errors
/// Returns the first terminal error; violations of the spec are reported together.
pub fn check_stage(stage: &StreamStage, allowed_hosts: &[HostPattern]) -> Result<(), Refusal> {
    validate_spec(stage).map_err(|violations| {
        let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
        Refusal {
            reason: Reason::ConfigInvalid,
            message: violations.join("; "),
        }
    })?;
    check_group_prefix(stage)?;
    check_hosts(stage, allowed_hosts)
}

/// Checks the hosts of a stage: those of `spec.source` are connected to by the operator as well.
fn check_hosts(stage: &StreamStage, allowed_hosts: &[HostPattern]) -> Result<(), Refusal> {
    let denied = |host: &StageHost| {
        if host.is_allowed_by(allowed_hosts) {
            return None;
        }
        if !allow_others(allowed_hosts) {
            return Some("is not in the operator's allow-list");
        }
        let is_source = host.section == "spec.source";
        is_source
            .then(|| host.denied_by_default(stage.namespace()))
            .flatten()
    };
    let mut hosts = stage_hosts(stage).into_iter();
    match hosts.find_map(|host| Some((denied(&host)?, host))) {
        None => Ok(()),
        Some((cause, host)) => Err(Refusal {
            reason: Reason::HostNotAllowed,
            message: format!(
                "{}: {host} {cause}; use another host, or add it to the value allowedHosts of the chart",
                host.section
            ),
        }),
    }
}

/// Checks that the group does not have the prefix of another namespace. The rule depends on the text alone: a check of
/// the other namespace's stages would tell this one about them.
fn check_group_prefix(stage: &StreamStage) -> Result<(), Refusal> {
    let group = stage.consumer_group();
    let namespace = stage.namespace();
    match group.split_once('.') {
        Some((prefix, _)) if prefix != namespace && is_label_name(prefix) => Err(Refusal {
            reason: Reason::ConsumerGroupConflict,
            message: format!(
                "spec.source.consumerGroup: groups with the prefix `{prefix}.` belong to the namespace {prefix}; \
                 recreate this stage with the prefix `{namespace}.`, or with a group without a dot"
            ),
        }),
        _ => Ok(()),
    }
}

/// Checks every Secret that the stage references.
///
/// # Errors
/// Returns the first Secret that is missing, lacks a key, or does not allow this use.
pub fn check_secrets(stage: &StreamStage, secrets: &Secrets) -> Result<(), Refusal> {
    stage
        .referenced_secrets()
        .into_iter()
        .try_for_each(|(field, name)| check_secret(stage, field, name, secrets))
}

/// Checks one Secret that the stage references by `field`.
///
/// # Errors
/// If it is missing, lacks a key, or does not allow this use.
pub fn check_secret(stage: &StreamStage, field: &str, name: &str, secrets: &Secrets) -> Result<(), Refusal> {
    let refusal = |reason, message: String| Err(Refusal { reason, message });
    let Some(keys) = secrets.get(name).and_then(Option::as_ref) else {
        let message = format!("{field}: Secret {name} not found in the namespace of the stage; create it");
        return refusal(Reason::SecretNotFound, message);
    };
    if let Some(cause) = denied_use(stage, field, &keys.grant) {
        let message = format!("{field}: Secret {name} {cause}");
        return refusal(Reason::SecretNotAllowed, message);
    }
    if let Some(key) = missing_key(field, keys) {
        let message = format!("{field}: Secret {name} has no key {key}; add it");
        return refusal(Reason::SecretNotFound, message);
    }
    Ok(())
}

/// Why the owner of a Secret does not allow its use by `field`, with the remedy; `None` if it does.
fn denied_use(stage: &StreamStage, field: &str, grant: &Grant) -> Option<String> {
    if !grant.allows_stages {
        return Some(format!(
            "does not allow stages to use it; its owner can allow it with the annotation {ALLOW_STAGES_ANNOTATION}: \"true\""
        ));
    }
    if let Some(allowed) = &grant.hosts {
        let hosts = stage_hosts(stage);
        let mut hosts = hosts.iter().filter(|host| field.starts_with(host.section));
        if let Some(host) = hosts.find(|host| !host.is_allowed_by(allowed)) {
            return Some(format!(
                "is not for {host}; its owner can add the host to the annotation {ALLOW_HOSTS_ANNOTATION}"
            ));
        }
        if is_customized(stage) {
            return Some(format!(
                "has the annotation {ALLOW_HOSTS_ANNOTATION}, so that only the operator's own worker may read it; \
                 remove spec.worker.image, and env and volumes of spec.worker.podTemplate"
            ));
        }
    }
    let is_clear_text = field == "spec.referenceData.authSecretName"
        && stage
            .spec
            .reference_data
            .as_ref()
            .is_some_and(|reference_data| !reference_data.uses_tls());
    (is_clear_text && !grant.allows_clear_text).then(|| {
        format!(
            "would be sent without TLS; use rediss:// in spec.referenceData.url, or its owner can allow it with the \
             annotation {ALLOW_CLEAR_TEXT_ANNOTATION}: \"true\""
        )
    })
}

/// Returns true if the stage runs code of its author beside a mounted Secret: an own image, or a library that a variable
/// loads from a volume.
fn is_customized(stage: &StreamStage) -> bool {
    let worker = &stage.spec.worker;
    let template = PodTemplate::parse(&worker.pod_template).unwrap_or_default().spec;
    let has_variables = template
        .containers
        .iter()
        .any(|container| !container.env.is_empty());
    !worker.image.is_empty() || has_variables || !template.volumes.is_empty()
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

/// Checks that the owner of the `ServiceAccount` that the pod template names lets stages use it. `grant` is `None` if it
/// does not exist.
///
/// # Errors
/// If it does not exist, or does not allow stages.
pub fn check_service_account(stage: &StreamStage, grant: Option<&Grant>) -> Result<(), Refusal> {
    let Some(name) = named_service_account(stage) else {
        return Ok(());
    };
    if grant.is_some_and(|grant| grant.allows_stages) {
        return Ok(());
    }
    Err(Refusal {
        reason: Reason::ServiceAccountNotAllowed,
        message: format!(
            "spec.worker.podTemplate.spec.serviceAccountName: ServiceAccount {name} does not exist or does not allow \
             stages to use it; its owner can allow it with the annotation {ALLOW_STAGES_ANNOTATION}: \"true\""
        ),
    })
}

/// `ServiceAccount` that the pod template names.
#[must_use]
pub fn named_service_account(stage: &StreamStage) -> Option<String> {
    let template = PodTemplate::parse(&stage.spec.worker.pod_template).ok()?;
    template.spec.service_account_name
}

#[cfg(test)]
mod tests;
