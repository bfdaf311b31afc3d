//! Stages in their desired state cause no write to the API server for two minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{DEFAULT_DEADLINE, OPERATOR_NAMESPACE, Story, eventually, run};
use anyhow::Result;
use crds::StreamStage;
use crds::status::ConditionType;
use e2e::pipeline::STAGES;

/// Time without a write.
const QUIET_PERIOD: Duration = Duration::from_mins(2);
/// Metric that counts the operator's writes.
const WRITES_METRIC: &str = "streamstage_operator_api_writes_total";

/// Resource versions of all objects in the namespace that the operator writes.
fn resource_versions(namespace: &str) -> Result<BTreeMap<String, String>> {
    let kinds = "streamstages,configmaps,services,serviceaccounts,poddisruptionbudgets,deployments";
    let path = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    let printed = run("kubectl", &["get", kinds, path, "--namespace", namespace])?;
    let lines = printed.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect())
}

/// Values of the write metric of every operator pod.
fn write_metrics() -> Result<BTreeMap<String, Vec<String>>> {
    let operators = "--selector=app.kubernetes.io/component=operator";
    let get = [
        "get",
        "pods",
        operators,
        "--output=name",
        "--namespace",
        OPERATOR_NAMESPACE,
    ];
    let mut metrics_by_pod = BTreeMap::new();
    for pod in run("kubectl", &get)?.lines() {
        let name = pod.trim_start_matches("pod/");
        let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{name}:8080/proxy/metrics");
        let metrics = run("kubectl", &["get", "--raw", &path])?;
        let writes = metrics.lines().filter(|line| line.starts_with(WRITES_METRIC));
        metrics_by_pod.insert(name.to_owned(), writes.map(str::to_owned).collect());
    }
    Ok(metrics_by_pod)
}

#[tokio::test]
async fn stages_in_their_desired_state_cause_no_write_for_two_minutes() -> Result<()> {
    let mut story = Story::create("quiet", 2).await?;
    story.start().await?;
    story.produce(100).await?;
    story.wait_for_marts().await?;
    for stage in STAGES {
        story
            .wait_for_status(stage, ConditionType::Reconciling, "False")
            .await?;
        // Lag 0 is reported up to a minute later, because a small lag is reported once per minute.
        eventually(
            "lag 0 is reported",
            &story.namespace,
            DEFAULT_DEADLINE,
            async || {
                let status = story.api::<StreamStage>().get(stage).await?.status;
                let lag = status.and_then(|status| status.lag);
                Ok(lag.is_some_and(|lag| lag.total == 0).then_some(()))
            },
        )
        .await?;
    }
    // The operator also writes for stages of earlier stories, until they are deleted.
    let description = "no other stage exists";
    eventually(description, &story.namespace, DEFAULT_DEADLINE, async || {
        let get = ["get", "streamstages", "--all-namespaces", "--output=name"];
        Ok((run("kubectl", &get)?.lines().count() == STAGES.len()).then_some(()))
    })
    .await?;
    let versions = resource_versions(&story.namespace)?;
    let writes = write_metrics()?;
    assert!(
        writes.values().any(|writes| !writes.is_empty()),
        "no operator exposes {WRITES_METRIC}: {writes:?}"
    );
    assert!(versions.len() >= 18, "{versions:?}");
    // The absence of a write cannot be polled.
    tokio::time::sleep(QUIET_PERIOD).await;
    assert_eq!(resource_versions(&story.namespace)?, versions);
    assert_eq!(write_metrics()?, writes);
    story.finish()
}
