//! A load of orders scales every stage up in one step, and down once after it is processed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::{DEFAULT_DEADLINE, Story, eventually, run};
use anyhow::{Context as _, Result, ensure};
use crds::StreamStage;
use crds::stage::{self, Scaling, ScalingMode, Target};
use crds::status::{ConditionType, Decision};
use e2e::pipeline::{Pipeline, STAGES};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

const ORDERS: usize = 50_000;
const PARTITIONS: u32 = 6;
/// Lag, in records, from which a worker for each partition is recommended.
const STEP_LAG: u16 = 2_000;
/// Maximum delay of the scale-up after that lag. With a poll interval of one second it takes less than 2 s, as printed;
/// the rest is for a machine that is busy with the load itself.
const MAX_SCALE_UP_DELAY: SignedDuration = SignedDuration::from_secs(5);
/// Maximum number of assignments of one worker. Each worker that joins or leaves causes two: partitions are revoked, and
/// then assigned.
const MAX_ASSIGNMENTS: usize = 4 * PARTITIONS as usize;
/// Deadline for the scale-down, after all orders are in the marts.
const SCALE_DOWN_DEADLINE: Duration = Duration::from_mins(3);

/// Scaling with a short poll interval and a low assumed throughput.
pub(crate) fn fast_scaling() -> Scaling {
    Scaling {
        mode: ScalingMode::Auto,
        target: Target {
            drain_seconds: Some(30),
            lag_per_replica: None,
            // Low, so that a worker for each partition is recommended after the first records of a load.
            initial_rate: Some(10),
        },
        poll_interval: stage::Duration::from_secs(1),
        ..Scaling::default()
    }
}

/// Reads a stage from the API server.
pub(crate) async fn get_stage(story: &Story, stage: &str) -> Result<StreamStage> {
    Ok(story.api::<StreamStage>().get(stage).await?)
}

/// Scaling decisions of a stage, oldest first.
fn decisions(stage: &StreamStage) -> Vec<Decision> {
    let mut decisions = stage.status.clone().unwrap_or_default().decisions;
    decisions.reverse();
    decisions
}

#[tokio::test]
async fn a_load_scales_up_in_one_step_and_down_once() -> Result<()> {
    let mut story = Story::create("load", i32::try_from(PARTITIONS)?).await?;
    for mut stage in story.stages()? {
        stage.spec.scaling = fast_scaling();
        // A poll at the start of the load sees only a part of it, and must not cause a step.
        stage.spec.scaling.min_replicas = 0;
        stage.spec.scaling.activation_lag = u64::from(STEP_LAG);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
        story
            .wait_for_status(stage, ConditionType::LagObserved, "True")
            .await?;
    }
    story.produce(ORDERS).await?;
    eventually(
        "a worker for each partition",
        &story.namespace,
        DEFAULT_DEADLINE,
        async || {
            let status = get_stage(&story, STAGES[0]).await?.status.unwrap_or_default();
            Ok((status.ready_replicas == PARTITIONS).then_some(()))
        },
    )
    .await?;
    // Read before the scale-down, which deletes pods with their logs.
    let mut lines = assignment_logs(&story.namespace).await?;
    let marts = story.wait_for_marts().await?;
    lines.extend(assignment_logs(&story.namespace).await?);
    eprintln!(
        "load: {} products, {} tags equal the recount",
        marts.products.len(),
        marts.tags.len()
    );
    for name in STAGES {
        let deadline = SCALE_DOWN_DEADLINE;
        let stage = eventually("scale-down", &story.namespace, deadline, async || {
            let stage = get_stage(&story, name).await?;
            let status = stage.status.clone().context("no status")?;
            let is_drained = status.lag.is_some_and(|lag| lag.total == 0);
            let idle = stage.spec.scaling.min_replicas;
            Ok((is_drained && status.desired_replicas == Some(idle)).then_some(stage))
        })
        .await?;
        let topic = &stage.spec.source.topic;
        let load_time = time_of_record(&story.pipeline, topic, usize::from(STEP_LAG) + 1)?;
        let decisions = decisions(&stage);
        for decision in &decisions {
            let delay = decision.time.duration_since(load_time).as_secs_f64();
            eprintln!(
                "load: {name} {} -> {} after {delay:.1} s: {}",
                decision.from, decision.to, decision.reason
            );
        }
        let steps: Vec<(u32, u32)> = decisions
            .iter()
            .map(|decision| (decision.from, decision.to))
            .collect();
        assert_eq!(steps, [(0, PARTITIONS), (PARTITIONS, 0)], "{name}");
        let delay = decisions[0].time.duration_since(load_time);
        assert!(
            delay <= MAX_SCALE_UP_DELAY,
            "{name} was scaled up {delay:#} after the load"
        );
    }
    for name in STAGES {
        assert_assignments_bounded(&lines, name);
    }
    story.finish()
}

/// Timestamp of the record with which a topic has `count` records.
fn time_of_record(pipeline: &Pipeline, topic: &str, count: usize) -> Result<Timestamp> {
    let records = pipeline.read_first_records(topic, i64::try_from(count)?)?;
    let mut times: Vec<i64> = records.iter().filter_map(|record| record.timestamp).collect();
    ensure!(times.len() >= count, "{topic} has {} records", times.len());
    times.sort_unstable();
    Ok(Timestamp::from_millisecond(times[count - 1])?)
}

/// Log lines of the current workers about assigned partitions, without duplicates.
async fn assignment_logs(namespace: &str) -> Result<BTreeSet<String>> {
    let workers = "--selector=app.kubernetes.io/name=streamstage-worker";
    let logs = ["logs", workers, "--tail=-1", "--prefix", "--timestamps"];
    let logs = [&logs[..], &["--namespace", namespace]].concat();
    // The command fails while a container is starting or terminating.
    let description = "the logs of every worker are available";
    eventually(description, namespace, DEFAULT_DEADLINE, async || {
        let logs = run("kubectl", &logs)?;
        let lines = logs.lines().filter(|line| line.contains("partitions assigned"));
        Ok(Some(lines.map(str::to_owned).collect()))
    })
    .await
}

/// Checks the number of assignments of each worker of a stage, and prints the maximum.
fn assert_assignments_bounded(lines: &BTreeSet<String>, stage: &str) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines {
        let pod = line.split(' ').next().unwrap_or_default();
        if pod.contains(&format!("/{stage}-worker-")) {
            *counts.entry(pod).or_default() += 1;
        }
    }
    let max = counts.into_values().max().unwrap_or(0);
    eprintln!("load: {stage}: at most {max} assignments per worker");
    assert!(max > 0, "{stage}: no worker has logged an assignment");
    assert!(max <= MAX_ASSIGNMENTS, "{stage}: {max}");
}
