//! A node is drained, and a node is lost, while orders flow: nothing is lost, and the marts equal the recount.
#![expect(clippy::disallowed_types, reason = "edge: watches the cluster")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use crds::stage::ScalingMode;
use crds::status::ConditionType;
use e2e::cluster::{SOON, Story, eventually, run};
use e2e::pipeline::STAGES;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

/// The node without the services, and the one with them.
const NODE: &str = "streamstage-e2e-worker";
const OTHER: &str = "streamstage-e2e-control-plane";
/// Pause between two looks at the workers while they move.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A node that takes no new pods while this is there.
struct Cordoned(&'static str);

impl Cordoned {
    fn begin(node: &'static str) -> Result<Self> {
        run("kubectl", &["cordon", node])?;
        Ok(Self(node))
    }
}

impl Drop for Cordoned {
    fn drop(&mut self) {
        if let Err(error) = run("kubectl", &["uncordon", self.0]) {
            eprintln!("{} takes no pods: {error:#}", self.0);
        }
    }
}

/// Two workers of each stage, one on each node.
async fn spread(story: &Story) -> Result<()> {
    for mut stage in story.stages()? {
        // The operator only asks the scheduler to spread them; here it matters.
        let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"streamstage.dev/stage": stage.name()}},
        }]}});
        stage.spec.worker.pod_template = serde_json::from_value(json!({"spec": {"affinity": apart}}))?;
        stage.spec.scaling.mode = ScalingMode::Manual;
        stage.spec.scaling.replicas = Some(2);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    Ok(())
}

/// Drains the node; returns the fewest ready workers that each stage had meanwhile.
async fn drained(deployments: Api<Deployment>) -> Result<BTreeMap<String, i32>> {
    let flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"];
    let drain = tokio::task::spawn_blocking(move || run("kubectl", &[&["drain", NODE], &flags[..]].concat()));
    let mut fewest = BTreeMap::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    while !drain.is_finished() {
        tick.tick().await;
        for deployment in deployments.list(&ListParams::default()).await?.items {
            let ready = deployment
                .status
                .as_ref()
                .and_then(|status| status.ready_replicas);
            let fewest: &mut i32 = fewest.entry(deployment.name_any()).or_insert(i32::MAX);
            *fewest = ready.unwrap_or(0).min(*fewest);
        }
    }
    drain.await??;
    Ok(fewest)
}

#[tokio::test]
async fn a_drained_node_loses_nothing_and_the_disruption_budget_holds() -> Result<()> {
    let mut story = Story::begin("drain", 4).await?;
    // Both workers of a stage have to go: without the budget they would go together.
    let elsewhere = Cordoned::begin(OTHER)?;
    story.start().await?;
    drop(elsewhere);
    for stage in STAGES {
        for pod in story.pods(stage).await? {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            assert_eq!(node, Some(NODE), "{}", pod.name_any());
        }
    }
    story.produce(300).await?;
    let cordoned = Cordoned::begin(NODE)?;
    let drain = tokio::spawn(drained(story.api()));
    let fewest = story.produce_during(drain).await??;
    drop(cordoned);
    eprintln!("drain: the fewest ready workers were {fewest:?}");
    assert_eq!(fewest.len(), STAGES.len(), "{fewest:?}");
    assert!(fewest.values().all(|ready| *ready >= 1), "{fewest:?}");
    story.produce(300).await?;
    for stage in STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    story.reached_the_marts().await?;
    story.end()
}

#[tokio::test]
async fn a_lost_node_loses_nothing() -> Result<()> {
    let mut story = Story::begin("lost", 4).await?;
    spread(&story).await?;
    story.produce(300).await?;
    let stop = tokio::task::spawn_blocking(|| run("docker", &["stop", "--time", "0", NODE]));
    let reached = async {
        story.produce_during(stop).await??;
        story.produce(300).await?;
        story.reached_the_marts().await
    }
    .await;
    run("docker", &["start", NODE])?;
    reached?;
    eventually("the node is back", &story.namespace, SOON * 2, async || {
        let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        Ok((run("kubectl", &["get", "node", NODE, path])? == "True").then_some(()))
    })
    .await?;
    for stage in STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    story.end()
}
