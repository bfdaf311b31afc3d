//! A person applies the stages with kubectl, and orders reach the marts.

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{Story, run};

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

    let table = run("kubectl", &["get", "stages", "--namespace", &story.namespace])?;
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
    let line = table
        .lines()
        .find(|line| line.starts_with("stg"))
        .unwrap_or_default();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[..4], ["stg", "stg", "True", "2/2"], "{table}");
    story.end().await
}
