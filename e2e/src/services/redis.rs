//! Redis: no background saves, but a save on an orderly stop, so that its data survives stop and start.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::install;
use super::process::Launch;

/// Databases: a test takes one of its own, by number.
pub(super) const DATABASES: u32 = 64;

/// Finds `redis-server`, or installs it.
///
/// # Errors
/// When it is missing and cannot be installed.
pub(super) async fn program() -> Result<PathBuf> {
    install::program("redis-server", "redis-server").await
}

/// Makes the data folder and says how to start.
///
/// # Errors
/// When the folder cannot be made.
pub(super) fn prepare(program: PathBuf, scratch: &Path, port: u16) -> Result<Launch> {
    let port_text = port.to_string();
    let databases = DATABASES.to_string();
    // A save point that is never reached: with none at all Redis would not save on SIGTERM either.
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

/// Asks the server for its major version.
///
/// # Errors
/// While it does not answer.
pub(super) async fn probe(url: &str) -> Result<String> {
    let client = redis::Client::open(url).with_context(|| format!("{url} is not the URL of a Redis"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let about: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await?;
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"))
        .unwrap_or_default();
    Ok(version.split('.').next().unwrap_or_default().to_owned())
}
