//! `PgBouncer` in transaction mode, in front of a PostgreSQL server. Apart from the mode and the sizes it has Debian's
//! settings: it rejects unknown startup parameters, and resets no session between two transactions.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use url::Url;

use super::process::Launch;
use super::{install, postgres};

/// Finds `pgbouncer`, or installs it.
///
/// # Errors
/// When it is missing and cannot be installed.
pub(super) async fn find_program() -> Result<PathBuf> {
    install::find_or_install_program("pgbouncer", "pgbouncer").await
}

/// Creates the settings and returns the launch settings. The pooler has three connections per database to `server`, with
/// the login of this URL; all its clients share them. `connect_query` is the first statement of each.
///
/// # Errors
/// When the folder cannot be created.
pub(super) fn prepare(
    program: PathBuf,
    scratch: &Path,
    port: u16,
    server: &Url,
    connect_query: &str,
) -> Result<Launch> {
    let launch = Launch {
        name: "pgbouncer",
        address: format!("127.0.0.1:{port}"),
        program,
        arguments: vec!["pgbouncer.ini".to_owned()],
        user: install::is_root().then(postgres::unprivileged_user).transpose()?,
        stop_signal: "INT",
        scratch: scratch.to_owned(),
    };
    let settings = launch.folder().join("pgbouncer.ini");
    fs::create_dir_all(launch.folder())?;
    fs::write(&settings, render_settings(port, server, connect_query)?)?;
    if let Some((user, group)) = launch.user {
        chown(launch.folder(), Some(user), Some(group))?;
        chown(&settings, Some(user), Some(group))?;
    }
    Ok(launch)
}

fn render_settings(port: u16, server: &Url, connect_query: &str) -> Result<String> {
    let host = server.host_str().context("the URL of PostgreSQL has no host")?;
    Ok(format!(
        "[databases]\n\
         * = host={host} port={} user={} password={} connect_query='{connect_query}'\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = transaction\n\
         default_pool_size = 3\n\
         server_round_robin = 1\n",
        server.port().unwrap_or(5432),
        server.username(),
        server.password().unwrap_or_default(),
    ))
}

/// Probes the pooler and its server with one statement.
///
/// # Errors
/// When the server does not answer.
pub(super) async fn probe(url: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    sqlx::raw_sql("SELECT 1").execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Connects as a client of the pooler.
///
/// # Errors
/// When the pooler rejects the client.
pub(super) async fn connect(url: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    Ok(options.extra_float_digits(None).connect().await?)
}
