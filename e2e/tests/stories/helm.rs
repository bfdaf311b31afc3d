//! The chart is upgraded with another definition of the resource, and uninstalled: the resources stay.

use anyhow::{Context as _, Result};
use crds::status::ConditionType;
use e2e::cluster::{SYSTEM, Story, run};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chart");
const DEFINITION: &str = "customresourcedefinition/streamstages.streamstage.dev";

fn upgrade(chart: &str) -> Result<String> {
    run(
        "helm",
        &[
            "upgrade",
            "--install",
            "streamstage",
            chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--reuse-values",
            "--wait",
            "--timeout=120s",
        ],
    )
}

#[tokio::test]
async fn an_upgrade_brings_the_new_definition_and_uninstalling_keeps_the_resources() -> Result<()> {
    let mut story = Story::begin("helm", 2).await?;
    story.start().await?;

    // A chart of a later version, whose resource has another short name.
    let later = story.pipeline.folder().join("chart");
    run("cp", &["--recursive", CHART, &later.display().to_string()])?;
    let file = later.join("files/streamstages.yaml");
    let text = std::fs::read_to_string(&file)?;
    let changed = text.replacen("shortNames:\n", "shortNames:\n    - laterstage\n", 1);
    assert_ne!(text, changed, "the definition has no short names");
    std::fs::write(&file, changed)?;
    upgrade(&later.display().to_string()).context("helm upgrade")?;
    let names = run(
        "kubectl",
        &["get", DEFINITION, "--output=jsonpath={.spec.names.shortNames}"],
    )?;
    assert!(names.contains("laterstage"), "{names}");
    run(
        "kubectl",
        &["get", "laterstage", "stg", "--namespace", &story.namespace],
    )?;

    run(
        "helm",
        &["uninstall", "streamstage", "--namespace", SYSTEM, "--wait"],
    )?;
    run(
        "kubectl",
        &["get", "streamstage", "stg", "--namespace", &story.namespace],
    )
    .context("the resource is kept")?;
    story.produce(200).await?;
    story
        .reached_the_marts()
        .await
        .context("the workers go on without an operator")?;

    run(
        "helm",
        &[
            "install",
            "streamstage",
            CHART,
            "--namespace",
            SYSTEM,
            "--wait",
            "--timeout=120s",
        ],
    )?;
    for stage in e2e::pipeline::STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    let names = run(
        "kubectl",
        &["get", DEFINITION, "--output=jsonpath={.spec.names.shortNames}"],
    )?;
    assert!(!names.contains("laterstage"), "{names}");
    run("helm", &["test", "streamstage", "--namespace", SYSTEM])?;
    story.end().await
}
