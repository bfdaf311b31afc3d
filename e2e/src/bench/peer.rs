//! A loader in Python, as a careful user would write it: one statement per batch, offsets committed after the rows.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::measurement::Measurement;
use crate::pipeline::Pipeline;
use crate::services::cache_folder;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/python_loader.py");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/requirements.txt");

/// Output of the program.
#[derive(Debug, Deserialize)]
struct Printed {
    records: f64,
    seconds: f64,
    cpu_seconds: f64,
}

/// Loads the source topic with the Python loader, and returns its figures.
///
/// # Errors
/// When Python or its packages cannot be installed, or the program fails.
pub(super) async fn load(pipeline: &Pipeline) -> Result<Measurement> {
    let python = tokio::task::spawn_blocking(install).await??;
    let options = pipeline.pool().connect_options();
    let output = tokio::process::Command::new(python)
        .arg(PROGRAM)
        .arg(pipeline.bootstrap_servers())
        .arg(pipeline.source_topic())
        .env("PGHOST", options.get_host())
        .env("PGPORT", options.get_port().to_string())
        .env("PGUSER", options.get_username())
        .env("PGPASSWORD", pipeline.password())
        .env("PGDATABASE", options.get_database().unwrap_or_default())
        .env("PGSSLMODE", "disable")
        .output()
        .await
        .context("cannot run the Python loader")?;
    ensure!(
        output.status.success(),
        "the Python loader failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed: Printed = serde_json::from_slice(&output.stdout)?;
    Ok(Measurement {
        records: printed.records,
        seconds: printed.seconds,
        worker_micros: printed.cpu_seconds * 1e6 / printed.records,
        postgres_micros: f64::NAN,
        wal_bytes: f64::NAN,
        table_bytes: f64::NAN,
        peak_rss_bytes: 0.0,
    })
}

/// Installs the pinned packages into an environment in the cache, once; returns its Python.
fn install() -> Result<PathBuf> {
    let folder = cache_folder()?.join("bench-python");
    let (python, marker) = (folder.join("bin/python"), folder.join("requirements.txt"));
    let wanted = std::fs::read(REQUIREMENTS)?;
    if std::fs::read(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder))?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ])
        .arg(REQUIREMENTS))?;
    std::fs::write(marker, wanted)?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
