//! A Secret that a stage names is missing, then created; later it is rotated.

use anyhow::{Result, ensure};
use crds::status::ConditionType;
use e2e::cluster::{SOON, Story, eventually, run};
use e2e::pipeline::SESSIONS;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

/// Waits until every session of a worker is that of this user.
async fn only_sessions_of(story: &Story, user: &str) -> Result<()> {
    let sessions = "SELECT usename::text, count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND usename IS NOT NULL AND application_name <> $1 GROUP BY 1";
    let what = format!("the workers' sessions are those of {user}");
    eventually(&what, &story.namespace, SOON, async || {
        let asked = sqlx::query_as(sessions).bind(SESSIONS);
        let users: Vec<(String, i64)> = asked.fetch_all(story.pipeline.pool()).await?;
        ensure!(users.len() == 1 && users[0].0 == user, "sessions of {users:?}");
        Ok(Some(()))
    })
    .await
}

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

    // A second login; the first one stays good, so that only the sessions tell which of them is used.
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
    only_sessions_of(&story, "rotated").await?;
    let events = run("kubectl", &["get", "events", "--namespace", &story.namespace])?;
    assert!(events.contains("CredentialsRotated"), "{events}");
    story.end()
}
