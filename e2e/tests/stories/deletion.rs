//! A stage or its namespace is deleted, also without a running operator: all objects are deleted, and nothing blocks.
#![expect(clippy::disallowed_types, reason = "edge: reads a namespace")]

use crate::cluster::{DEFAULT_DEADLINE, OperatorStopped, Story, eventually, run};
use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

#[tokio::test]
async fn the_objects_of_a_stage_are_deleted_with_it_even_without_an_operator() -> Result<()> {
    let story = Story::create("deleted", 2).await?;
    story.start().await?;
    let stopped = OperatorStopped::scale_to_zero().await?;
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
    eventually(
        "its objects are deleted",
        &story.namespace,
        DEFAULT_DEADLINE,
        async || {
            let kinds = "deployments,configmaps,services,serviceaccounts,poddisruptionbudgets,pods";
            let objects = run(
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
            Ok(objects.trim().is_empty().then_some(()))
        },
    )
    .await?;
    drop(stopped);
    story.finish()
}

#[tokio::test]
async fn a_namespace_is_deleted_with_all_its_objects() -> Result<()> {
    let story = Story::create("namespace", 2).await?;
    story.start().await?;
    let (client, name) = (story.cluster.client.clone(), story.namespace.clone());
    story.finish()?;
    let namespaces: Api<Namespace> = Api::all(client);
    eventually("the namespace is deleted", &name, DEFAULT_DEADLINE, async || {
        Ok(namespaces.get_opt(&name).await?.is_none().then_some(()))
    })
    .await
}
