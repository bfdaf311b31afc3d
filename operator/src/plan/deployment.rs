//! The Deployment of the workers. Its number of replicas is written apart from it.

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest as _, Sha256};

use super::{pod, short};
use crate::defaults::Defaults;
use crate::owned::{DOCUMENT_ANNOTATION, SECRETS_ANNOTATION, labels, selector};
use crate::validate::Valid;

/// Old templates that are kept for `kubectl rollout undo` to look at.
const REVISIONS: i32 = 2;

pub(super) fn plan(valid: &Valid<'_>, defaults: &Defaults) -> Deployment {
    Deployment {
        metadata: super::metadata(valid),
        spec: Some(DeploymentSpec {
            selector: LabelSelector {
                match_labels: Some(selector(valid.stage)),
                ..LabelSelector::default()
            },
            revision_history_limit: Some(REVISIONS),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    // No worker more than there are partitions to read, and no connection more than the budget.
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

/// The pods, with what the user merges into them; the labels that hold everything together come last.
fn template(valid: &Valid<'_>, defaults: &Defaults) -> PodTemplateSpec {
    let document = short(&Sha256::digest(&valid.document));
    let secrets = valid
        .secrets
        .clone()
        .map(|digest| (SECRETS_ANNOTATION.to_owned(), digest));
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: Some(
                [(DOCUMENT_ANNOTATION.to_owned(), document)]
                    .into_iter()
                    .chain(secrets)
                    .collect(),
            ),
            ..ObjectMeta::default()
        }),
        spec: Some(pod::plan(valid.stage, defaults)),
    };
    template.merge_from(valid.overlay.clone());
    let metadata = template.metadata.get_or_insert_default();
    metadata
        .labels
        .get_or_insert_default()
        .extend(labels(valid.stage));
    template
}
