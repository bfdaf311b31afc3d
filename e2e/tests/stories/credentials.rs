//! The Kafka credentials of a stage are wrong, then corrected: the operator polls the lag again without a restart.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the cluster, and measures time"
)]

use std::time::Instant;

use crate::cluster::{OPERATOR_NAMESPACE, Story};
use anyhow::Result;
use crds::stage::{self, ScalingMode};
use crds::status::ConditionType;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

const SECRET_NAME: &str = "kafka";

/// Names and restart counts of the operator pods.
async fn operator_restarts(story: &Story) -> Result<Vec<(String, i32)>> {
    let pods: Api<Pod> = Api::namespaced(story.cluster.client.clone(), OPERATOR_NAMESPACE);
    let of_operator = ListParams::default().labels("app.kubernetes.io/component=operator");
    let restarts = |pod: &Pod| {
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        statuses.map(|status| status.restart_count).sum()
    };
    let pods = pods.list(&of_operator).await?.items;
    Ok(pods.iter().map(|pod| (pod.name_any(), restarts(pod))).collect())
}

#[tokio::test]
async fn corrected_credentials_are_used_immediately_without_an_operator_restart() -> Result<()> {
    let story = Story::create("credentials", 2).await?;
    let before = operator_restarts(&story).await?;
    assert!(!before.is_empty(), "no operator is running");
    let secret = |protocol: &str| {
        json!({
            "metadata": {"name": SECRET_NAME, "annotations": {"streamstage.dev/allow-stages": "true"}},
            "stringData": {"security.protocol": protocol},
        })
    };
    let secrets = story.api::<Secret>();
    let wrong: Secret = serde_json::from_value(secret("SSL"))?;
    secrets.create(&PostParams::default(), &wrong).await?;
    let mut stage = story.stage("cdm")?;
    stage.spec.source.auth_secret_name = Some(SECRET_NAME.to_owned());
    stage.spec.scaling.mode = ScalingMode::Auto;
    stage.spec.scaling.replicas = None;
    stage.spec.scaling.poll_interval = stage::Duration::from_secs(1);
    story.apply(&stage).await?;
    // A broker without TLS closes the connection, and does not report wrong credentials.
    let condition = story
        .wait_for_reason("cdm", ConditionType::SourceReachable, "Unreachable")
        .await?;
    assert_eq!(condition.status, "False");
    eprintln!("credentials: {}: {}", condition.reason, condition.message);

    let start = Instant::now();
    let corrected = Patch::Merge(secret("PLAINTEXT"));
    secrets
        .patch(SECRET_NAME, &PatchParams::default(), &corrected)
        .await?;
    story
        .wait_for_status("cdm", ConditionType::SourceReachable, "True")
        .await?;
    eprintln!(
        "credentials: reachable {:.1} s after the correction, with a poll interval of 1 s",
        start.elapsed().as_secs_f64()
    );
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;
    assert_eq!(operator_restarts(&story).await?, before);
    story.finish()
}
