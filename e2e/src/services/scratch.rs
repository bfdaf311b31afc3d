//! The scratch folder of the local services, and the watchdog that empties it.
//!
//! The watchdog is a shell that reads from a pipe whose other end only the owner holds.
//! When the owner ends, in whatever way, the pipe closes: the watchdog stops the services and removes the folder.
//! An orderly end goes the same way, so there is one way out and it is the one that is tested.
//! It must never remove a folder that it did not make: a marker file tells.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::process::{self, Recorded, STOP_SCRIPT};

/// Stands in every folder that the services made, and so may remove.
const MARKER: &str = "streamstage-services";

/// A scratch folder with its watchdog; dropping it stops what runs there and removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The folder.
    pub folder: PathBuf,
    watchdog: Option<Child>,
}

impl Scratch {
    /// Makes the folder (a fresh one in the system's temporary folder, if none is named) and starts its watchdog.
    ///
    /// # Errors
    /// When the folder exists and holds anything, or cannot be made.
    pub(super) fn make(folder: Option<&Path>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => std::path::absolute(folder)?,
            None => tempfile::Builder::new().prefix("streamstage-").tempdir()?.keep(),
        };
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        if fs::read_dir(&folder)?.next().is_some() {
            bail!(
                "{} is not empty; name another folder, or `services down` if services run there",
                folder.display()
            );
        }
        fs::write(
            folder.join(MARKER),
            "made by StreamStage's local services, which remove it\n",
        )?;
        // PostgreSQL runs as another user when the caller is root, and has to enter.
        fs::set_permissions(&folder, Permissions::from_mode(0o711))?;
        let watchdog = Some(watch(&folder, Stdio::piped())?);
        Ok(Self { folder, watchdog })
    }

    /// Lets the services live on without an owner, until [`remove`].
    ///
    /// # Errors
    /// When the watchdog cannot be ended.
    pub(super) fn abandon(mut self) -> Result<()> {
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
        let ended = watchdog.wait();
        if !ended.is_ok_and(|status| status.success()) && self.folder.exists() {
            // Somebody killed the watchdog, or a process did not end: once more, and it may say why.
            let retried = remove(&self.folder);
            tracing::warn!(folder = %self.folder.display(), ?retried, "the watchdog of the services failed");
        }
    }
}

/// Stops every service of a folder and removes it; tells what was running.
///
/// # Errors
/// When the folder was not made here, or a process does not end.
pub fn remove(folder: &Path) -> Result<Vec<Recorded>> {
    let folder = std::path::absolute(folder)?;
    if !folder.exists() {
        return Ok(Vec::new());
    }
    if !folder.join(MARKER).exists() {
        bail!(
            "{} was not made by the services (no file {MARKER} in it); left as it is",
            folder.display()
        );
    }
    let mut running = process::recorded(&folder)?;
    running.retain(Recorded::runs);
    let output = watch(&folder, Stdio::null())?.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "cannot stop the services in {}: {}",
            folder.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(running)
}

fn watch(folder: &Path, stdin: Stdio) -> Result<Child> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", STOP_SCRIPT, "watch"])
        .arg(folder)
        .process_group(0);
    shell.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
    shell.spawn().context("cannot run sh")
}
