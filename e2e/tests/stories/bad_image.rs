//! A stage gets an image that does not exist; later the image is corrected.

use crate::cluster::Story;
use anyhow::Result;
use crds::status::ConditionType;

#[tokio::test]
async fn an_image_pull_failure_is_reported_and_a_corrected_image_rolls_out() -> Result<()> {
    let mut story = Story::create("image", 2).await?;
    story.start().await?;
    let mut stage = story.stage("stg")?;
    stage.spec.worker.image = "streamstage/worker:missing".to_owned();
    story.apply(&stage).await?;
    let ready = story
        .wait_for_reason("stg", ConditionType::Ready, "ImagePullFailed")
        .await?;
    assert!(
        ready.message.contains("streamstage/worker:missing"),
        "{}",
        ready.message
    );
    stage.spec.worker.image = String::new();
    story.apply(&stage).await?;
    story.wait_for_status("stg", ConditionType::Ready, "True").await?;
    story.produce(200).await?;
    story.wait_for_marts().await?;
    story.finish()
}
