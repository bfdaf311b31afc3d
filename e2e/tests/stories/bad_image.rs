//! An image that does not exist is applied, then corrected.

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::Story;

#[tokio::test]
async fn a_bad_image_shows_in_the_status_and_its_correction_rolls_out() -> Result<()> {
    let mut story = Story::begin("image", 2).await?;
    story.start().await?;
    let mut stage = story.stage("stg")?;
    stage.spec.worker.image = "streamstage/worker:missing".to_owned();
    story.apply(&stage).await?;
    let ready = story.says("stg", ConditionType::Ready, "ImagePull").await?;
    assert!(
        ready.message.contains("streamstage/worker:missing"),
        "{}",
        ready.message
    );
    stage.spec.worker.image = String::new();
    story.apply(&stage).await?;
    story.is("stg", ConditionType::Ready, "True").await?;
    story.produce(200).await?;
    story.reached_the_marts().await?;
    story.end()
}
