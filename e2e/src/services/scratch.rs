//! Scratch folder of the local services, and the watchdog that removes it.
//!
//! The watchdog is a shell that reads from a pipe; only the owner has the other end.
//! The pipe closes when the owner exits or is killed. The watchdog then stops the services and removes the folder.
//! A normal exit uses the same path, so that every test run covers it.
//! The watchdog must never remove a folder that it did not create; a marker file identifies its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::process::{self, RecordedProcess, STOP_SCRIPT};

/// Marker file of a folder that this module created and may remove.
const MARKER_FILE: &str = "streamstage-services";

/// A scratch folder with its watchdog. Dropping it stops the services in the folder and removes the folder.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Absolute path.
    pub folder: PathBuf,
    watchdog: Option<Child>,
}

impl Scratch {
    /// Creates the folder and starts its watchdog; `None` creates a folder in the system's temporary folder.
    ///
    /// # Errors
    /// When the folder is not empty or cannot be created.
    pub(super) fn create(folder: Option<&Path>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => std::path::absolute(folder)?,
            None => tempfile::Builder::new().prefix("streamstage-").tempdir()?.keep(),
        };
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        if fs::read_dir(&folder)?.next().is_some() {
            bail!(
                "{} is not empty: choose another folder, or run `services down` if services run there",
                folder.display()
            );
        }
        fs::write(
            folder.join(MARKER_FILE),
            "created by StreamStage's local services, which remove it\n",
        )?;
        // If the caller is root, PostgreSQL runs as another user, which must be able to enter the folder.
        fs::set_permissions(&folder, Permissions::from_mode(0o711))?;
        let watchdog = Some(spawn_watchdog(&folder, Stdio::piped())?);
        Ok(Self { folder, watchdog })
    }

    /// Leaves the services running without an owner, until [`remove`].
    ///
    /// # Errors
    /// When the watchdog cannot be stopped.
    pub(super) fn detach(mut self) -> Result<()> {
        if let Some(mut watchdog) = self.watchdog.take() {
            watchdog.kill()?;
            watchdog.wait()?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(mut watchdog) = self.watchdog.take() else {
            return;
        };
        drop(watchdog.stdin.take());
        let exit = watchdog.wait();
        if !exit.is_ok_and(|status| status.success()) && self.folder.exists() {
            // The watchdog was killed, or a process did not exit. The second attempt gives an error message.
            let retried = remove(&self.folder);
            tracing::warn!(folder = %self.folder.display(), ?retried, "watchdog failed");
        }
    }
}

/// Stops every service of a folder and removes the folder; returns the services that were running.
///
/// # Errors
/// When the folder was not created by this module, or a process does not exit.
pub fn remove(folder: &Path) -> Result<Vec<RecordedProcess>> {
    let folder = std::path::absolute(folder)?;
    if !folder.exists() {
        return Ok(Vec::new());
    }
    if !folder.join(MARKER_FILE).exists() {
        bail!(
            "{} was not created by the services (it has no file {MARKER_FILE}): remove it yourself",
            folder.display()
        );
    }
    let mut running = process::read_pid_files(&folder)?;
    running.retain(RecordedProcess::is_running);
    let output = spawn_watchdog(&folder, Stdio::null())?.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "cannot stop the services in {}: {}",
            folder.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(running)
}

/// Starts the watchdog; with an empty `stdin` it stops the services at once.
fn spawn_watchdog(folder: &Path, stdin: Stdio) -> Result<Child> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", STOP_SCRIPT, "watch"])
        .arg(folder)
        .process_group(0);
    shell.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
    shell.spawn().context("cannot run sh")
}
