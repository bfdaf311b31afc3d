//! A foreign object with the name of an owned object stalls the stage and is not adopted.

use crate::cluster::{Story, run};
use anyhow::Result;
use crds::status::ConditionType;

#[tokio::test]
async fn a_foreign_object_with_the_same_name_is_not_changed() -> Result<()> {
    let story = Story::create("taken", 2).await?;
    run(
        "kubectl",
        &[
            "create",
            "configmap",
            "cdm-worker",
            "--from-literal=mine=yes",
            "--namespace",
            &story.namespace,
        ],
    )?;
    story.apply(&story.stage("cdm")?).await?;
    let stalled = story
        .wait_for_reason("cdm", ConditionType::Stalled, "ResourceExists")
        .await?;
    assert!(
        stalled.message.contains("ConfigMap named cdm-worker"),
        "{}",
        stalled.message
    );
    let data = run(
        "kubectl",
        &[
            "get",
            "configmap",
            "cdm-worker",
            "--output=jsonpath={.data}",
            "--namespace",
            &story.namespace,
        ],
    )?;
    assert_eq!(data, r#"{"mine":"yes"}"#);
    run(
        "kubectl",
        &[
            "delete",
            "configmap",
            "cdm-worker",
            "--namespace",
            &story.namespace,
        ],
    )?;
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;
    story.finish()
}
