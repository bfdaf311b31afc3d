//! A load of orders scales every stage that it comes to up in one move, and down once when it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crds::StreamStage;
use crds::stage::{self, Scaling, ScalingMode, Target};
use crds::status::{ConditionType, Decision};
use e2e::cluster::{SOON, Story, eventually, run};
use e2e::pipeline::{Pipeline, STAGES};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

const ORDERS: usize = 50_000;
const PARTITIONS: u32 = 6;
/// Records from which on a reading of the load asks for a worker on each partition.
const STEP: u16 = 2_000;
/// How soon after that a stage moves at the latest. At a poll a second it takes less than 2 s, as is printed; the rest
/// is for a machine that is busy with the load itself.
const MOVED: SignedDuration = SignedDuration::from_secs(5);
/// The most assignments of a worker: each of the others that comes or goes costs two, since partitions are given back,
/// and then given out.
const ASSIGNMENTS: usize = 4 * PARTITIONS as usize;
/// How long the workers may take to go again, once everything is in the marts.
const CALM: Duration = Duration::from_mins(3);

pub(crate) fn scaling() -> Scaling {
    Scaling {
        mode: ScalingMode::Auto,
        target: Target {
            drain_seconds: Some(30),
            lag_per_replica: None,
            // So low that the first records of a load ask for a worker on each partition.
            initial_rate: 100,
        },
        poll_interval: stage::Duration::from_secs(1),
        ..Scaling::default()
    }
}

pub(crate) async fn live(story: &Story, stage: &str) -> Result<StreamStage> {
    Ok(story.api::<StreamStage>().get(stage).await?)
}

fn moves(stage: &StreamStage) -> Vec<Decision> {
    let mut decisions = stage.status.clone().unwrap_or_default().decisions;
    decisions.reverse();
    decisions
}

#[tokio::test]
async fn a_load_scales_up_in_one_move_and_down_once() -> Result<()> {
    let mut story = Story::begin("load", i32::try_from(PARTITIONS)?).await?;
    for mut stage in story.stages()? {
        stage.spec.scaling = scaling();
        // A reading that falls into the first moment of the load sees a part of it: no move of its own.
        stage.spec.scaling.min_replicas = 0;
        stage.spec.scaling.activation_lag = u64::from(STEP);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
        story.is(stage, ConditionType::LagObserved, "True").await?;
    }
    story.produce(ORDERS).await?;
    eventually(
        "a worker for each partition",
        &story.namespace,
        SOON,
        async || {
            let status = live(&story, STAGES[0]).await?.status.unwrap_or_default();
            Ok((status.ready_replicas == PARTITIONS).then_some(()))
        },
    )
    .await?;
    // What the workers said that will be gone is read before.
    let mut lines = assignments(&story.namespace).await?;
    let marts = story.reached_the_marts().await?;
    lines.extend(assignments(&story.namespace).await?);
    eprintln!(
        "load: {} products, {} tags equal the recount",
        marts.products.len(),
        marts.tags.len()
    );
    for name in STAGES {
        let stage = eventually("the workers go again", &story.namespace, CALM, async || {
            let stage = live(&story, name).await?;
            let status = stage.status.clone().context("no status")?;
            let drained = status.lag.is_some_and(|lag| lag.total == 0);
            let idle = stage.spec.scaling.min_replicas;
            Ok((drained && status.desired_replicas == Some(idle)).then_some(stage))
        })
        .await?;
        let topic = &stage.spec.source.topic;
        let step = held(&story.pipeline, topic, usize::from(STEP) + 1)?;
        let moves = moves(&stage);
        for decision in &moves {
            let after = decision.time.duration_since(step).as_secs_f64();
            eprintln!(
                "load: {name} {} -> {} after {after:.1} s: {}",
                decision.from, decision.to, decision.reason
            );
        }
        let numbers: Vec<(u32, u32)> = moves
            .iter()
            .map(|decision| (decision.from, decision.to))
            .collect();
        assert_eq!(numbers, [(0, PARTITIONS), (PARTITIONS, 0)], "{name}");
        let after = moves[0].time.duration_since(step);
        assert!(after <= MOVED, "{name} moved {after:#} after the step");
    }
    for name in STAGES {
        bounded(&lines, name);
    }
    story.end()
}

/// When a topic came to hold so many records, by the records' own times.
fn held(pipeline: &Pipeline, topic: &str, count: usize) -> Result<Timestamp> {
    let first = pipeline.read_first(topic, i64::try_from(count)?)?;
    let mut times: Vec<i64> = first.iter().filter_map(|record| record.timestamp).collect();
    ensure!(times.len() >= count, "{topic} holds {} records", times.len());
    times.sort_unstable();
    Ok(Timestamp::from_millisecond(times[count - 1])?)
}

/// What the workers that are there have said of partitions assigned to them, each line once.
async fn assignments(namespace: &str) -> Result<BTreeSet<String>> {
    let workers = "--selector=app.kubernetes.io/name=streamstage-worker";
    let logs = ["logs", workers, "--tail=-1", "--prefix", "--timestamps"];
    let logs = [&logs[..], &["--namespace", namespace]].concat();
    // None tells while one of them has yet to begin, or is just going.
    eventually("every worker tells", namespace, SOON, async || {
        let logs = run("kubectl", &logs)?;
        let said = logs.lines().filter(|line| line.contains("partitions assigned"));
        Ok(Some(said.map(str::to_owned).collect()))
    })
    .await
}

/// Prints how often partitions were assigned to a worker of a stage, and bounds it.
fn bounded(lines: &BTreeSet<String>, stage: &str) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines {
        let pod = line.split(' ').next().unwrap_or_default();
        if pod.contains(&format!("/{stage}-worker-")) {
            *counts.entry(pod).or_default() += 1;
        }
    }
    let most = counts.into_values().max().unwrap_or(0);
    eprintln!("load: {stage}: no worker had more than {most} assignments");
    assert!(most > 0, "{stage}: no worker tells of an assignment");
    assert!(most <= ASSIGNMENTS, "{stage}: {most}");
}
