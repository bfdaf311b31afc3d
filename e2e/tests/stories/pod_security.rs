//! All pods run with the `restricted` Pod Security Standard: a stage cannot ask for a pod that violates it, and pods that
//! the cluster rejects are reported.

use crate::cluster::{Story, run_expecting_error};
use anyhow::{Context as _, Result};
use crds::status::ConditionType;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

#[tokio::test]
async fn a_privileged_pod_is_rejected_and_missing_pods_are_reported_in_the_status() -> Result<()> {
    let story = Story::create("restricted", 2).await?;
    // Precondition: the namespace enforces the standard.
    let error = run_expecting_error(
        "kubectl",
        &[
            "run",
            "root",
            "--image=streamstage/worker",
            "--namespace",
            &story.namespace,
        ],
    )?;
    assert!(error.contains("violates PodSecurity"), "{error}");
    // A stage cannot ask for such a pod.
    let mut stage = story.stage("cdm")?;
    let privileged = json!({"spec": {"containers": [{"name": "worker", "securityContext": {"privileged": true, "allowPrivilegeEscalation": true}}]}});
    stage.spec.worker.pod_template = serde_json::from_value(privileged)?;
    let rejected = story.apply(&stage).await;
    let error = rejected.err().context("a privileged container is not rejected")?;
    assert!(format!("{error:#}").contains("securityContext"), "{error:#}");

    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}}))?;
    let quotas = story.api::<ResourceQuota>();
    quotas.create(&PostParams::default(), &quota).await?;
    stage.spec.worker.pod_template.clear();
    story.apply(&stage).await?;
    let ready = story
        .wait_for_reason("cdm", ConditionType::Ready, "ReplicaFailure")
        .await?;
    assert!(ready.message.contains("quota"), "{}", ready.message);
    quotas.delete("no-pods", &DeleteParams::default()).await?;
    // Another pod template, because Kubernetes retries a rejected one at growing intervals.
    let labels = json!({"metadata": {"labels": {"attempt": "two"}}});
    stage.spec.worker.pod_template = serde_json::from_value(labels)?;
    story.apply(&stage).await?;
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;
    story.finish()
}
