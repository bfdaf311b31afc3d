//! Two stages have the same topic and consumer group: the younger one is stalled until the older one is deleted.

use crate::cluster::Story;
use anyhow::Result;
use crds::StreamStage;
use crds::status::ConditionType;
use kube::api::DeleteParams;

#[tokio::test]
async fn the_younger_of_two_stages_with_one_group_is_stalled() -> Result<()> {
    let story = Story::create("conflict", 2).await?;
    let older = story.stage("cdm")?;
    story.apply(&older).await?;
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;
    let mut younger = older.clone();
    younger.metadata.name = Some("younger".to_owned());
    story.apply(&younger).await?;
    let stalled = story
        .wait_for_reason("younger", ConditionType::Stalled, "ConsumerGroupConflict")
        .await?;
    assert!(
        stalled.message.contains(&format!("{}/cdm", story.namespace)),
        "{}",
        stalled.message
    );
    assert!(story.pods("younger").await?.is_empty());
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;

    story
        .api::<StreamStage>()
        .delete("cdm", &DeleteParams::default())
        .await?;
    story
        .wait_for_status("younger", ConditionType::Ready, "True")
        .await?;
    story.finish()
}
