#![expect(clippy::disallowed_methods, reason = "edge: takes the times of the outage")]
//! Kafka goes away in the middle of a load: the workers are left as they are, and the load is finished when it is back.

use anyhow::{Context as _, Result};
use crds::StreamStageStatus;
use crds::stage;
use crds::status::ConditionType;
use e2e::cluster::{SERVICES, SOON, Story, eventually, run};
use e2e::pipeline::STAGES;
use k8s_openapi::jiff::Timestamp;

use crate::load;

const ORDERS: usize = 50_000;

async fn statuses(story: &Story) -> Result<Vec<StreamStageStatus>> {
    let mut statuses = Vec::new();
    for stage in STAGES {
        statuses.push(load::live(story, stage).await?.status.context("no status")?);
    }
    Ok(statuses)
}

fn is(status: &StreamStageStatus, type_: ConditionType, wanted: &str) -> bool {
    let type_ = type_.to_string();
    let mut conditions = status.conditions.iter();
    conditions.any(|condition| condition.type_ == type_ && condition.status == wanted)
}

/// Ends the broker. Its container begins again after a pause that grows.
fn kill_kafka() -> Result<String> {
    let container = ["exec", "deployment/kafka", "--", "sh", "-c", "kill 1"];
    run("kubectl", &[&["--namespace", SERVICES], &container[..]].concat())
}

#[tokio::test]
async fn kafka_that_goes_away_in_the_middle_of_a_load_moves_nobody() -> Result<()> {
    let mut story = Story::begin("outage", 6).await?;
    for mut stage in story.stages()? {
        stage.spec.scaling = load::scaling();
        // Nobody goes on the way down: what moves, moves because of the outage.
        stage.spec.scaling.scale_down.stabilization_window = stage::Duration::from_secs(600);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.is(stage, ConditionType::LagObserved, "True").await?;
    }
    story.produce(ORDERS).await?;
    let grown = "every stage has grown, and is ready";
    eventually(grown, &story.namespace, SOON, async || {
        let statuses = statuses(&story).await?;
        let grown = |status: &StreamStageStatus| {
            status.desired_replicas == Some(6) && is(status, ConditionType::Ready, "True")
        };
        Ok(statuses.iter().all(grown).then_some(()))
    })
    .await?;

    let stopped = Timestamp::now();
    let mut unready = Vec::new();
    for (what, observed) in [("the outage is told", "False"), ("the lag is read again", "True")] {
        let looked = eventually(what, &story.namespace, SOON, async || {
            if observed == "False" {
                // While it begins again there is nothing to end.
                let _ = kill_kafka();
            }
            let statuses = statuses(&story).await?;
            unready.extend(
                statuses
                    .iter()
                    .filter(|status| !is(status, ConditionType::Ready, "True"))
                    .cloned(),
            );
            let told = |status: &StreamStageStatus| is(status, ConditionType::LagObserved, observed);
            Ok(statuses.iter().all(told).then_some(statuses))
        });
        let statuses = looked.await?;
        let after = Timestamp::now().duration_since(stopped).as_secs_f64();
        eprintln!(
            "outage: {what} after {after:.1} s, {} still to come",
            total(&statuses)
        );
        for status in &statuses {
            assert_eq!(status.desired_replicas, Some(6), "{what}: {:?}", status.decisions);
            assert!(
                is(status, ConditionType::SourceReachable, observed),
                "{:?}",
                status.conditions
            );
        }
    }
    assert!(unready.is_empty(), "not ready: {:?}", unready[0].conditions);
    story.reached_the_marts().await?;
    for status in statuses(&story).await? {
        let moved = status.decisions.iter().filter(|decision| decision.time > stopped);
        assert_eq!(moved.count(), 0, "{:?}", status.decisions);
    }
    story.end().await
}

fn total(statuses: &[StreamStageStatus]) -> u64 {
    let lags = statuses.iter().filter_map(|status| status.lag.as_ref());
    lags.map(|lag| lag.total).sum()
}
