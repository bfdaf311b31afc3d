//! Another controller scales a stage through its scale subresource; in mode `Auto` this has no effect.

use crate::cluster::{Story, run};
use anyhow::Result;
use crds::stage::ScalingMode;
use crds::status::ConditionType;

fn replicas(deployment: &k8s_openapi::api::apps::v1::Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.replicas)
}

#[tokio::test]
async fn the_scale_subresource_works_in_external_mode_and_is_ignored_in_auto_mode() -> Result<()> {
    let story = Story::create("scale", 3).await?;
    let mut stage = story.stage("cdm")?;
    stage.spec.scaling.mode = ScalingMode::External;
    stage.spec.scaling.replicas = Some(1);
    story.apply(&stage).await?;
    story
        .wait_for_deployment("cdm has 1 replica", "cdm", |deployment| {
            replicas(deployment) == Some(1)
        })
        .await?;
    let resource = "streamstage/cdm";
    for desired in [3, 0] {
        let flag = format!("--replicas={desired}");
        run(
            "kubectl",
            &["scale", resource, &flag, "--namespace", &story.namespace],
        )?;
        story
            .wait_for_deployment("the Deployment has the new scale", "cdm", |deployment| {
                replicas(deployment) == Some(desired)
            })
            .await?;
    }
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;

    let mut stage = story.stage("dds")?;
    stage.spec.scaling.mode = ScalingMode::Auto;
    stage.spec.scaling.replicas = None;
    story.apply(&stage).await?;
    story
        .wait_for_deployment("dds has the minimum", "dds", |deployment| {
            replicas(deployment) == Some(1)
        })
        .await?;
    // The stage keeps the number for another mode.
    let scale = ["scale", "streamstage/dds", "--replicas=3", "--namespace"];
    run("kubectl", &[&scale[..], &[&story.namespace]].concat())?;

    // A manual change of the Deployment is drift, and is corrected.
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
        .wait_for_deployment("dds has the minimum again", "dds", |deployment| {
            replicas(deployment) == Some(1)
        })
        .await?;
    story.finish()
}
