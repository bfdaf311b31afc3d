//! Every file of `examples/` is applied as it stands.

use anyhow::{Result, ensure};
use e2e::cluster::{SERVICES, SOON, SYSTEM, Scene, eventually, run};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chart");

/// The services under the names of the example, and its login.
fn connect_services(namespace: &str) -> Result<()> {
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
    )
    .map(drop)
}

/// Makes the schemas of the warehouse by the chart's own job, with the images of the release.
fn migrate(namespace: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (values, job) = (folder.path().join("values.yaml"), folder.path().join("job.yaml"));
    let get = [
        "get",
        "values",
        "streamstage",
        "--output=yaml",
        "--namespace",
        SYSTEM,
    ];
    std::fs::write(&values, run("helm", &get)?)?;
    let values = values.display().to_string();
    let template = ["template", "streamstage", CHART, "--namespace", namespace];
    let flags = [
        "--show-only=templates/migration.yaml",
        // Without a cluster helm takes itself for an older one.
        "--kube-version=1.33",
        "--values",
        &values,
        "--set=migration.enabled=true,migration.warehouse.host=postgres",
        "--set=migration.warehouse.database=orders,migration.warehouse.authSecret=orders-postgres",
    ];
    std::fs::write(&job, run("helm", &[&template[..], &flags].concat())?)?;
    run("kubectl", &["apply", "--filename", &job.display().to_string()])?;
    let wait = ["wait", "--for=condition=complete", "job/streamstage-migrate"];
    let within = ["--timeout=90s", "--namespace", namespace];
    run("kubectl", &[&wait[..], &within].concat()).map(drop)
}

#[tokio::test]
async fn every_example_is_applied_by_kubectl() -> Result<()> {
    // The example of a cluster expects its services in its own namespace, and a topic and a database.
    let namespace = "orders";
    let mut scenes = Vec::new();
    for name in [namespace, "local"] {
        run("kubectl", &["create", "namespace", name])?;
        scenes.push(Scene::of(name));
    }
    connect_services(namespace)?;
    let cluster = e2e::cluster::Cluster::connect().await?;
    for topic in ["order-service_orders", "stg-service-orders", "dds-service-orders"] {
        for name in [topic.to_owned(), format!("{topic}.dlq")] {
            // The services outlive the story, and so do its topics.
            if let Err(error) = cluster.services.create_topic(&name, 3).await {
                let is_there = error.to_string().to_lowercase().contains("already");
                ensure!(is_there, "{error:#}");
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
    eventually("the example's stages are ready", namespace, SOON, async || {
        let path =
            "--output=jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}";
        let ready = run(
            "kubectl",
            &["get", "streamstages", path, "--namespace", namespace],
        )?;
        Ok((ready.split_whitespace().collect::<Vec<_>>() == ["True", "True", "True"]).then_some(()))
    })
    .await?;
    scenes.into_iter().try_for_each(Scene::end)
}
