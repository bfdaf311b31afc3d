//! A stage is edited while orders flow: batch, resources, image. It rolls, and nothing is lost.

use std::collections::BTreeMap;

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{Story, run};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The image of the workers under another tag.
const OTHER_TAG: &str = "streamstage/worker:edited";

#[tokio::test]
async fn an_edited_stage_rolls_without_loss() -> Result<()> {
    let mut story = Story::begin("edit", 3).await?;
    story.start().await?;
    let template = |deployment: &Deployment| {
        deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.clone())
            .unwrap_or_default()
            .containers[0]
            .clone()
    };
    let mut stage = story.stage("stg")?;

    stage.spec.batch.max_records = 50;
    stage.spec.worker.resources.requests = Some(BTreeMap::from([(
        "memory".to_owned(),
        Quantity("65Mi".to_owned()),
    )]));
    story.apply(&stage).await?;
    story.produce(300).await?;
    story.is("stg", ConditionType::Reconciling, "True").await?;
    story.is("stg", ConditionType::Reconciling, "False").await?;
    let rolled = story.deployment("has the request", "stg", |deployment| {
        let resources = template(deployment).resources.unwrap_or_default();
        resources
            .requests
            .is_some_and(|requests| requests.get("memory") == Some(&Quantity("65Mi".to_owned())))
    });
    rolled.await?;

    for node in ["control-plane", "worker"] {
        let (node, present) = (
            format!("streamstage-e2e-{node}"),
            template(&story.deployment("exists", "dds", |_| true).await?),
        );
        let image = format!("docker.io/{}", present.image.unwrap_or_default());
        run(
            "docker",
            &[
                "exec",
                &node,
                "ctr",
                "--namespace",
                "k8s.io",
                "images",
                "tag",
                "--force",
                &image,
                &format!("docker.io/{OTHER_TAG}"),
            ],
        )?;
    }
    stage.spec.worker.image = OTHER_TAG.to_owned();
    story.apply(&stage).await?;
    story.produce(300).await?;
    story.is("stg", ConditionType::Reconciling, "False").await?;
    story.is("stg", ConditionType::Ready, "True").await?;
    let pods = story.pods("stg").await?;
    let images = pods
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.containers[0].image.clone());
    assert!(
        images.clone().all(|image| image == OTHER_TAG),
        "{:?}",
        images.collect::<Vec<_>>()
    );
    story.reached_the_marts().await?;
    story.end().await
}
