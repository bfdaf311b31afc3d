//! A user applies the stages with kubectl, and orders reach the marts.

use crate::cluster::{DEFAULT_DEADLINE, Story, eventually, run};
use anyhow::{Result, ensure};
use crds::status::ConditionType;

#[tokio::test]
async fn orders_applied_by_kubectl_reach_the_marts() -> Result<()> {
    let mut story = Story::create("orders", 3).await?;
    let file = story.pipeline.folder().join("stages.json");
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": story.stages()?});
    std::fs::write(&file, list.to_string())?;
    run("kubectl", &["apply", "--filename", &file.display().to_string()])?;
    story.produce(500).await?;
    for stage in e2e::pipeline::STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
    }
    let marts = story.wait_for_marts().await?;
    eprintln!(
        "orders: {} products, {} tags equal the recount",
        marts.products.len(),
        marts.tags.len()
    );

    // A small lag is reported once per minute.
    let description = "kubectl get stages shows lag 0";
    let table = eventually(description, &story.namespace, DEFAULT_DEADLINE, async || {
        let table = run("kubectl", &["get", "stages", "--namespace", &story.namespace])?;
        let line = table.lines().find(|line| line.starts_with("stg"));
        let cells: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        ensure!(
            cells.starts_with(&["stg", "stg", "True", "2/2", "2", "0", "0s", "None"]),
            "{table}"
        );
        Ok(Some(table))
    })
    .await?;
    let heading: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(
        heading,
        [
            "NAME",
            "LAYER",
            "READY",
            "REPLICAS",
            "DESIRED",
            "LAG",
            "DRAIN",
            "LIMITED-BY",
            "AGE"
        ]
    );
    story.finish()
}
