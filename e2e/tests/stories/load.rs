#![expect(
    clippy::disallowed_methods,
    reason = "edge: takes the time at which the load begins"
)]
//! A load of orders scales the stage that it comes to up in one move, and down once when it is done; the others follow.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use crds::StreamStage;
use crds::stage::{self, ScaleDown, Scaling, ScalingMode, Target};
use crds::status::{ConditionType, Decision};
use e2e::cluster::{SOON, Story, eventually, run};
use e2e::pipeline::STAGES;
use k8s_openapi::jiff::Timestamp;

const ORDERS: usize = 50_000;
const PARTITIONS: u32 = 6;
/// Records from which on a reading of the load asks for a worker on each partition.
const SEEN: u64 = 2_000;
/// The most moves of a stage.
const MOVES: usize = 5;
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
        scale_down: ScaleDown {
            stabilization_window: stage::Duration::from_secs(60),
            cooldown: stage::Duration::from_secs(20),
        },
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
        if stage.name() == STAGES[0] {
            // A reading that falls into the first moment of the load sees a part of it: no move of its own.
            stage.spec.scaling.min_replicas = 0;
            stage.spec.scaling.activation_lag = SEEN;
        }
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
        story.is(stage, ConditionType::LagObserved, "True").await?;
    }
    let began = Timestamp::now();
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
    let mut lines = assignments(&story.namespace)?;
    let marts = story.reached_the_marts().await?;
    lines.extend(assignments(&story.namespace)?);
    eprintln!(
        "load: {} products, {} tags equal the recount",
        marts.products.len(),
        marts.tags.len()
    );
    let mut members = BTreeMap::new();
    for name in STAGES {
        let stage = eventually("the workers go again", &story.namespace, CALM, async || {
            let stage = live(&story, name).await?;
            let status = stage.status.clone().context("no status")?;
            let drained = status.lag.is_some_and(|lag| lag.total == 0);
            let idle = stage.spec.scaling.min_replicas;
            Ok((drained && status.desired_replicas == Some(idle)).then_some(stage))
        })
        .await?;
        let moves = moves(&stage);
        for decision in &moves {
            let after = decision.time.duration_since(began).as_secs_f64();
            eprintln!(
                "load: {name} {} -> {} after {after:.1} s: {}",
                decision.from, decision.to, decision.reason
            );
        }
        let numbers: Vec<(u32, u32)> = moves
            .iter()
            .map(|decision| (decision.from, decision.to))
            .collect();
        if name == STAGES[0] {
            assert_eq!(numbers, [(0, PARTITIONS), (PARTITIONS, 0)], "{name}");
        }
        let came_and_went: u32 = numbers.iter().map(|(from, to)| from.abs_diff(*to)).sum();
        members.insert(name, 1 + usize::try_from(came_and_went)?);
        // What comes to the other stages rises and falls with what the one before them does.
        assert!(numbers.len() <= MOVES, "{name}: {numbers:?}");
    }
    lines.extend(assignments(&story.namespace)?);
    for (name, members) in members {
        bounded(&lines, name, members);
    }
    story.end()
}

/// What the workers that are there have said of partitions assigned to them, each line once.
fn assignments(namespace: &str) -> Result<BTreeSet<String>> {
    let workers = "--selector=app.kubernetes.io/name=streamstage-worker";
    let logs = ["logs", workers, "--tail=-1", "--prefix", "--timestamps"];
    let logs = run("kubectl", &[&logs[..], &["--namespace", namespace]].concat())?;
    let said = logs.lines().filter(|line| line.contains("partitions assigned"));
    Ok(said.map(str::to_owned).collect())
}

/// Prints how often partitions moved between the workers of a stage of which so many came and went, and bounds it.
fn bounded(lines: &BTreeSet<String>, stage: &str, members: usize) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines {
        let pod = line.split(' ').next().unwrap_or_default();
        if pod.contains(&format!("/{stage}-worker-")) {
            *counts.entry(pod).or_default() += 1;
        }
    }
    let most = counts.into_values().max().unwrap_or(0);
    eprintln!(
        "load: {stage}: {members} members came and went, one had {most} assignments, and none had more"
    );
    assert!(most > 0, "{stage}: no worker tells of an assignment");
    // Whoever comes or goes costs two: partitions are given back, and then given out.
    assert!(most <= 2 * (members + 1), "{stage}: {most} of {members}");
}
