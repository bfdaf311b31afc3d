//! The chart is upgraded with another definition of the resource, and uninstalled: the resources stay.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use crds::status::ConditionType;
use e2e::cluster::{SOON, SYSTEM, Story, eventually, run};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chart");
const DEFINITION: &str = "customresourcedefinition/streamstages.streamstage.dev";

/// The release as it was installed. However the story ends, it is there again for those that follow.
struct Release {
    values: PathBuf,
}

impl Release {
    fn with_its_values(folder: &Path) -> Result<Self> {
        let values = folder.join("values.yaml");
        let given = run(
            "helm",
            &[
                "get",
                "values",
                "streamstage",
                "--namespace",
                SYSTEM,
                "--output=yaml",
            ],
        )?;
        std::fs::write(&values, given)?;
        Ok(Self { values })
    }

    /// Installs a chart, or upgrades to it.
    fn install(&self, chart: &str) -> Result<String> {
        let values = self.values.display().to_string();
        let upgrade = ["upgrade", "--install", "streamstage", chart, "--values", &values];
        let wait = ["--namespace", SYSTEM, "--wait", "--timeout=120s"];
        run("helm", &[&upgrade[..], &wait].concat())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Err(error) = self.install(CHART) {
            eprintln!("the operator is not installed again: {error:#}");
        }
    }
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
    let release = Release::with_its_values(story.pipeline.folder())?;
    release
        .install(&later.display().to_string())
        .context("helm upgrade")?;
    let names = run(
        "kubectl",
        &["get", DEFINITION, "--output=jsonpath={.spec.names.shortNames}"],
    )?;
    assert!(names.contains("laterstage"), "{names}");
    eventually("the new name is served", &story.namespace, SOON, async || {
        let get = ["get", "laterstage", "stg", "--namespace", &story.namespace];
        run("kubectl", &get).map(Some)
    })
    .await?;

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

    release.install(CHART).context("helm install")?;
    for stage in e2e::pipeline::STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    let names = run(
        "kubectl",
        &["get", DEFINITION, "--output=jsonpath={.spec.names.shortNames}"],
    )?;
    assert!(!names.contains("laterstage"), "{names}");
    run("helm", &["test", "streamstage", "--namespace", SYSTEM])?;
    // Its values are in the story's folder.
    drop(release);
    story.end()
}
