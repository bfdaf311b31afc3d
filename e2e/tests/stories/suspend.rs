//! A stage is suspended and resumed: it has no worker meanwhile, and no order is lost.

use crate::cluster::{DEFAULT_DEADLINE, Story, eventually};
use anyhow::Result;
use crds::status::ConditionType;

#[tokio::test]
async fn a_suspended_stage_has_no_workers_and_resumes_at_its_position() -> Result<()> {
    let mut story = Story::create("suspend", 2).await?;
    story.start().await?;
    story.produce(200).await?;
    story.wait_for_marts().await?;
    let mut stage = story.stage("stg")?;
    stage.spec.suspend = true;
    story.apply(&stage).await?;
    story
        .wait_for_status("stg", ConditionType::Suspended, "True")
        .await?;
    eventually("no pod is left", &story.namespace, DEFAULT_DEADLINE, async || {
        Ok(story.pods("stg").await?.is_empty().then_some(()))
    })
    .await?;
    let positions = story.pipeline.positions("stg").await?;
    story.produce(200).await?;
    assert_eq!(
        story.pipeline.positions("stg").await?,
        positions,
        "a suspended stage consumes nothing"
    );
    stage.spec.suspend = false;
    story.apply(&stage).await?;
    story.wait_for_status("stg", ConditionType::Ready, "True").await?;
    story.wait_for_marts().await?;
    story.finish()
}
