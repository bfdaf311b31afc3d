//! A referenced Secret is missing, then created, and later rotated.

use crate::cluster::{DEFAULT_DEADLINE, Story, eventually, run};
use anyhow::{Result, ensure};
use crds::status::ConditionType;
use e2e::pipeline::TEST_APPLICATION_NAME;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

/// Waits until all sessions of the workers have this user.
async fn wait_for_only_user(story: &Story, user: &str) -> Result<()> {
    let sessions = "SELECT usename::text, count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND usename IS NOT NULL AND application_name <> $1 GROUP BY 1";
    let description = format!("all sessions of the workers have the user {user}");
    eventually(&description, &story.namespace, DEFAULT_DEADLINE, async || {
        let query = sqlx::query_as(sessions).bind(TEST_APPLICATION_NAME);
        let users: Vec<(String, i64)> = query.fetch_all(story.pipeline.pool()).await?;
        ensure!(users.len() == 1 && users[0].0 == user, "sessions of {users:?}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn creating_a_missing_secret_starts_the_stage_and_rotating_it_rolls_the_workers() -> Result<()> {
    let mut story = Story::create("secrets", 2).await?;
    story
        .api::<Secret>()
        .delete("orders-postgres", &DeleteParams::default())
        .await?;
    for stage in story.stages()? {
        story.apply(&stage).await?;
    }
    let stalled = story
        .wait_for_reason("stg", ConditionType::Stalled, "SecretNotFound")
        .await?;
    assert!(
        stalled.message.contains("spec.warehouse.authSecretName")
            && stalled.message.contains("orders-postgres"),
        "{}",
        stalled.message
    );

    story.create_secret().await?;
    for stage in e2e::pipeline::STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
    }
    story.produce(200).await?;
    story.wait_for_marts().await?;

    // A second login. The first one stays valid, so that only the sessions show which one is used.
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
        .wait_for_deployment("the rollout is complete", "stg", |deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            status.observed_generation >= deployment.metadata.generation
                && status.updated_replicas == Some(2)
                && status.ready_replicas == Some(2)
                && status.replicas == Some(2)
        })
        .await?;
    story.wait_for_status("stg", ConditionType::Ready, "True").await?;
    story.produce(200).await?;
    story.wait_for_marts().await?;
    eventually(
        "no pod of the old Secret is left",
        &story.namespace,
        DEFAULT_DEADLINE,
        async || {
            let pods = story.pods("stg").await?;
            let is_old = |pod: &Pod| before.contains(&pod.uid().unwrap_or_default());
            Ok((!pods.iter().any(is_old)).then_some(()))
        },
    )
    .await?;
    wait_for_only_user(&story, "rotated").await?;
    let events = run("kubectl", &["get", "events", "--namespace", &story.namespace])?;
    assert!(events.contains("CredentialsRotated"), "{events}");
    story.finish()
}
