#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the cluster, and takes the time of a rotation"
)]
//! The credentials for Kafka are wrong, then corrected: the lag is read again, with the operator as it was.

use std::time::Instant;

use anyhow::Result;
use crds::stage::{self, ScalingMode};
use crds::status::ConditionType;
use e2e::cluster::{SYSTEM, Story};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

const SECRET: &str = "kafka";

async fn operators(story: &Story) -> Result<Vec<(String, i32)>> {
    let pods: Api<Pod> = Api::namespaced(story.cluster.client.clone(), SYSTEM);
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
async fn corrected_credentials_are_used_at_once_and_restart_no_operator() -> Result<()> {
    let story = Story::begin("credentials", 2).await?;
    let before = operators(&story).await?;
    assert!(!before.is_empty(), "no operator is running");
    let secret =
        |protocol: &str| json!({"metadata": {"name": SECRET}, "stringData": {"security.protocol": protocol}});
    let secrets = story.api::<Secret>();
    let wrong: Secret = serde_json::from_value(secret("SSL"))?;
    secrets.create(&PostParams::default(), &wrong).await?;
    let mut stage = story.stage("cdm")?;
    stage.spec.source.auth_secret = Some(SECRET.to_owned());
    stage.spec.scaling.mode = ScalingMode::Auto;
    stage.spec.scaling.replicas = None;
    stage.spec.scaling.poll_interval = stage::Duration::from_secs(1);
    story.apply(&stage).await?;
    // A broker that speaks no TLS closes the connection, and says nothing of credentials.
    let told = story
        .says("cdm", ConditionType::SourceReachable, "Unreachable")
        .await?;
    assert_eq!(told.status, "False");
    eprintln!("credentials: {}: {}", told.reason, told.message);

    let begun = Instant::now();
    let corrected = Patch::Merge(secret("PLAINTEXT"));
    secrets.patch(SECRET, &PatchParams::default(), &corrected).await?;
    story.is("cdm", ConditionType::SourceReachable, "True").await?;
    eprintln!(
        "credentials: read with the new ones after {:.1} s of a 1 s poll",
        begun.elapsed().as_secs_f64()
    );
    story.is("cdm", ConditionType::Ready, "True").await?;
    assert_eq!(operators(&story).await?, before);
    story.end()
}
