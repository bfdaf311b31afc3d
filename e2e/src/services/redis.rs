//! Redis: no background saves, but a save on a graceful stop, so that the data survives a restart.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::install;
use super::process::Launch;

/// Number of databases; every pipeline of a test uses its own.
const DATABASE_COUNT: u32 = 64;

/// Finds `redis-server`, or installs it.
///
/// # Errors
/// When it is missing and cannot be installed.
pub(super) async fn find_program() -> Result<PathBuf> {
    install::find_or_install_program("redis-server", "redis-server").await
}

/// Creates the data folder and returns the launch settings.
///
/// # Errors
/// When the folder cannot be created.
pub(super) fn prepare(program: PathBuf, scratch: &Path, port: u16) -> Result<Launch> {
    let port_text = port.to_string();
    let databases = DATABASE_COUNT.to_string();
    // A save point that is never reached: without any save point Redis would not save on SIGTERM either.
    let arguments = [
        "--bind",
        "127.0.0.1",
        "--port",
        &port_text,
        "--databases",
        &databases,
        "--save",
        "86400 1000000000",
    ];
    let launch = Launch {
        name: "redis",
        address: format!("127.0.0.1:{port}"),
        program,
        arguments: arguments.map(str::to_owned).to_vec(),
        user: None,
        stop_signal: "TERM",
        scratch: scratch.to_owned(),
    };
    std::fs::create_dir_all(launch.folder())?;
    Ok(launch)
}

/// Queries the major version of the server.
///
/// # Errors
/// When the server does not answer.
pub(super) async fn probe(url: &str) -> Result<String> {
    let client = redis::Client::open(url).with_context(|| format!("{url} is not a Redis URL"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await?;
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"))
        .unwrap_or_default();
    Ok(version.split('.').next().unwrap_or_default().to_owned())
}
