//! Batch settings, resources and image of a stage are edited under load: the workers are rolled, and no order is lost.

use std::collections::BTreeMap;

use crate::cluster::{DEFAULT_DEADLINE, Story, eventually, run};
use anyhow::Result;
use crds::status::ConditionType;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Another tag of the worker image.
const OTHER_TAG: &str = "streamstage/worker:edited";

/// The only container of a worker pod.
fn worker_container(deployment: &Deployment) -> Container {
    let spec = deployment.spec.as_ref();
    let pod = spec
        .and_then(|spec| spec.template.spec.clone())
        .unwrap_or_default();
    pod.containers[0].clone()
}

/// Adds the other tag to the image of a container, on both nodes.
fn add_tag(container: &Container) -> Result<()> {
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
    let mut story = Story::create("edit", 3).await?;
    story.start().await?;
    let mut stage = story.stage("stg")?;

    stage.spec.batch.max_records = 50;
    stage.spec.worker.resources.requests = Some(BTreeMap::from([(
        "memory".to_owned(),
        Quantity("65Mi".to_owned()),
    )]));
    story.apply(&stage).await?;
    story.produce(300).await?;
    let edited = story.wait_for_deployment("stg has the memory request", "stg", |deployment| {
        let resources = worker_container(deployment).resources.unwrap_or_default();
        resources
            .requests
            .is_some_and(|requests| requests.get("memory") == Some(&Quantity("65Mi".to_owned())))
    });
    edited.await?;
    story
        .wait_for_status("stg", ConditionType::Reconciling, "False")
        .await?;

    let deployment = story
        .wait_for_deployment("dds has a Deployment", "dds", |_| true)
        .await?;
    add_tag(&worker_container(&deployment))?;
    stage.spec.worker.image = OTHER_TAG.to_owned();
    story.apply(&stage).await?;
    story.produce(300).await?;
    story
        .wait_for_status("stg", ConditionType::Reconciling, "False")
        .await?;
    story.wait_for_status("stg", ConditionType::Ready, "True").await?;
    let description = "every pod has the other image";
    eventually(description, &story.namespace, DEFAULT_DEADLINE, async || {
        let pods = story.pods("stg").await?;
        let images = pods
            .iter()
            .filter_map(|pod| pod.spec.as_ref()?.containers[0].image.as_deref());
        let mut images = images.filter(|image| *image != OTHER_TAG);
        // Old pods may still be terminating.
        Ok((pods.len() == 2 && images.next().is_none()).then_some(()))
    })
    .await?;
    story.wait_for_marts().await?;
    story.finish()
}
