//! Finds the programs that the services need, and installs a missing one where that is possible.
//!
//! As root on a Debian-like system it runs `apt-get`; otherwise it names the package.
//! It never lets a package start the distribution's own service.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Debian asks this script whether a package may start its service; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The packages of all that the services need.
const PACKAGES: &str = "openjdk-17-jre-headless maven postgresql redis-server";

/// Finds a program on the PATH and in the folders of Debian that only root has there, or installs `package`.
///
/// # Errors
/// When it is missing and cannot be installed; says what to do.
pub(super) async fn program(name: &str, package: &str) -> Result<PathBuf> {
    or_install(package, || on_path(name)).await
}

/// Finds what `find` looks for, or installs `package` and looks again.
///
/// # Errors
/// When it is missing and cannot be installed; says what to do.
pub(super) async fn or_install(package: &str, find: impl Fn() -> Option<PathBuf>) -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    if !is_root() || on_path("apt-get").is_none() {
        bail!(
            "{package} is not installed. On Debian this installs all that the services need: sudo apt-get install {PACKAGES}"
        );
    }
    install(package).await?;
    find().with_context(|| format!("the package {package} is installed but does not hold what is needed"))
}

/// Whether the caller is root, which PostgreSQL refuses to run as.
#[must_use]
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|itself| itself.uid() == 0)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

async fn install(package: &str) -> Result<()> {
    tracing::info!(package, "installing with apt-get");
    let _no_start = NoStart::begin()?;
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

/// While it lives, packages do not start their services; a policy that was there before stays untouched.
struct NoStart {
    ours: bool,
}

impl NoStart {
    fn begin() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoStart {
    fn drop(&mut self) {
        if self.ours {
            let _gone = fs::remove_file(POLICY);
        }
    }
}
