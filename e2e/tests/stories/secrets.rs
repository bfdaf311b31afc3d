//! A Secret that a stage names is missing, then created; later it is rotated.

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{SOON, Story, eventually, run};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

#[tokio::test]
async fn a_secret_that_appears_starts_the_stage_and_a_rotated_one_rolls_it() -> Result<()> {
    let mut story = Story::begin("secrets", 2).await?;
    story
        .api::<Secret>()
        .delete("orders-postgres", &DeleteParams::default())
        .await?;
    for stage in story.stages()? {
        story.apply(&stage).await?;
    }
    let stalled = story
        .says("stg", ConditionType::Stalled, "SecretNotFound")
        .await?;
    assert!(
        stalled.message.contains("spec.warehouse.authSecret") && stalled.message.contains("orders-postgres"),
        "{}",
        stalled.message
    );

    story.create_secret().await?;
    for stage in e2e::pipeline::STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    story.produce(200).await?;
    story.reached_the_marts().await?;

    // A second login; then the first password is useless.
    let rotate = "CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'rotated'";
    let (exists,): (i64,) = sqlx::query_as("SELECT count(*) FROM pg_roles WHERE rolname = 'rotated'")
        .fetch_one(story.pipeline.pool())
        .await?;
    if exists == 0 {
        sqlx::raw_sql(rotate).execute(story.pipeline.pool()).await?;
    }
    let before: Vec<String> = story
        .pods("stg")
        .await?
        .iter()
        .map(Pod::uid)
        .map(Option::unwrap_or_default)
        .collect();
    let patch = json!({"stringData": {"username": "rotated", "password": "rotated"}});
    story
        .api::<Secret>()
        .patch("orders-postgres", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    story
        .deployment("runs new pods only", "stg", |deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            status.observed_generation >= deployment.metadata.generation
                && status.updated_replicas == Some(2)
                && status.ready_replicas == Some(2)
                && status.replicas == Some(2)
        })
        .await?;
    story.is("stg", ConditionType::Ready, "True").await?;
    story.produce(200).await?;
    story.reached_the_marts().await?;
    eventually(
        "no pod of the old Secret is left",
        &story.namespace,
        SOON,
        async || {
            let pods = story.pods("stg").await?;
            let is_old = |pod: &Pod| before.contains(&pod.uid().unwrap_or_default());
            Ok((!pods.iter().any(is_old)).then_some(()))
        },
    )
    .await?;
    let events = run("kubectl", &["get", "events", "--namespace", &story.namespace])?;
    assert!(events.contains("CredentialsRotated"), "{events}");
    story.end().await
}
