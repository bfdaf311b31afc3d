//! The chart is upgraded with a changed CRD, and uninstalled: the stages stay.

use std::path::{Path, PathBuf};

use crate::cluster::{DEFAULT_DEADLINE, OPERATOR_NAMESPACE, Story, eventually, run};
use anyhow::{Context as _, Result};
use crds::status::ConditionType;
use e2e::pipeline::STAGES;

pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chart");
const CRD: &str = "customresourcedefinition/streamstages.streamstage.dev";

/// Guard of the release; dropping it installs the release again, also after a failure, for later stories.
pub(crate) struct Release {
    values: PathBuf,
}

impl Release {
    /// Saves the values of the installed release.
    pub(crate) fn save(folder: &Path) -> Result<Self> {
        let values = folder.join("values.yaml");
        let installed = run(
            "helm",
            &[
                "get",
                "values",
                "streamstage",
                "--namespace",
                OPERATOR_NAMESPACE,
                "--output=yaml",
            ],
        )?;
        std::fs::write(&values, installed)?;
        Ok(Self { values })
    }

    /// Installs a chart, or upgrades to it.
    fn install(&self, chart: &str) -> Result<String> {
        self.install_with(chart, &[])
    }

    /// As [`Self::install`], with more flags.
    pub(crate) fn install_with(&self, chart: &str, flags: &[&str]) -> Result<String> {
        let values = self.values.display().to_string();
        let upgrade = ["upgrade", "--install", "streamstage", chart, "--values", &values];
        let wait = ["--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout=120s"];
        run("helm", &[&upgrade[..], &wait, flags].concat())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Err(error) = self.install(CHART) {
            eprintln!("cannot install the operator again: {error:#}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_updates_the_crd_and_an_uninstall_retains_the_stages() -> Result<()> {
    let mut story = Story::create("helm", 2).await?;
    story.start().await?;

    // A later version of the chart, whose CRD has one more short name.
    let later = story.pipeline.folder().join("chart");
    run("cp", &["--recursive", CHART, &later.display().to_string()])?;
    let file = later.join("files/streamstages.yaml");
    let text = std::fs::read_to_string(&file)?;
    let changed = text.replacen("shortNames:\n", "shortNames:\n    - laterstage\n", 1);
    assert_ne!(text, changed, "the CRD has no short names");
    std::fs::write(&file, changed)?;
    let release = Release::save(story.pipeline.folder())?;
    release
        .install(&later.display().to_string())
        .context("helm upgrade")?;
    let names = run(
        "kubectl",
        &["get", CRD, "--output=jsonpath={.spec.names.shortNames}"],
    )?;
    assert!(names.contains("laterstage"), "{names}");
    eventually(
        "the new short name is served",
        &story.namespace,
        DEFAULT_DEADLINE,
        async || {
            let get = ["get", "laterstage", "stg", "--namespace", &story.namespace];
            run("kubectl", &get).map(Some)
        },
    )
    .await?;

    run(
        "helm",
        &[
            "uninstall",
            "streamstage",
            "--namespace",
            OPERATOR_NAMESPACE,
            "--wait",
        ],
    )?;
    run(
        "kubectl",
        &["get", "streamstage", "stg", "--namespace", &story.namespace],
    )
    .context("the stage still exists")?;
    story.produce(200).await?;
    story
        .wait_for_marts()
        .await
        .context("the workers continue without an operator")?;

    release.install(CHART).context("helm install")?;
    for stage in STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
    }
    let names = run(
        "kubectl",
        &["get", CRD, "--output=jsonpath={.spec.names.shortNames}"],
    )?;
    assert!(!names.contains("laterstage"), "{names}");
    run(
        "helm",
        &["test", "streamstage", "--namespace", OPERATOR_NAMESPACE],
    )?;
    // Before the folder of the story, which has the values, is removed.
    drop(release);
    story.finish()
}
