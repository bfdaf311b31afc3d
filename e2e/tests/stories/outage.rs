//! Kafka is unavailable in the middle of a load: the replicas do not change, and the load is processed after its recovery.
#![expect(clippy::disallowed_methods, reason = "edge: measures the times of the outage")]

use crate::cluster::{Container, DEFAULT_DEADLINE, SERVICES_NAMESPACE, Story, eventually};
use anyhow::{Context as _, Result};
use crds::StreamStageStatus;
use crds::stage;
use crds::status::ConditionType;
use e2e::pipeline::STAGES;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use crate::load;

const ORDERS: usize = 30_000;
/// Orders immediately before the outage.
const ORDERS_BEFORE_OUTAGE: usize = 10_000;

async fn statuses(story: &Story) -> Result<Vec<StreamStageStatus>> {
    let mut statuses = Vec::new();
    for stage in STAGES {
        let stage = load::get_stage(story, stage).await?;
        statuses.push(stage.status.context("no status")?);
    }
    Ok(statuses)
}

fn find_condition(status: &StreamStageStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == type_)
}

fn has_status(status: &StreamStageStatus, type_: ConditionType, expected: &str) -> bool {
    find_condition(status, type_).is_some_and(|condition| condition.status == expected)
}

/// A halted broker, which does not answer; dropping it resumes the broker.
struct HaltedKafka(Container);

impl HaltedKafka {
    fn halt() -> Result<Self> {
        let kafka = Self(find_broker()?);
        kafka.0.signal("SIGSTOP")?;
        Ok(kafka)
    }

    /// Stops the broker, so that its container restarts and all connections break. Returns the stopped container.
    fn restart(self) -> Result<Container> {
        // A halted process handles the signal when it is resumed, which the drop does.
        self.0.signal("SIGTERM")?;
        Ok(self.0.clone())
    }
}

fn find_broker() -> Result<Container> {
    Container::find(SERVICES_NAMESPACE, "--selector=app.kubernetes.io/name=kafka")
}

impl Drop for HaltedKafka {
    fn drop(&mut self) {
        if let Err(error) = self.0.signal("SIGCONT") {
            eprintln!("cannot resume Kafka: {error:#}");
        }
    }
}

#[tokio::test]
async fn an_outage_of_kafka_under_load_causes_no_scaling_step() -> Result<()> {
    let mut story = Story::create("outage", 6).await?;
    for mut stage in story.stages()? {
        stage.spec.scaling = load::fast_scaling();
        // Prevents an ordinary scale-down, so that any step is caused by the outage.
        stage.spec.scaling.scale_down.stabilization_window = stage::Duration::from_secs(600);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story
            .wait_for_status(stage, ConditionType::LagObserved, "True")
            .await?;
    }
    story.produce(ORDERS).await?;
    let description = "every stage is scaled up and ready";
    eventually(description, &story.namespace, DEFAULT_DEADLINE, async || {
        let statuses = statuses(&story).await?;
        let is_scaled_up = |status: &StreamStageStatus| {
            status.desired_replicas == Some(6) && has_status(status, ConditionType::Ready, "True")
        };
        Ok(statuses.iter().all(is_scaled_up).then_some(()))
    })
    .await?;

    // A new load, because the first orders may be processed by now.
    story.produce(ORDERS_BEFORE_OUTAGE).await?;
    eventually("there is a lag", &story.namespace, DEFAULT_DEADLINE, async || {
        Ok((total_lag(&statuses(&story).await?) > 0).then_some(()))
    })
    .await?;
    let halted_at = Timestamp::now();
    let halted = HaltedKafka::halt()?;
    let lag = wait_unchanged(&story, "the outage is reported", halted_at, |status| {
        is_lag_observed(status, "False", "Unreachable")
    })
    .await?;
    assert!(lag > 0, "the load was processed before the outage");
    let stopped = halted.restart()?;
    eventually(
        "the broker is restarted",
        SERVICES_NAMESPACE,
        DEFAULT_DEADLINE,
        async || Ok((find_broker()? != stopped).then_some(())),
    )
    .await?;
    let restarted_at = Timestamp::now();
    wait_unchanged(&story, "the lag is polled again", halted_at, |status| {
        let measured = status.lag.as_ref().and_then(|lag| lag.measurement_time);
        is_lag_observed(status, "True", "Observed") && measured > Some(restarted_at)
    })
    .await?;
    story.wait_for_marts().await?;
    for status in statuses(&story).await? {
        let steps = status
            .decisions
            .iter()
            .filter(|decision| decision.time > halted_at);
        assert_eq!(steps.count(), 0, "{:?}", status.decisions);
    }
    story.finish()
}

fn is_lag_observed(status: &StreamStageStatus, expected: &str, reason: &str) -> bool {
    let lag = find_condition(status, ConditionType::LagObserved);
    lag.is_some_and(|lag| lag.status == expected && lag.reason == reason)
        && has_status(status, ConditionType::SourceReachable, expected)
}

/// Waits until every status matches; meanwhile every stage must be ready, and the replicas must not change. Returns the
/// total lag.
async fn wait_unchanged(
    story: &Story,
    description: &str,
    halted_at: Timestamp,
    matches: impl Fn(&StreamStageStatus) -> bool,
) -> Result<u64> {
    let mut not_ready = Vec::new();
    let statuses = eventually(description, &story.namespace, DEFAULT_DEADLINE, async || {
        let statuses = statuses(story).await?;
        let first = statuses
            .iter()
            .find(|status| !has_status(status, ConditionType::Ready, "True"));
        not_ready.extend(first.cloned());
        Ok(statuses.iter().all(&matches).then_some(statuses))
    })
    .await?;
    let elapsed = Timestamp::now().duration_since(halted_at).as_secs_f64();
    let lag = total_lag(&statuses);
    eprintln!("outage: {description} after {elapsed:.1} s, lag {lag}");
    for status in &statuses {
        assert_eq!(
            status.desired_replicas,
            Some(6),
            "{description}: {:?}",
            status.decisions
        );
    }
    assert!(not_ready.is_empty(), "not ready: {:?}", not_ready[0].conditions);
    Ok(lag)
}

fn total_lag(statuses: &[StreamStageStatus]) -> u64 {
    let lags = statuses.iter().filter_map(|status| status.lag.as_ref());
    lags.map(|lag| lag.total).sum()
}
