//! Stages that are as they should be cause no write to the API server for two minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use crds::StreamStage;
use e2e::cluster::{SOON, SYSTEM, Story, eventually, run};

/// How long nothing may be written.
const QUIET: Duration = Duration::from_mins(2);
/// What the operator counts.
const WRITES: &str = "streamstage_operator_writes_total";

/// Every object of the namespace that the operator writes, with its version.
fn versions(namespace: &str) -> Result<BTreeMap<String, String>> {
    let kinds = "streamstages,configmaps,services,serviceaccounts,poddisruptionbudgets,deployments";
    let path = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    let printed = run("kubectl", &["get", kinds, path, "--namespace", namespace])?;
    let lines = printed.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect())
}

/// The writes to the API server that every operator counts.
fn writes() -> Result<BTreeMap<String, Vec<String>>> {
    let operators = "--selector=app.kubernetes.io/component=operator";
    let get = ["get", "pods", operators, "--output=name", "--namespace", SYSTEM];
    let mut writes = BTreeMap::new();
    for pod in run("kubectl", &get)?.lines() {
        let name = pod.trim_start_matches("pod/");
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:8080/proxy/metrics");
        let figures = run("kubectl", &["get", "--raw", &path])?;
        let counted = figures.lines().filter(|line| line.starts_with(WRITES));
        writes.insert(name.to_owned(), counted.map(str::to_owned).collect());
    }
    Ok(writes)
}

#[tokio::test]
async fn converged_stages_are_not_written_for_two_minutes() -> Result<()> {
    let mut story = Story::begin("quiet", 2).await?;
    story.start().await?;
    story.produce(100).await?;
    story.reached_the_marts().await?;
    for stage in e2e::pipeline::STAGES {
        story
            .is(stage, crds::status::ConditionType::Reconciling, "False")
            .await?;
        // The last figures of the lag are told when it has been gone for a minute.
        eventually("the lag is told to be gone", &story.namespace, SOON, async || {
            let status = story.api::<StreamStage>().get(stage).await?.status;
            let lag = status.and_then(|status| status.lag);
            Ok(lag.is_some_and(|lag| lag.total == 0).then_some(()))
        })
        .await?;
    }
    // The operator writes for the stages of other stories too, until they are gone.
    let alone = "there are no other stages";
    eventually(alone, &story.namespace, SOON, async || {
        let get = ["get", "streamstages", "--all-namespaces", "--output=name"];
        Ok((run("kubectl", &get)?.lines().count() == e2e::pipeline::STAGES.len()).then_some(()))
    })
    .await?;
    let before = versions(&story.namespace)?;
    let written = writes()?;
    assert!(
        written.values().any(|counted| !counted.is_empty()),
        "no operator counts its writes: {written:?}"
    );
    assert!(before.len() >= 18, "{before:?}");
    // The absence of a write can only be waited for.
    tokio::time::sleep(QUIET).await;
    assert_eq!(versions(&story.namespace)?, before);
    assert_eq!(writes()?, written);
    story.end()
}
