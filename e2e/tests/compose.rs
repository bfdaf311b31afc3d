//! `compose.yaml` is a file that Docker Compose takes, and has what `services up` starts, on the same ports.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, ensure};
use e2e::services::KAFKA_VERSION;
use serde_json::Value;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What the reader of compose files that Docker Compose has says of a text.
fn read(text: &str) -> Result<Output> {
    static PROGRAM: LazyLock<Result<PathBuf>> = LazyLock::new(|| {
        let tools = Command::new(file("e2e/cluster/tools"))
            .arg("compose-spec")
            .output()?;
        let said = String::from_utf8_lossy(&tools.stderr);
        ensure!(tools.status.success(), "{said}");
        Ok(Path::new(String::from_utf8(tools.stdout)?.trim()).join("compose-spec"))
    });
    let program = PROGRAM.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    let folder = tempfile::tempdir()?;
    let compose = folder.path().join("compose.yaml");
    std::fs::write(&compose, text)?;
    Ok(Command::new(program)
        .args(["--format", "json"])
        .arg(compose)
        .output()?)
}

fn text() -> Result<String> {
    Ok(std::fs::read_to_string(file("compose.yaml"))?)
}

#[test]
fn it_has_the_services_that_are_started_without_docker() -> Result<()> {
    let read = read(&text()?)?;
    let said = String::from_utf8_lossy(&read.stderr);
    ensure!(read.status.success(), "{said}");
    let model: Value = serde_json::from_slice(&read.stdout)?;
    let services = model["services"].as_object().context("no services")?;
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
    for (name, service) in services {
        let port = &service["ports"][0];
        assert_eq!(port["host_ip"], "127.0.0.1", "{name}");
        let published = port["published"].as_str().context("no port")?;
        assert!(
            help.contains(&format!("[default: {published}]")),
            "{name}: {published}"
        );
        assert!(service["healthcheck"]["test"].is_array(), "{name}");
    }
    Ok(())
}

#[test]
fn a_file_with_a_misspelt_key_is_refused() -> Result<()> {
    let misspelt = text()?.replace("healthcheck:", "healthchecks:");
    let read = read(&misspelt)?;
    let said = String::from_utf8(read.stderr)?;
    assert!(!read.status.success() && said.contains("healthchecks"), "{said}");
    Ok(())
}
