//! A stage, or its whole namespace, is deleted, also while no operator runs: everything goes, nothing blocks.
#![expect(clippy::disallowed_types, reason = "edge: asks for a namespace")]

use anyhow::Result;
use e2e::cluster::{Absent, SOON, Story, eventually, run};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

#[tokio::test]
async fn a_stage_deleted_without_an_operator_takes_its_objects_along() -> Result<()> {
    let story = Story::begin("deleted", 2).await?;
    story.start().await?;
    let absent = Absent::begin().await?;
    run(
        "kubectl",
        &[
            "delete",
            "streamstage/stg",
            "--timeout=30s",
            "--namespace",
            &story.namespace,
        ],
    )?;
    eventually("its objects are gone", &story.namespace, SOON, async || {
        let kinds = "deployments,configmaps,services,serviceaccounts,poddisruptionbudgets,pods";
        let left = run(
            "kubectl",
            &[
                "get",
                kinds,
                "--selector=streamstage.dev/stage=stg",
                "--output=name",
                "--namespace",
                &story.namespace,
            ],
        )?;
        Ok(left.trim().is_empty().then_some(()))
    })
    .await?;
    drop(absent);
    story.end()
}

#[tokio::test]
async fn a_deleted_namespace_goes_with_everything_in_it() -> Result<()> {
    let story = Story::begin("namespace", 2).await?;
    story.start().await?;
    let (client, name) = (story.cluster.client.clone(), story.namespace.clone());
    story.end()?;
    let namespaces: Api<Namespace> = Api::all(client);
    eventually("the namespace is gone", &name, SOON, async || {
        Ok(namespaces.get_opt(&name).await?.is_none().then_some(()))
    })
    .await
}
