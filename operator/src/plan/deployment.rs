//! Deployment of the workers, without `spec.replicas`: [`crate::apply`] applies the replicas separately.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest as _, Sha256};

use super::metadata::metadata;
use super::pod;
use crate::defaults::WorkerDefaults;
use crate::owned::{DOCUMENT_ANNOTATION, SECRETS_ANNOTATION, labels, selector, short_digest};
use crate::validate::Valid;

/// `ReplicaSets` of earlier pod templates that Kubernetes retains, to compare after a rollout.
const REVISION_HISTORY_LIMIT: i32 = 2;

pub(super) fn plan(valid: &Valid<'_>, defaults: &WorkerDefaults) -> Deployment {
    Deployment {
        metadata: metadata(valid),
        spec: Some(DeploymentSpec {
            selector: LabelSelector {
                match_labels: Some(selector(valid.stage)),
                ..LabelSelector::default()
            },
            revision_history_limit: Some(REVISION_HISTORY_LIMIT),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    // A surge worker would have no partition to consume, and would exceed the connection budget.
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::String("25%".to_owned())),
                }),
            }),
            template: template(valid, defaults),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// Pod template of the workers with the options of the stage. The operator's labels and annotations come last: a user
/// must not override them, least of all those of the selector.
fn template(valid: &Valid<'_>, defaults: &WorkerDefaults) -> PodTemplateSpec {
    let options = &valid.pod_template;
    let document = short_digest(&Sha256::digest(&valid.document));
    let secrets = valid
        .secrets_digest
        .clone()
        .map(|digest| (SECRETS_ANNOTATION.to_owned(), digest));
    let mut annotations = options.metadata.annotations.clone();
    annotations.insert(DOCUMENT_ANNOTATION.to_owned(), document);
    annotations.extend(secrets);
    let mut pod_labels = options.metadata.labels.clone();
    pod_labels.extend(labels(valid.stage));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: Some(annotations),
            labels: Some(pod_labels),
            ..ObjectMeta::default()
        }),
        spec: Some(pod::plan(valid.stage, &options.spec, defaults)),
    }
}
