//! What bounds the number of workers: the connections of the warehouse, and nothing to do at all.

use anyhow::{Context as _, Result};
use crds::StreamStage;
use crds::stage::{self, ScaleUp, Scaling, ScalingMode, StartFrom, Target};
use crds::status::{ConditionType, LimitedBy};
use e2e::cluster::{SOON, Story, eventually};
use e2e::pipeline::STAGES;
use serde_json::json;

use crate::load;

/// Follows the lag of every second.
fn eager() -> Scaling {
    Scaling {
        mode: ScalingMode::Auto,
        target: Target {
            drain_seconds: None,
            lag_per_replica: Some(1000),
            ..Target::default()
        },
        poll_interval: stage::Duration::from_secs(1),
        scale_up: ScaleUp {
            // The lag does not outlast a pause between two moves.
            cooldown: stage::Duration::from_secs(0),
            ..ScaleUp::default()
        },
        ..Scaling::default()
    }
}

/// Waits until a stage has so many workers, limited by this.
async fn has(story: &Story, stage: &str, replicas: u32, limited_by: LimitedBy) -> Result<StreamStage> {
    let what = format!("{stage} has {replicas} workers, limited by {limited_by:?}");
    eventually(&what, &story.namespace, SOON, async || {
        let stage = load::live(story, stage).await?;
        let status = stage.status.clone().context("no status")?;
        let limit = status.scaling.context("nothing was decided")?.limited_by;
        let holds = status.desired_replicas == Some(replicas) && limit == limited_by;
        Ok(holds.then_some(stage))
    })
    .await
}

#[tokio::test]
async fn the_connections_of_the_warehouse_cap_the_workers_and_more_of_them_lift_the_cap() -> Result<()> {
    let mut story = Story::begin("budget", 6).await?;
    let mut stage = story.stage("stg")?;
    stage.spec.scaling = eager();
    stage.spec.suspend = true;
    stage.spec.warehouse.connection_budget = Some(2 * stage.spec.warehouse.connections_per_worker);
    // Slow workers: the lag lasts as long as the story looks at it.
    let slow = json!({"cpu": "50m", "memory": "128Mi"});
    stage.spec.worker.resources = serde_json::from_value(json!({"requests": slow, "limits": slow}))?;
    story.apply(&stage).await?;
    story.produce(20_000).await?;
    has(&story, "stg", 0, LimitedBy::Suspended).await?;

    stage.spec.suspend = false;
    story.apply(&stage).await?;
    let capped = has(&story, "stg", 2, LimitedBy::ConnectionBudget).await?;
    let decision = capped
        .status
        .and_then(|status| status.scaling)
        .context("nothing was decided")?;
    eprintln!("budget: {}", decision.message);

    stage.spec.warehouse.connection_budget = Some(6 * stage.spec.warehouse.connections_per_worker);
    story.apply(&stage).await?;
    has(&story, "stg", 6, LimitedBy::Partitions).await?;
    story.end()
}

#[tokio::test]
async fn a_fresh_group_without_records_has_no_workers_and_its_first_message_is_not_lost() -> Result<()> {
    let mut story = Story::begin("zero", 12).await?;
    for mut stage in story.stages()? {
        stage.spec.scaling = Scaling {
            min_replicas: 0,
            ..eager()
        };
        stage.spec.source.start_from = StartFrom::Latest;
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        // A record that comes before the group has its start would count as an old one.
        story.is(stage, ConditionType::LagObserved, "True").await?;
        has(&story, stage, 0, LimitedBy::None).await?;
        let pods = story.pods(stage).await?;
        assert!(pods.is_empty(), "{stage} has {} pods", pods.len());
    }
    story.produce(20).await?;
    let marts = story.reached_the_marts().await?;
    eprintln!("zero: {} products from the first orders", marts.products.len());
    story.end()
}
