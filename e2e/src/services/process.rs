//! Process of a local service: start, identification by pid file, stop.
//!
//! Each process has a file `<name>.pid` in the scratch folder: process id, start time, stop signal and address.
//! The start time distinguishes the process from a later one with the same id.
//! This module must never signal a process by name, and only signals processes that a pid file identifies.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Script that stops services, both for [`stop`] and for the watchdog: one implementation, so that it is tested.
pub(super) const STOP_SCRIPT: &str = include_str!("stop.sh");

/// Launch settings of a service, for the first start and for every restart.
#[derive(Debug)]
pub(super) struct Launch {
    /// Name of the service, of its folder, its log and its pid file.
    pub name: &'static str,
    /// Listen address, `host:port`.
    pub address: String,
    /// Path of the program.
    pub program: PathBuf,
    /// Arguments of the program.
    pub arguments: Vec<String>,
    /// User and group ids to run as; `None` for those of the caller.
    pub user: Option<(u32, u32)>,
    /// Signal for a graceful stop, without `SIG`.
    pub stop_signal: &'static str,
    /// Scratch folder of all services.
    pub scratch: PathBuf,
}

impl Launch {
    /// Folder of the service, which is also its working directory.
    #[must_use]
    pub(super) fn folder(&self) -> PathBuf {
        self.scratch.join(self.name)
    }

    /// File for standard output and standard error of the service.
    #[must_use]
    pub(super) fn log(&self) -> PathBuf {
        self.scratch.join(format!("{}.log", self.name))
    }

    /// File that identifies the running process.
    #[must_use]
    pub(super) fn pid_file(&self) -> PathBuf {
        self.scratch.join(format!("{}.pid", self.name))
    }

    /// Starts the process in its own process group, so that a Ctrl-C for the caller does not reach it.
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
        let started = start_time(child.id()).with_context(|| format!("{} exited immediately", self.name))?;
        let entry = format!("{} {started} {} {}\n", child.id(), self.stop_signal, self.address);
        fs::write(self.pid_file(), entry)?;
        Ok(child)
    }

    /// Last lines of the log, for an error message.
    #[must_use]
    pub(super) fn log_tail(&self) -> String {
        tail(&self.log())
    }
}

/// Process that a pid file identifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedProcess {
    /// Name of the service.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Start time, in clock ticks since boot.
    pub started: u64,
    /// Listen address, `host:port`.
    pub address: String,
}

impl RecordedProcess {
    /// Returns true if exactly this process still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// Reads every pid file of a scratch folder, by name.
///
/// # Errors
/// When the folder or a file cannot be read.
pub(super) fn read_pid_files(scratch: &Path) -> Result<Vec<RecordedProcess>> {
    let mut processes = Vec::new();
    for path in list_pid_files(scratch)? {
        let text = fs::read_to_string(&path)?;
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [pid, started, _signal, address] = fields[..] else {
            bail!(
                "{} does not contain a process id, start time, signal and address",
                path.display()
            );
        };
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        processes.push(RecordedProcess {
            name,
            pid: pid.parse()?,
            started: started.parse()?,
            address: address.into(),
        });
    }
    Ok(processes)
}

/// Lists the pid files of a scratch folder, sorted by name.
///
/// # Errors
/// When the folder cannot be read.
fn list_pid_files(scratch: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(scratch).with_context(|| format!("cannot read {}", scratch.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pid"));
    files.sort();
    Ok(files)
}

/// Stops the process of one pid file, waits for its exit and removes the file; `signal` replaces the recorded one.
/// A process that still runs after 10 s is killed.
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

/// Start time of a process, in clock ticks since boot; `None` if it has exited, also as a zombie.
/// This is field 22 of `/proc/<pid>/stat`, counted from the last bracket, because the name in field 2 is arbitrary.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Last 20 lines of a file, or the reason why it cannot be read.
#[must_use]
pub(super) fn tail(path: &Path) -> String {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({} cannot be read: {error})", path.display()),
    };
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{RecordedProcess, read_pid_files, start_time};

    #[test]
    fn a_process_is_identified_by_id_and_start_time() {
        let pid = std::process::id();
        let started = start_time(pid).expect("this process runs");
        let process = |started| RecordedProcess {
            name: "test".to_owned(),
            pid,
            started,
            address: String::new(),
        };
        assert!(process(started).is_running());
        assert!(
            !process(started + 1).is_running(),
            "another process with the same id"
        );
    }

    #[test]
    fn a_pid_file_has_four_fields() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let file = scratch.path().join("kafka.pid");
        std::fs::write(&file, "17 42 TERM 127.0.0.1:9092\n").expect("a writable folder");
        let processes = read_pid_files(scratch.path()).expect("a valid file");
        assert_eq!(
            processes,
            [RecordedProcess {
                name: "kafka".to_owned(),
                pid: 17,
                started: 42,
                address: "127.0.0.1:9092".to_owned(),
            }]
        );
        std::fs::write(&file, "17 42\n").expect("a writable folder");
        assert!(read_pid_files(scratch.path()).is_err());
    }
}
