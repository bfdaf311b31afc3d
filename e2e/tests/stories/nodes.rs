//! A node is drained, and a node is lost, while orders flow: nothing is lost, and the marts equal the recount.

use anyhow::Result;
use crds::stage::ScalingMode;
use crds::status::ConditionType;
use e2e::cluster::{SOON, Story, eventually, run};
use e2e::pipeline::STAGES;
use serde_json::json;

/// The node without the services.
const NODE: &str = "streamstage-e2e-worker";

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

#[tokio::test]
async fn a_drained_node_loses_nothing_and_the_disruption_budget_holds() -> Result<()> {
    let mut story = Story::begin("drain", 4).await?;
    spread(&story).await?;
    story.produce(300).await?;
    let drained = run(
        "kubectl",
        &[
            "drain",
            NODE,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--timeout=120s",
        ],
    );
    story.produce(300).await?;
    let back = run("kubectl", &["uncordon", NODE]);
    drained?;
    back?;
    for stage in STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    story.reached_the_marts().await?;
    story.end().await
}

#[tokio::test]
async fn a_lost_node_loses_nothing() -> Result<()> {
    let mut story = Story::begin("lost", 4).await?;
    spread(&story).await?;
    story.produce(300).await?;
    run("docker", &["stop", "--time", "0", NODE])?;
    let reached = async {
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
    story.end().await
}
