//! Bounds of the replica count: the connection budget of the warehouse, and an empty topic.

use crate::cluster::{DEFAULT_DEADLINE, Story, eventually};
use anyhow::{Context as _, Result};
use crds::StreamStage;
use crds::stage::{self, ScaleUp, Scaling, ScalingMode, StartFrom, Target};
use crds::status::{ConditionType, LimitedBy};
use e2e::pipeline::STAGES;
use serde_json::json;

use crate::load;

/// Scaling without delays, for a poll interval of one second.
fn immediate_scaling() -> Scaling {
    Scaling {
        mode: ScalingMode::Auto,
        target: Target {
            drain_seconds: None,
            lag_per_replica: Some(1000),
            ..Target::default()
        },
        poll_interval: stage::Duration::from_secs(1),
        scale_up: ScaleUp {
            // The lag lasts for a shorter time than the default cooldown.
            cooldown: stage::Duration::from_secs(0),
            ..ScaleUp::default()
        },
        ..Scaling::default()
    }
}

/// Waits until a stage has this number of desired replicas, limited by this bound or gate.
async fn wait_for_replicas(
    story: &Story,
    stage: &str,
    replicas: u32,
    limited_by: LimitedBy,
) -> Result<StreamStage> {
    let description = format!("{stage} has {replicas} desired replicas, limited by {limited_by:?}");
    eventually(&description, &story.namespace, DEFAULT_DEADLINE, async || {
        let stage = load::get_stage(story, stage).await?;
        let status = stage.status.clone().context("no status")?;
        let limit = status.scaling.context("no scaling decision")?.limited_by;
        let matches = status.desired_replicas == Some(replicas) && limit == limited_by;
        Ok(matches.then_some(stage))
    })
    .await
}

#[tokio::test]
async fn the_connection_budget_limits_the_replicas_and_a_higher_budget_allows_more() -> Result<()> {
    let mut story = Story::create("budget", 6).await?;
    let mut stage = story.stage("stg")?;
    stage.spec.scaling = immediate_scaling();
    stage.spec.suspend = true;
    stage.spec.warehouse.connection_budget = Some(2 * stage.spec.warehouse.connections_per_worker);
    // Slow workers, so that the lag lasts until the end of the story.
    let slow = json!({"cpu": "50m", "memory": "128Mi"});
    stage.spec.worker.resources = serde_json::from_value(json!({"requests": slow, "limits": slow}))?;
    story.apply(&stage).await?;
    story.produce(20_000).await?;
    wait_for_replicas(&story, "stg", 0, LimitedBy::Suspended).await?;

    stage.spec.suspend = false;
    story.apply(&stage).await?;
    let limited = wait_for_replicas(&story, "stg", 2, LimitedBy::ConnectionBudget).await?;
    let decision = limited
        .status
        .and_then(|status| status.scaling)
        .context("no scaling decision")?;
    eprintln!("budget: {}", decision.message);

    stage.spec.warehouse.connection_budget = Some(6 * stage.spec.warehouse.connections_per_worker);
    story.apply(&stage).await?;
    wait_for_replicas(&story, "stg", 6, LimitedBy::Partitions).await?;
    story.finish()
}

#[tokio::test]
async fn a_new_group_scales_from_zero_without_losing_the_first_message() -> Result<()> {
    let mut story = Story::create("zero", 12).await?;
    for mut stage in story.stages()? {
        stage.spec.scaling = Scaling {
            min_replicas: 0,
            ..immediate_scaling()
        };
        stage.spec.source.start_from = StartFrom::Latest;
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        // With `Latest`, a record before the first commit of the group would be skipped.
        story
            .wait_for_status(stage, ConditionType::LagObserved, "True")
            .await?;
        wait_for_replicas(&story, stage, 0, LimitedBy::None).await?;
        let pods = story.pods(stage).await?;
        assert!(pods.is_empty(), "{stage} has {} pods", pods.len());
    }
    story.produce(20).await?;
    let marts = story.wait_for_marts().await?;
    eprintln!("zero: {} products from the first orders", marts.products.len());
    story.finish()
}
