//! A node is drained, and a node fails, under load: no order is lost, and the marts equal the recount.
#![expect(clippy::disallowed_types, reason = "edge: watches the cluster")]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{DEFAULT_DEADLINE, Story, eventually, run};
use anyhow::Result;
use crds::stage::ScalingMode;
use crds::status::ConditionType;
use e2e::pipeline::STAGES;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

/// Node without the services, which is drained and stopped.
const NODE: &str = "streamstage-e2e-worker";
/// Node with the services.
const SERVICES_NODE: &str = "streamstage-e2e-control-plane";
/// Interval between two polls of the Deployments during a drain.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Guard of a cordoned node; dropping it uncordons the node.
struct CordonedNode(&'static str);

impl CordonedNode {
    fn cordon(node: &'static str) -> Result<Self> {
        run("kubectl", &["cordon", node])?;
        Ok(Self(node))
    }
}

impl Drop for CordonedNode {
    fn drop(&mut self) {
        if let Err(error) = run("kubectl", &["uncordon", self.0]) {
            eprintln!("cannot uncordon {}: {error:#}", self.0);
        }
    }
}

/// Applies the stages with two workers each, one per node.
async fn start_spread(story: &Story) -> Result<()> {
    for mut stage in story.stages()? {
        // The operator's own spread constraint is soft; this story needs a hard one.
        let anti_affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"streamstage.dev/stage": stage.name()}},
        }]}});
        stage.spec.worker.pod_template =
            serde_json::from_value(json!({"spec": {"affinity": anti_affinity}}))?;
        stage.spec.scaling.mode = ScalingMode::Manual;
        stage.spec.scaling.replicas = Some(2);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
    }
    Ok(())
}

/// Drains the node; returns the minimum number of ready workers of each Deployment during the drain.
async fn drain_node(deployments: Api<Deployment>) -> Result<BTreeMap<String, i32>> {
    let flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"];
    let drain = tokio::task::spawn_blocking(move || run("kubectl", &[&["drain", NODE], &flags[..]].concat()));
    let mut min_ready = BTreeMap::new();
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    while !drain.is_finished() {
        ticks.tick().await;
        for deployment in deployments.list(&ListParams::default()).await?.items {
            let ready = deployment
                .status
                .as_ref()
                .and_then(|status| status.ready_replicas);
            let min: &mut i32 = min_ready.entry(deployment.name_any()).or_insert(i32::MAX);
            *min = ready.unwrap_or(0).min(*min);
        }
    }
    drain.await??;
    Ok(min_ready)
}

#[tokio::test]
async fn a_drained_node_loses_no_order_and_the_disruption_budget_is_respected() -> Result<()> {
    let mut story = Story::create("drain", 4).await?;
    // Both workers of a stage are on the node: without the budget they would be evicted at the same time.
    let cordoned = CordonedNode::cordon(SERVICES_NODE)?;
    story.start().await?;
    drop(cordoned);
    for stage in STAGES {
        for pod in story.pods(stage).await? {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            assert_eq!(node, Some(NODE), "{}", pod.name_any());
        }
    }
    story.produce(300).await?;
    let cordoned = CordonedNode::cordon(NODE)?;
    let drain = tokio::spawn(drain_node(story.api()));
    let min_ready = story.produce_during(drain).await??;
    drop(cordoned);
    eprintln!("drain: minimum of ready workers {min_ready:?}");
    assert_eq!(min_ready.len(), STAGES.len(), "{min_ready:?}");
    assert!(min_ready.values().all(|ready| *ready >= 1), "{min_ready:?}");
    story.produce(300).await?;
    for stage in STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
    }
    story.wait_for_marts().await?;
    story.finish()
}

#[tokio::test]
async fn a_failed_node_loses_no_order() -> Result<()> {
    let mut story = Story::create("lost", 4).await?;
    start_spread(&story).await?;
    story.produce(300).await?;
    let stop = tokio::task::spawn_blocking(|| run("docker", &["stop", "--time", "0", NODE]));
    let result = async {
        story.produce_during(stop).await??;
        story.produce(300).await?;
        story.wait_for_marts().await
    }
    .await;
    // Also after a failure, for later stories.
    run("docker", &["start", NODE])?;
    result?;
    eventually(
        "the node is ready again",
        &story.namespace,
        DEFAULT_DEADLINE * 2,
        async || {
            let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            Ok((run("kubectl", &["get", "node", NODE, path])? == "True").then_some(()))
        },
    )
    .await?;
    for stage in STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
    }
    story.finish()
}
