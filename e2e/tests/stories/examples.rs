//! Every file of `examples/` is applied as it stands.

use anyhow::Result;
use e2e::cluster::{SERVICES, SOON, eventually, run};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

#[tokio::test]
async fn every_example_is_applied_by_kubectl() -> Result<()> {
    // The example of a cluster expects its services in its own namespace, and a topic and a database.
    let namespace = "orders";
    for name in [namespace, "local"] {
        run("kubectl", &["create", "namespace", name])?;
    }
    for service in ["kafka", "postgres", "redis"] {
        let target = format!("{service}.{SERVICES}.svc.cluster.local");
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
    run(
        "kubectl",
        &[
            "create",
            "secret",
            "generic",
            "orders-postgres",
            "--from-literal=username=postgres",
            "--from-literal=password=streamstage",
            "--namespace",
            namespace,
        ],
    )?;
    let cluster = e2e::cluster::Cluster::connect().await?;
    for topic in ["order-service_orders", "stg-service-orders", "dds-service-orders"] {
        cluster.services.create_topic(topic, 3).await?;
        cluster.services.create_topic(&format!("{topic}.dlq"), 3).await?;
    }
    let mut files = 0;
    for file in std::fs::read_dir(EXAMPLES)? {
        let file = file?.path();
        run("kubectl", &["apply", "--filename", &file.display().to_string()])?;
        files += 1;
    }
    assert!(files >= 2, "{files}");
    eventually("the example's stages have workers", namespace, SOON, async || {
        let path = "--output=jsonpath={range .items[*]}{.status.replicas} {end}";
        let replicas = run(
            "kubectl",
            &["get", "streamstages", path, "--namespace", namespace],
        )?;
        Ok((replicas.split_whitespace().collect::<Vec<_>>() == ["1", "1", "1"]).then_some(()))
    })
    .await?;
    run(
        "kubectl",
        &["delete", "namespace", namespace, "local", "--wait=false"],
    )?;
    Ok(())
}
