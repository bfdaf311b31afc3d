//! All pods run with the `restricted` Pod Security Standard; a pod that violates it is rejected and reported.

use crate::cluster::{Story, run_expecting_error};
use anyhow::Result;
use crds::status::ConditionType;
use serde_json::json;

#[tokio::test]
async fn a_violation_of_the_pod_security_standard_is_reported_in_the_status() -> Result<()> {
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
    let mut stage = story.stage("cdm")?;
    let privileged = json!({"spec": {"containers": [{"name": "worker", "securityContext": {"privileged": true, "allowPrivilegeEscalation": true}}]}});
    stage.spec.worker.pod_template = serde_json::from_value(privileged)?;
    story.apply(&stage).await?;
    let ready = story
        .wait_for_reason("cdm", ConditionType::Ready, "ReplicaFailure")
        .await?;
    assert!(
        ready.message.contains("violates PodSecurity"),
        "{}",
        ready.message
    );
    stage.spec.worker.pod_template.clear();
    story.apply(&stage).await?;
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;
    story.finish()
}
