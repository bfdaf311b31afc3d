//! `compose.yaml` is valid for Docker Compose, and has the services, ports, topics and database of `services up --example`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, ensure};
use e2e::services::{ExampleResources, KAFKA_VERSION};
use serde_json::Value;

/// Path of a file of the repository.
fn repository_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs the parser of Docker Compose on a text.
fn parse_compose(text: &str) -> Result<Output> {
    static PARSER: LazyLock<Result<PathBuf>> = LazyLock::new(|| {
        let tools = Command::new(repository_file("e2e/cluster/tools"))
            .arg("compose-spec")
            .output()?;
        let stderr = String::from_utf8_lossy(&tools.stderr);
        ensure!(tools.status.success(), "{stderr}");
        Ok(Path::new(String::from_utf8(tools.stdout)?.trim()).join("compose-spec"))
    });
    let parser = PARSER.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    let folder = tempfile::tempdir()?;
    let compose = folder.path().join("compose.yaml");
    std::fs::write(&compose, text)?;
    Ok(Command::new(parser)
        .args(["--format", "json"])
        .arg(compose)
        .output()?)
}

fn compose_text() -> Result<String> {
    Ok(std::fs::read_to_string(repository_file("compose.yaml"))?)
}

/// The services of `compose.yaml`, by name.
fn compose_services() -> Result<serde_json::Map<String, Value>> {
    let output = parse_compose(&compose_text()?)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{stderr}");
    let model: Value = serde_json::from_slice(&output.stdout)?;
    Ok(model["services"].as_object().context("no services")?.clone())
}

#[test]
fn it_has_the_services_that_are_started_without_docker() -> Result<()> {
    let mut services = compose_services()?;
    assert!(
        services
            .values()
            .all(|service| service["healthcheck"]["test"].is_array())
    );
    services.remove("topics").context("nothing creates the topics")?;
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        ["kafka", "postgres", "redis"]
    );
    assert_eq!(
        services["kafka"]["image"],
        format!("apache/kafka:{KAFKA_VERSION}")
    );
    let help = Command::new(env!("CARGO_BIN_EXE_services"))
        .args(["up", "--help"])
        .output()?;
    let help = String::from_utf8(help.stdout)?;
    for (name, service) in &services {
        let port = &service["ports"][0];
        assert_eq!(port["host_ip"], "127.0.0.1", "{name}");
        let published = port["published"].as_str().context("no port")?;
        assert!(
            help.contains(&format!("[default: {published}]")),
            "{name}: {published}"
        );
    }
    Ok(())
}

#[test]
fn it_creates_the_topics_and_the_database_of_the_example() -> Result<()> {
    let services = compose_services()?;
    let example = ExampleResources::from_stage_file()?;
    assert_eq!(
        services["postgres"]["environment"]["POSTGRES_DB"],
        example.database.as_str()
    );
    let topics = &services["topics"];
    assert_eq!(topics["depends_on"]["kafka"]["condition"], "service_healthy");
    let names = topics["environment"]["TOPICS"].as_str().context("no topics")?;
    let names: BTreeSet<String> = names.split_whitespace().map(str::to_owned).collect();
    assert_eq!(names, example.topics);
    Ok(())
}

#[test]
fn a_misspelled_key_is_rejected() -> Result<()> {
    let misspelled = compose_text()?.replace("healthcheck:", "healthchecks:");
    let output = parse_compose(&misspelled)?;
    let stderr = String::from_utf8(output.stderr)?;
    assert!(
        !output.status.success() && stderr.contains("healthchecks"),
        "{stderr}"
    );
    Ok(())
}
