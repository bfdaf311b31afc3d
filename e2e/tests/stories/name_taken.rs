//! An object of the stage's name that is not the stage's own is refused, not taken over.

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{Story, run};

#[tokio::test]
async fn a_foreign_object_of_the_same_name_is_left_alone() -> Result<()> {
    let story = Story::begin("taken", 2).await?;
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
    let stalled = story.says("cdm", ConditionType::Stalled, "NameTaken").await?;
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
    story.is("cdm", ConditionType::Ready, "True").await?;
    story.end()
}
