//! Owned objects of a stage: their names, labels, annotations and field managers.
//!
//! Never change a label of the selector: the selector of a Deployment is immutable.

pub mod rollout;

use std::collections::BTreeMap;

use crds::StreamStage;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

/// Field manager of all owned fields except `spec.replicas` of the Deployment.
pub const FIELD_MANAGER: &str = "streamstage-operator";
/// Field manager of `spec.replicas`. It is separate, so that an apply of the pod template never changes the replicas,
/// and a scaling step never changes the template.
pub const SCALE_FIELD_MANAGER: &str = "streamstage-operator-scale";
/// Label in the pod selector of the Deployment; its value is the name of the stage.
pub const STAGE_LABEL: &str = "streamstage.dev/stage";
/// Label of every owned object, with the value [`FIELD_MANAGER`]. The operator watches objects by it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Annotation with the digest of the planned object. Without it, a field that is no longer planned would remain
/// unnoticed in the cluster.
pub const PLAN_ANNOTATION: &str = "streamstage.dev/plan";
/// Pod annotation with the digest of the worker's configuration: a new configuration rolls the pods.
pub const DOCUMENT_ANNOTATION: &str = "streamstage.dev/document";
/// Pod annotation with the digest of the referenced Secrets: new contents roll the pods.
pub const SECRETS_ANNOTATION: &str = "streamstage.dev/secrets";

/// Live owned objects of a stage; `None` for an object that does not exist.
#[derive(Clone, Debug, Default)]
pub struct OwnedObjects {
    /// Identity of the worker pods, without an API token.
    pub service_account: Option<ServiceAccount>,
    /// Configuration of the workers: the stage as a YAML document.
    pub config_map: Option<ConfigMap>,
    /// Headless Service for scraping the metrics of the workers.
    pub service: Option<Service>,
    /// Limit on the workers that are evicted at a time.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Runs the workers.
    pub deployment: Option<Deployment>,
}

/// Name that all owned objects of a stage share.
#[must_use]
pub fn object_name(stage: &StreamStage) -> String {
    format!("{}-worker", stage.name())
}

/// Returns true if the stage is an owner of the object. An object of the same name may belong to someone else.
#[must_use]
pub fn is_owned_by(stage: &StreamStage, object: &ObjectMeta) -> bool {
    let mut owners = object.owner_references.iter().flatten();
    owners.any(|owner| Some(&owner.uid) == stage.metadata.uid.as_ref())
}

/// Returns true if `manager` owns `spec.replicas` of the Deployment through server-side apply.
#[must_use]
pub fn owns_replicas(deployment: &Deployment, manager: &str) -> bool {
    deployment.managed_fields().iter().any(|entry| {
        entry.manager.as_deref() == Some(manager)
            && entry.operation.as_deref() == Some("Apply")
            && entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    })
}

/// Pod selector of the Deployment, the Service and the disruption budget.
#[must_use]
pub fn selector(stage: &StreamStage) -> BTreeMap<String, String> {
    BTreeMap::from([(STAGE_LABEL.to_owned(), stage.name_any())])
}

/// Labels of all owned objects and of the pods.
#[must_use]
pub fn labels(stage: &StreamStage) -> BTreeMap<String, String> {
    let named = [
        ("app.kubernetes.io/name", "streamstage-worker"),
        ("app.kubernetes.io/instance", stage.name()),
        ("app.kubernetes.io/component", stage.spec.layer.as_str()),
        ("app.kubernetes.io/part-of", "streamstage"),
        (MANAGED_BY_LABEL, FIELD_MANAGER),
        (STAGE_LABEL, stage.name()),
    ];
    named
        .into_iter()
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .collect()
}

/// Returns the first 64 bits of a digest in hexadecimal: enough to distinguish two versions of one object.
pub(crate) fn short_digest(digest: &[u8]) -> String {
    let bits = digest
        .iter()
        .take(8)
        .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    format!("{bits:016x}")
}
