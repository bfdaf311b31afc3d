//! Stages that are as they should be cause no write to the API server for two minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use crds::StreamStage;
use e2e::cluster::{SOON, Story, eventually, run};

/// How long nothing may be written.
const QUIET: Duration = Duration::from_mins(2);

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
    let before = versions(&story.namespace)?;
    assert!(before.len() >= 18, "{before:?}");
    // The absence of a write can only be waited for.
    tokio::time::sleep(QUIET).await;
    assert_eq!(versions(&story.namespace)?, before);
    story.end().await
}
