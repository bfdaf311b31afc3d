//! Step 2 of a reconcile: checks that the objects of the stage can be planned.
//!
//! Does no I/O. Planning cannot fail: every check of the stage and of what it refers to is here.

use crds::StreamStage;
use crds::document::render_worker_document;
use crds::stage::PodTemplate;
use crds::status::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use sha2::{Digest as _, Sha256};

use crate::admission::{check_secrets, check_service_account};
use crate::observe::Observed;
use crate::owned;

pub use crate::admission::Refusal;

/// Stage that passed every check, with what planning derives from it.
#[derive(Clone, Debug)]
pub struct Valid<'a> {
    /// The stage itself.
    pub stage: &'a StreamStage,
    /// Owner reference of the owned objects: they are garbage-collected with the stage.
    pub owner: OwnerReference,
    /// Stage file of the workers, as YAML.
    pub document: String,
    /// Digest of the versions of the referenced Secrets; `None` if the stage references none of them.
    pub secrets_digest: Option<String>,
    /// `spec.worker.podTemplate`, which is added to the pod template.
    pub pod_template: PodTemplate,
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
    observed.admission.clone()?;
    let pod_template = PodTemplate::parse(&stage.spec.worker.pod_template).map_err(invalid)?;
    let document = render_worker_document(stage)
        .map_err(|error| invalid(format!("cannot write the stage file as YAML: {error}")))?;
    let owner = stage.controller_owner_ref(&()).ok_or_else(|| {
        invalid("metadata.uid is missing: only a stage in a cluster can own objects".to_owned())
    })?;
    check_consumer_group(observed)?;
    check_object_names(observed)?;
    check_secrets(stage, &observed.secrets)?;
    check_service_account(stage, observed.pod_service_account.as_ref())?;
    Ok(Valid {
        stage,
        owner,
        document,
        secrets_digest: secrets_digest(observed),
        pod_template,
    })
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
            "spec.source.consumerGroup: the older stage {older} consumes {} with the same group {}, so this stage has \
             no workers; recreate it with another group, or delete the older one",
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

/// Digest of the versions of the referenced Secrets; `None` if the stage references none of them.
fn secrets_digest(observed: &Observed) -> Option<String> {
    let referenced = observed.stage.referenced_secrets();
    let versions = referenced
        .iter()
        .filter_map(|(_, name)| observed.secrets.get(*name)?.as_ref())
        .map(|keys| keys.version.as_str());
    let versions: Vec<&str> = versions.collect();
    let digest = Sha256::digest(versions.join("\n"));
    (!referenced.is_empty()).then(|| owned::short_digest(&digest))
}
