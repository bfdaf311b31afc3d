//! Every file of `examples/` is applied without a change.

use crate::cluster::{
    Cluster, DEFAULT_DEADLINE, NamespaceGuard, OPERATOR_NAMESPACE, SERVICES_NAMESPACE, eventually, run,
};
use anyhow::{Result, ensure};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chart");

/// Creates the services and the Secret that the example names.
fn connect_services(namespace: &str) -> Result<()> {
    for service in ["kafka", "postgres", "redis"] {
        let target = format!("{service}.{SERVICES_NAMESPACE}.svc.cluster.local");
        run(
            "kubectl",
            &[
                "create",
                "service",
                "externalname",
                service,
                "--external-name",
                &target,
                "--namespace",
                namespace,
            ],
        )?;
    }
    // With the certificate of the authority that has signed the server's certificate for the host `postgres`.
    let get = ["get", "secret", "orders-postgres", "--output=json"];
    let secret = run(
        "kubectl",
        &[&get[..], &["--namespace", SERVICES_NAMESPACE]].concat(),
    )?;
    let mut secret: serde_json::Value = serde_json::from_str(&secret)?;
    secret["metadata"] = serde_json::json!({
        "name": "orders-postgres",
        "namespace": namespace,
        "annotations": {"streamstage.dev/allow-stages": "true"},
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(&file, secret.to_string())?;
    let file = file.path().display().to_string();
    run("kubectl", &["create", "--filename", &file]).map(drop)
}

/// Creates the schemas of the warehouse with the chart's migration Job and the images of the release.
fn migrate(namespace: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (values, job) = (folder.path().join("values.yaml"), folder.path().join("job.yaml"));
    let get = [
        "get",
        "values",
        "streamstage",
        "--output=yaml",
        "--namespace",
        OPERATOR_NAMESPACE,
    ];
    std::fs::write(&values, run("helm", &get)?)?;
    let values = values.display().to_string();
    let template = ["template", "streamstage", CHART, "--namespace", namespace];
    let flags = [
        "--show-only=templates/migration.yaml",
        // Without a cluster, helm assumes an older Kubernetes version.
        "--kube-version=1.33",
        "--values",
        &values,
        "--set=migration.enabled=true,migration.warehouse.host=postgres",
        "--set=migration.warehouse.database=orders,migration.warehouse.authSecretName=orders-postgres",
    ];
    std::fs::write(&job, run("helm", &[&template[..], &flags].concat())?)?;
    run("kubectl", &["apply", "--filename", &job.display().to_string()])?;
    let wait = ["wait", "--for=condition=complete", "job/streamstage-migrate"];
    let options = ["--timeout=90s", "--namespace", namespace];
    run("kubectl", &[&wait[..], &options].concat()).map(drop)
}

#[tokio::test]
async fn every_example_can_be_applied_unchanged() -> Result<()> {
    // The example for a cluster needs services in its namespace, topics and a database.
    let namespace = "orders";
    let mut guards = Vec::new();
    for name in [namespace, "local"] {
        run("kubectl", &["create", "namespace", name])?;
        guards.push(NamespaceGuard::new(name));
    }
    connect_services(namespace)?;
    let cluster = Cluster::connect().await?;
    for topic in ["order-service_orders", "stg-service-orders", "dds-service-orders"] {
        for name in [topic.to_owned(), format!("{topic}.dlq")] {
            // Topics of an earlier run exist as long as the services.
            if let Err(error) = cluster.services.create_topic(&name, 3).await {
                let exists = error.to_string().to_lowercase().contains("already");
                ensure!(exists, "{error:#}");
            }
        }
    }
    let mut files = 0;
    for file in std::fs::read_dir(EXAMPLES)? {
        let file = file?.path();
        run("kubectl", &["apply", "--filename", &file.display().to_string()])?;
        files += 1;
    }
    assert!(files >= 2, "{files}");
    migrate(namespace)?;
    eventually(
        "the example's stages are ready",
        namespace,
        DEFAULT_DEADLINE,
        async || {
            let path =
                "--output=jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}";
            let ready = run(
                "kubectl",
                &["get", "streamstages", path, "--namespace", namespace],
            )?;
            Ok((ready.split_whitespace().collect::<Vec<_>>() == ["True", "True", "True"]).then_some(()))
        },
    )
    .await?;
    guards.into_iter().try_for_each(NamespaceGuard::delete)
}
