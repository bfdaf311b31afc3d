//! Everything runs where the `restricted` Pod Security Standard is enforced; a pod that breaks it is refused and reported.

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{Story, refused};
use serde_json::json;

#[tokio::test]
async fn a_pod_that_breaks_the_standard_is_refused_and_the_status_says_why() -> Result<()> {
    let story = Story::begin("restricted", 2).await?;
    // The namespace enforces the standard, or nothing below shows anything.
    let refusal = refused(
        "kubectl",
        &[
            "run",
            "root",
            "--image=streamstage/worker",
            "--namespace",
            &story.namespace,
        ],
    )?;
    assert!(refusal.contains("violates PodSecurity"), "{refusal}");
    let mut stage = story.stage("cdm")?;
    let privileged = json!({"spec": {"containers": [{"name": "worker", "securityContext": {"privileged": true, "allowPrivilegeEscalation": true}}]}});
    stage.spec.worker.pod_template = serde_json::from_value(privileged)?;
    story.apply(&stage).await?;
    let ready = story.says("cdm", ConditionType::Ready, "ReplicaFailure").await?;
    assert!(
        ready.message.contains("violates PodSecurity"),
        "{}",
        ready.message
    );
    stage.spec.worker.pod_template.clear();
    story.apply(&stage).await?;
    story.is("cdm", ConditionType::Ready, "True").await?;
    story.end()
}
