//! The five objects that a stage owns, and the names that hold them together.
//!
//! Must never change a label of the selector: a Deployment's selector is immutable.

use std::collections::BTreeMap;

use crds::StreamStage;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

/// The field manager of everything but the number of workers.
pub const FIELD_MANAGER: &str = "streamstage-operator";
/// The field manager of the number of workers: another one, so that a change of the pod template never carries a
/// number, and a change of the number never carries a template.
pub const SCALE_FIELD_MANAGER: &str = "streamstage-operator-scale";
/// The label that the Deployment selects its pods by.
pub const STAGE_LABEL: &str = "streamstage.dev/stage";
/// The label of everything that the operator owns, with [`FIELD_MANAGER`] as its value.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Digest of the object as it was planned. A field that is planned no more leaves no other trace.
pub const PLAN_ANNOTATION: &str = "streamstage.dev/plan";
/// Digest of the worker's document, on its pods: another document rolls them.
pub const DOCUMENT_ANNOTATION: &str = "streamstage.dev/document";
/// Digest of the Secrets that the stage names, on its pods: another content rolls them.
pub const SECRETS_ANNOTATION: &str = "streamstage.dev/secrets";

/// The objects of a stage as they are in the cluster.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    /// The identity of the workers, without a token.
    pub service_account: Option<ServiceAccount>,
    /// The worker's document.
    pub config_map: Option<ConfigMap>,
    /// Where the figures of the workers are scraped.
    pub service: Option<Service>,
    /// How many workers an eviction may take at a time.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// The workers.
    pub deployment: Option<Deployment>,
}

/// The name of all five.
#[must_use]
pub fn name(stage: &StreamStage) -> String {
    format!("{}-worker", stage.name())
}

/// Whether an object belongs to the stage, rather than only having its name.
#[must_use]
pub fn is_own(stage: &StreamStage, object: &ObjectMeta) -> bool {
    let mut owners = object.owner_references.iter().flatten();
    owners.any(|owner| Some(&owner.uid) == stage.metadata.uid.as_ref())
}

/// Whether a field manager owns the number of workers by an apply.
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

/// What the Deployment, its Service and its disruption budget select pods by.
#[must_use]
pub fn selector(stage: &StreamStage) -> BTreeMap<String, String> {
    BTreeMap::from([(STAGE_LABEL.to_owned(), stage.name_any())])
}

/// The labels of all five, and of the pods.
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
