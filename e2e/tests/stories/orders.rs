//! A person applies the stages with kubectl, and orders reach the marts.

use anyhow::{Result, ensure};
use crds::status::ConditionType;
use e2e::cluster::{SOON, Story, eventually, run};

#[tokio::test]
async fn orders_applied_by_kubectl_reach_the_marts() -> Result<()> {
    let mut story = Story::begin("orders", 3).await?;
    let file = story.pipeline.folder().join("stages.json");
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": story.stages()?});
    std::fs::write(&file, list.to_string())?;
    run("kubectl", &["apply", "--filename", &file.display().to_string()])?;
    story.produce(500).await?;
    for stage in e2e::pipeline::STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    let marts = story.reached_the_marts().await?;
    eprintln!(
        "orders: {} products, {} tags equal the recount",
        marts.products.len(),
        marts.tags.len()
    );

    // Small figures are told once a minute.
    let told = "the lag is told to be gone";
    let table = eventually(told, &story.namespace, SOON, async || {
        let table = run("kubectl", &["get", "stages", "--namespace", &story.namespace])?;
        let line = table.lines().find(|line| line.starts_with("stg"));
        let cells: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        ensure!(
            cells.starts_with(&["stg", "stg", "True", "2/2", "0", "0s", "None"]),
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
            "LAG",
            "DRAIN",
            "LIMITED-BY",
            "AGE"
        ]
    );
    story.end()
}
