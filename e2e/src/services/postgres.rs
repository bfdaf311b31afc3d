//! PostgreSQL: on TCP only, with the default durability settings, so that measurements include the cost of a commit.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::process::Command;

use super::install;
use super::process::Launch;

/// Password of the superuser `postgres`.
const PASSWORD: &str = "streamstage";

/// URL of the superuser's default database on a local server; `address` is `host:port`.
#[must_use]
pub fn local_url(address: &str) -> String {
    format!("postgres://postgres:{PASSWORD}@{address}/postgres")
}

/// Finds the folder with the programs of the newest installed server, or installs a server.
///
/// # Errors
/// When it is missing and cannot be installed.
pub(super) async fn find_programs() -> Result<PathBuf> {
    install::find_or_install("postgresql", newest_server).await
}

/// Program folder of the newest server. Debian has one folder per major version, outside the `PATH`.
fn newest_server() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let numbers = versions.filter_map(|version| version.file_name().to_str()?.parse::<u32>().ok());
    let folder = |version: u32| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
    numbers
        .filter(|version| folder(*version).join("postgres").exists())
        .max()
        .map(folder)
}

/// Creates the database cluster in the scratch folder and returns the launch settings.
///
/// # Errors
/// When `initdb` fails, or the user that PostgreSQL runs as cannot access the folder.
pub(super) async fn prepare(programs: &Path, scratch: &Path, port: u16) -> Result<Launch> {
    let settings = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=100",
        "shared_buffers=256MB",
        "max_wal_size=2GB",
        // For the time at which a row became visible.
        "track_commit_timestamp=on",
    ];
    let mut arguments = vec![
        "-D".to_owned(),
        "data".to_owned(),
        "-p".to_owned(),
        port.to_string(),
    ];
    arguments.extend(
        settings
            .iter()
            .flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]),
    );
    let launch = Launch {
        name: "postgres",
        address: format!("127.0.0.1:{port}"),
        program: programs.join("postgres"),
        arguments,
        user: if install::is_root() {
            Some(unprivileged_user()?)
        } else {
            None
        },
        // Fast shutdown; SIGTERM would wait until every client disconnects.
        stop_signal: "INT",
        scratch: scratch.to_owned(),
    };
    let folder = launch.folder();
    fs::create_dir_all(&folder)?;
    if let Some((user, group)) = launch.user {
        ensure_accessible(scratch)?;
        chown(&folder, Some(user), Some(group))?;
    }
    initdb(programs, &launch).await?;
    Ok(launch)
}

async fn initdb(programs: &Path, launch: &Launch) -> Result<()> {
    let password = launch.folder().join("password");
    fs::write(&password, PASSWORD)?;
    let mut command = Command::new(programs.join("initdb"));
    command.args([
        "-D",
        "data",
        "--username=postgres",
        "--auth=scram-sha-256",
        "--pwfile=password",
    ]);
    command.args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
    command
        .current_dir(launch.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some((user, group)) = launch.user {
        command.uid(user).gid(group);
    }
    let output = command.output().await.context("cannot run initdb")?;
    fs::remove_file(&password)?;
    if !output.status.success() {
        bail!(
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// User and group ids to run as instead of root: `postgres` or `nobody`.
///
/// # Errors
/// When the system has neither of them.
pub(super) fn unprivileged_user() -> Result<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let find = |name: &str| {
        let mut fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let account = fields.find(|fields| fields.first() == Some(&name))?;
        Some((account.get(2)?.parse().ok()?, account.get(3)?.parse().ok()?))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .context("PostgreSQL does not run as root: create a user `postgres` or `nobody`")
}

/// Checks that an unprivileged user can enter the folder and every folder above it.
fn ensure_accessible(scratch: &Path) -> Result<()> {
    for folder in scratch.ancestors() {
        if fs::metadata(folder)?.mode() & 0o001 == 0 {
            bail!(
                "PostgreSQL does not run as root, and another user cannot enter {}: choose another scratch folder with --dir",
                folder.display()
            );
        }
    }
    Ok(())
}

/// Queries the major version of the server.
///
/// # Errors
/// When the server does not answer.
pub(super) async fn probe(url: &str) -> Result<String> {
    let mut connection = connect(url).await?;
    let version: String = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(version.split('.').next().unwrap_or_default().to_owned())
}

/// Returns true if the server has a database with this name.
///
/// # Errors
/// When the server does not answer.
pub(super) async fn has_database(url: &str, name: &str) -> Result<bool> {
    let mut connection = connect(url).await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1")
        .bind(name)
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(count > 0)
}

/// Creates an empty database.
///
/// # Errors
/// When it exists or the server rejects the request.
pub(super) async fn create_database(url: &str, name: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    let statement = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

async fn connect(url: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = url
        .parse()
        .with_context(|| format!("{url} is not a PostgreSQL URL"))?;
    Ok(options.connect().await?)
}
