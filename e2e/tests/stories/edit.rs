//! A stage is edited while orders flow: batch, resources, image. It rolls, and nothing is lost.

use std::collections::BTreeMap;

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{SOON, Story, eventually, run};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The image of the workers under another tag.
const OTHER_TAG: &str = "streamstage/worker:edited";

/// The one container of a worker.
fn template(deployment: &Deployment) -> Container {
    let spec = deployment.spec.as_ref();
    let pod = spec
        .and_then(|spec| spec.template.spec.clone())
        .unwrap_or_default();
    pod.containers[0].clone()
}

/// Gives the image of a container its other tag, on both nodes.
fn tag_otherwise(container: &Container) -> Result<()> {
    let image = format!("docker.io/{}", container.image.clone().unwrap_or_default());
    let other = format!("docker.io/{OTHER_TAG}");
    for node in ["streamstage-e2e-control-plane", "streamstage-e2e-worker"] {
        let inside = ["exec", node, "ctr", "--namespace", "k8s.io"];
        let tag = ["images", "tag", "--force", &image, &other];
        run("docker", &[inside, tag].concat())?;
    }
    Ok(())
}

#[tokio::test]
async fn an_edited_stage_rolls_without_loss() -> Result<()> {
    let mut story = Story::begin("edit", 3).await?;
    story.start().await?;
    let mut stage = story.stage("stg")?;

    stage.spec.batch.max_records = 50;
    stage.spec.worker.resources.requests = Some(BTreeMap::from([(
        "memory".to_owned(),
        Quantity("65Mi".to_owned()),
    )]));
    story.apply(&stage).await?;
    story.produce(300).await?;
    let rolled = story.deployment("has the request", "stg", |deployment| {
        let resources = template(deployment).resources.unwrap_or_default();
        resources
            .requests
            .is_some_and(|requests| requests.get("memory") == Some(&Quantity("65Mi".to_owned())))
    });
    rolled.await?;
    story.is("stg", ConditionType::Reconciling, "False").await?;

    tag_otherwise(&template(&story.deployment("exists", "dds", |_| true).await?))?;
    stage.spec.worker.image = OTHER_TAG.to_owned();
    story.apply(&stage).await?;
    story.produce(300).await?;
    story.is("stg", ConditionType::Reconciling, "False").await?;
    story.is("stg", ConditionType::Ready, "True").await?;
    let only = "every pod has the other image";
    eventually(only, &story.namespace, SOON, async || {
        let pods = story.pods("stg").await?;
        let images = pods
            .iter()
            .filter_map(|pod| pod.spec.as_ref()?.containers[0].image.as_deref());
        let mut images = images.filter(|image| *image != OTHER_TAG);
        // Those of before may still be ending.
        Ok((pods.len() == 2 && images.next().is_none()).then_some(()))
    })
    .await?;
    story.reached_the_marts().await?;
    story.end()
}
