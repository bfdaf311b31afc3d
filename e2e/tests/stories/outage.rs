#![expect(clippy::disallowed_methods, reason = "edge: takes the times of the outage")]
//! Kafka goes away in the middle of a load: the workers are left as they are, and the load is finished when it is back.

use anyhow::{Context as _, Result};
use crds::StreamStageStatus;
use crds::stage;
use crds::status::ConditionType;
use e2e::cluster::{Container, SERVICES, SOON, Story, eventually};
use e2e::pipeline::STAGES;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use crate::load;

const ORDERS: usize = 50_000;
/// Orders right before the outage.
const MORE: usize = 10_000;

async fn statuses(story: &Story) -> Result<Vec<StreamStageStatus>> {
    let mut statuses = Vec::new();
    for stage in STAGES {
        statuses.push(load::live(story, stage).await?.status.context("no status")?);
    }
    Ok(statuses)
}

fn condition(status: &StreamStageStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == type_)
}

fn is(status: &StreamStageStatus, type_: ConditionType, wanted: &str) -> bool {
    condition(status, type_).is_some_and(|condition| condition.status == wanted)
}

/// The broker, halted: it answers nobody, for as long as the story wants.
struct Halted(Container);

impl Halted {
    fn begin() -> Result<Self> {
        let kafka = Self(broker()?);
        kafka.0.signal("SIGSTOP")?;
        Ok(kafka)
    }

    /// Ends the broker, whose connections are lost then; it still answers while it stops, and another begins at once.
    fn end(self) -> Result<Container> {
        // A halted process gets it when it goes on.
        self.0.signal("SIGTERM")?;
        Ok(self.0.clone())
    }
}

fn broker() -> Result<Container> {
    Container::of(SERVICES, "--selector=app.kubernetes.io/name=kafka")
}

impl Drop for Halted {
    fn drop(&mut self) {
        if let Err(error) = self.0.signal("SIGCONT") {
            eprintln!("Kafka does not go on: {error:#}");
        }
    }
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

    // In the middle of a load: what came before may be done by now.
    story.produce(MORE).await?;
    eventually("there is a lag", &story.namespace, SOON, async || {
        Ok((total(&statuses(&story).await?) > 0).then_some(()))
    })
    .await?;
    let stopped = Timestamp::now();
    let halted = Halted::begin()?;
    let left = waited(&story, "the outage is told", stopped, |status| {
        observed(status, "False", "Unreachable")
    })
    .await?;
    assert!(left > 0, "there was no load");
    let ended = halted.end()?;
    eventually("another broker runs", SERVICES, SOON, async || {
        Ok((broker()? != ended).then_some(()))
    })
    .await?;
    let back = Timestamp::now();
    waited(&story, "the lag is read again", stopped, |status| {
        let measured = status.lag.as_ref().and_then(|lag| lag.measured_at);
        observed(status, "True", "Observed") && measured > Some(back)
    })
    .await?;
    story.reached_the_marts().await?;
    for status in statuses(&story).await? {
        let moved = status.decisions.iter().filter(|decision| decision.time > stopped);
        assert_eq!(moved.count(), 0, "{:?}", status.decisions);
    }
    story.end()
}

fn observed(status: &StreamStageStatus, wanted: &str, reason: &str) -> bool {
    let lag = condition(status, ConditionType::LagObserved);
    lag.is_some_and(|lag| lag.status == wanted && lag.reason == reason)
        && is(status, ConditionType::SourceReachable, wanted)
}

/// Waits until every stage's status tells it; meanwhile every stage is ready, and none moves. Returns the lag of all.
async fn waited(
    story: &Story,
    what: &str,
    stopped: Timestamp,
    told: impl Fn(&StreamStageStatus) -> bool,
) -> Result<u64> {
    let mut unready = Vec::new();
    let statuses = eventually(what, &story.namespace, SOON, async || {
        let statuses = statuses(story).await?;
        let mut not = statuses
            .iter()
            .filter(|status| !is(status, ConditionType::Ready, "True"));
        unready.extend(not.next().cloned());
        Ok(statuses.iter().all(&told).then_some(statuses))
    })
    .await?;
    let after = Timestamp::now().duration_since(stopped).as_secs_f64();
    let left = total(&statuses);
    eprintln!("outage: {what} after {after:.1} s, {left} still to come");
    for status in &statuses {
        assert_eq!(status.desired_replicas, Some(6), "{what}: {:?}", status.decisions);
    }
    assert!(unready.is_empty(), "not ready: {:?}", unready[0].conditions);
    Ok(left)
}

fn total(statuses: &[StreamStageStatus]) -> u64 {
    let lags = statuses.iter().filter_map(|status| status.lag.as_ref());
    lags.map(|lag| lag.total).sum()
}
