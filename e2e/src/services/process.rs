//! One process of a local service: how it is started, recognised again, and stopped.
//!
//! Each process leaves a file `<name>.pid` in the scratch folder: process id, start time, stop signal and address.
//! The start time tells the process from a stranger that got the same id later.
//! Nothing here signals by name, and nothing is signalled that no file names.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// The one way anything is stopped: by [`stop`], and by the watchdog when its owner is gone.
pub(super) const STOP_SCRIPT: &str = include_str!("stop.sh");

/// What starts a service, as often as it is stopped.
#[derive(Debug)]
pub(super) struct Launch {
    /// Name of the service: of its folder, its log and its pid file.
    pub name: &'static str,
    /// Where it listens, `host:port`.
    pub address: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// User and group to run as, when not the caller's.
    pub user: Option<(u32, u32)>,
    /// The signal that makes it stop in good order, without `SIG`.
    pub stop_signal: &'static str,
    /// The scratch folder of all services.
    pub scratch: PathBuf,
}

impl Launch {
    /// The service's own folder, which is also its working directory.
    #[must_use]
    pub(super) fn folder(&self) -> PathBuf {
        self.scratch.join(self.name)
    }

    /// Where everything that the service says goes.
    #[must_use]
    pub(super) fn log(&self) -> PathBuf {
        self.scratch.join(format!("{}.log", self.name))
    }

    /// The file that names the running process.
    #[must_use]
    pub(super) fn pid_file(&self) -> PathBuf {
        self.scratch.join(format!("{}.pid", self.name))
    }

    /// Starts the process in a group of its own, so that a Ctrl-C meant for the caller does not reach it.
    ///
    /// # Errors
    /// When the program or its files cannot be opened.
    pub(super) fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir(self.folder())
            .process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let started = start_time(child.id()).with_context(|| format!("{} is gone at once", self.name))?;
        let recorded = format!("{} {started} {} {}\n", child.id(), self.stop_signal, self.address);
        fs::write(self.pid_file(), recorded)?;
        Ok(child)
    }

    /// The last lines that the service logged, for an error message.
    #[must_use]
    pub(super) fn log_tail(&self) -> String {
        tail(&self.log())
    }
}

/// A process as a pid file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Name of the service.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// Where it listens, `host:port`.
    pub address: String,
}

impl Recorded {
    /// Whether that very process still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// Reads every pid file of a scratch folder, by name.
///
/// # Errors
/// When the folder or a file cannot be read.
pub(super) fn recorded(scratch: &Path) -> Result<Vec<Recorded>> {
    let mut found = Vec::new();
    for path in pid_files(scratch)? {
        let text = fs::read_to_string(&path)?;
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [pid, started, _signal, address] = fields[..] else {
            bail!(
                "{} does not hold a process id, start time, signal and address",
                path.display()
            );
        };
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        found.push(Recorded {
            name,
            pid: pid.parse()?,
            started: started.parse()?,
            address: address.into(),
        });
    }
    Ok(found)
}

/// The pid files of a scratch folder, sorted.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn pid_files(scratch: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(scratch).with_context(|| format!("cannot read {}", scratch.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pid"));
    files.sort();
    Ok(files)
}

/// Stops the process of one pid file and waits until it is gone; `signal` replaces the recorded one.
/// After 10 s without an end the process is killed. The pid file is removed.
///
/// # Errors
/// When the shell cannot be started, or the process outlives even SIGKILL.
pub(super) async fn stop(pid_file: &Path, signal: Option<&str>) -> Result<()> {
    let mut shell = tokio::process::Command::new("sh");
    shell
        .args(["-c", STOP_SCRIPT, "stop", signal.unwrap_or("")])
        .arg(pid_file);
    let output = shell
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run sh")?;
    if !output.status.success() {
        bail!(
            "cannot stop {}: {}",
            pid_file.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// When a process started, in clock ticks since boot; `None` when it is gone or a zombie.
/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold anything, so it is counted from its last bracket.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The last 20 lines of a file, or why there are none.
#[must_use]
pub(super) fn tail(path: &Path) -> String {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({} cannot be read: {error})", path.display()),
    };
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
