//! Two stages with one topic and one consumer group: the younger is refused until the older one is gone.

use anyhow::Result;
use crds::StreamStage;
use crds::status::ConditionType;
use e2e::cluster::Story;
use kube::api::DeleteParams;

#[tokio::test]
async fn the_younger_of_two_stages_with_one_group_waits_for_the_older() -> Result<()> {
    let story = Story::begin("conflict", 2).await?;
    let older = story.stage("cdm")?;
    story.apply(&older).await?;
    story.is("cdm", ConditionType::Ready, "True").await?;
    let mut younger = older.clone();
    younger.metadata.name = Some("younger".to_owned());
    story.apply(&younger).await?;
    let stalled = story.says("younger", ConditionType::Stalled, "Conflict").await?;
    assert!(
        stalled.message.contains(&format!("{}/cdm", story.namespace)),
        "{}",
        stalled.message
    );
    assert!(story.pods("younger").await?.is_empty());
    story.is("cdm", ConditionType::Ready, "True").await?;

    story
        .api::<StreamStage>()
        .delete("cdm", &DeleteParams::default())
        .await?;
    story.is("younger", ConditionType::Ready, "True").await?;
    story.end()
}
