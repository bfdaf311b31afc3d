//! Another controller scales a stage through its scale subresource; where the lag decides, that is refused.

use anyhow::Result;
use crds::stage::ScalingMode;
use crds::status::ConditionType;
use e2e::cluster::{Story, refused, run};

fn replicas(deployment: &k8s_openapi::api::apps::v1::Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.replicas)
}

#[tokio::test]
async fn scale_is_followed_in_external_mode_and_refused_in_auto() -> Result<()> {
    let story = Story::begin("scale", 3).await?;
    let mut stage = story.stage("cdm")?;
    stage.spec.scaling.mode = ScalingMode::External;
    stage.spec.scaling.replicas = Some(1);
    story.apply(&stage).await?;
    story
        .deployment("has 1 worker", "cdm", |deployment| {
            replicas(deployment) == Some(1)
        })
        .await?;
    let resource = "streamstage/cdm";
    for wanted in [3, 0] {
        let flag = format!("--replicas={wanted}");
        run(
            "kubectl",
            &["scale", resource, &flag, "--namespace", &story.namespace],
        )?;
        story
            .deployment("follows the scale", "cdm", |deployment| {
                replicas(deployment) == Some(wanted)
            })
            .await?;
    }
    story.is("cdm", ConditionType::Ready, "True").await?;

    let mut stage = story.stage("dds")?;
    stage.spec.scaling.mode = ScalingMode::Auto;
    stage.spec.scaling.replicas = None;
    story.apply(&stage).await?;
    story
        .deployment("holds the minimum", "dds", |deployment| {
            replicas(deployment) == Some(1)
        })
        .await?;
    let refusal = refused(
        "kubectl",
        &[
            "scale",
            "streamstage/dds",
            "--replicas=3",
            "--namespace",
            &story.namespace,
        ],
    )?;
    assert!(
        refusal.contains("replicas is only for the modes Manual and External"),
        "{refusal}"
    );

    // By hand, past the stage: put back.
    run(
        "kubectl",
        &[
            "scale",
            "deployment/dds-worker",
            "--replicas=3",
            "--namespace",
            &story.namespace,
        ],
    )?;
    story
        .deployment("is put back to the minimum", "dds", |deployment| {
            replicas(deployment) == Some(1)
        })
        .await?;
    story.end()
}
