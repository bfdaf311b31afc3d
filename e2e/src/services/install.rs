//! Finds the programs of the services, and installs missing ones where that is possible.
//!
//! As root on a Debian-like system it runs `apt-get`; otherwise the error names the package.
//! It must never let a package start the distribution's own service.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Script of Debian that decides if a package may start its service; exit code 101 means no.
const POLICY_SCRIPT: &str = "/usr/sbin/policy-rc.d";

/// Debian packages of all services.
const PACKAGES: &str = "openjdk-17-jre-headless maven postgresql pgbouncer redis-server";

/// Finds a program on the `PATH`, in `/usr/sbin` or in `/sbin`, or installs `package`.
///
/// # Errors
/// When it is missing and cannot be installed; the message has the remedy.
pub(super) async fn find_or_install_program(name: &str, package: &str) -> Result<PathBuf> {
    find_or_install(package, || find_on_path(name)).await
}

/// Calls `find`; if it returns `None`, installs `package` and calls it again.
///
/// # Errors
/// As [`find_or_install_program`].
pub(super) async fn find_or_install(package: &str, find: impl Fn() -> Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = find() {
        return Ok(path);
    }
    if !is_root() || find_on_path("apt-get").is_none() {
        bail!(
            "{package} is not installed. On Debian, install everything that the services need: sudo apt-get install {PACKAGES}"
        );
    }
    install(package).await?;
    find().with_context(|| format!("the package {package} is installed, but its programs were not found"))
}

/// Returns true if the caller is root; PostgreSQL does not run as root.
#[must_use]
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|itself| itself.uid() == 0)
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

async fn install(package: &str) -> Result<()> {
    tracing::info!(package, "installing with apt-get");
    let _policy = NoServiceStart::install_policy()?;
    if apt_get(&["install", package]).await.is_err() {
        apt_get(&["update"]).await?;
        apt_get(&["install", package]).await?;
    }
    Ok(())
}

async fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args([
            "-qq",
            "-y",
            "--no-install-recommends",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .args(arguments);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    let output = command.output().await.context("cannot run apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Guard that prevents packages from starting their services. An existing policy is not changed.
struct NoServiceStart {
    is_own_policy: bool,
}

impl NoServiceStart {
    fn install_policy() -> Result<Self> {
        let is_own_policy = !Path::new(POLICY_SCRIPT).exists();
        if is_own_policy {
            fs::write(POLICY_SCRIPT, "#!/bin/sh\nexit 101\n")
                .with_context(|| format!("cannot write {POLICY_SCRIPT}"))?;
            fs::set_permissions(POLICY_SCRIPT, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { is_own_policy })
    }
}

impl Drop for NoServiceStart {
    fn drop(&mut self) {
        if self.is_own_policy {
            let _removed = fs::remove_file(POLICY_SCRIPT);
        }
    }
}
