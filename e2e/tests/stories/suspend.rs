//! A stage is paused and resumed: no worker meanwhile, and nothing lost.

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{SOON, Story, eventually};

#[tokio::test]
async fn a_paused_stage_has_no_workers_and_goes_on_where_it_was() -> Result<()> {
    let mut story = Story::begin("suspend", 2).await?;
    story.start().await?;
    story.produce(200).await?;
    story.reached_the_marts().await?;
    let mut stage = story.stage("stg")?;
    stage.spec.suspend = true;
    story.apply(&stage).await?;
    story.is("stg", ConditionType::Suspended, "True").await?;
    eventually("no pod is left", &story.namespace, SOON, async || {
        Ok(story.pods("stg").await?.is_empty().then_some(()))
    })
    .await?;
    let positions = story.pipeline.positions("stg").await?;
    story.produce(200).await?;
    assert_eq!(
        story.pipeline.positions("stg").await?,
        positions,
        "a paused stage reads nothing"
    );
    stage.spec.suspend = false;
    story.apply(&stage).await?;
    story.is("stg", ConditionType::Ready, "True").await?;
    story.reached_the_marts().await?;
    story.end()
}
