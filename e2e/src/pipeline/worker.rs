//! A worker in a process of its own, which never outlives its owner.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs the worker, and waits for what it logs"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a worker may take to stop, or to say something.
const PATIENCE: Duration = Duration::from_mins(1);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running worker; dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    log: PathBuf,
    began: Instant,
}

impl Worker {
    pub(super) fn spawn(mut command: Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let began = Instant::now();
        let child = command.spawn().context("cannot start the worker")?;
        Ok(Self { child, log, began })
    }

    /// Kills it at once, as a crash would.
    pub fn kill(self) {
        drop(self);
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// When it still runs after a minute; it is killed then.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the worker does not stop within {PATIENCE:?}:\n{}",
                    tail(&self.log)
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends it a signal, such as `STOP` and `CONT`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let mut kill = Command::new("kill");
        let sent = kill.args(["-s", signal, &self.pid().to_string()]).status()?;
        ensure!(
            sent.success(),
            "no signal {signal} to the worker, it is gone:\n{}",
            tail(&self.log)
        );
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that it holds, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.memory("VmRSS")
    }

    /// The most memory that it has held, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        self.memory("VmHWM")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: u64 = kilobytes
            .with_context(|| format!("the worker is gone:\n{}", tail(&self.log)))?
            .parse()?;
        Ok(kilobytes * 1024)
    }

    /// All that it has logged: one JSON object per line.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of its log that contains `text`; how long after the start that was, and the line.
    ///
    /// # Errors
    /// When there is none within a minute.
    pub async fn logged(&self, text: &str) -> Result<(Duration, String)> {
        loop {
            let waited = self.began.elapsed();
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Ok((waited, line.to_owned()));
            }
            if waited > PATIENCE {
                bail!(
                    "the worker does not log {text:?} within {PATIENCE:?}:\n{}",
                    tail(&self.log)
                );
            }
            tokio::time::sleep(LOOK_EVERY / 4).await;
        }
    }

    /// Address of its `/livez`, `/readyz` and `/metrics`.
    ///
    /// # Errors
    /// When it does not say where within a minute.
    pub async fn address(&self) -> Result<String> {
        let (_, line) = self.logged("serving /livez").await?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        let address = line["address"].as_str();
        Ok(address.context("the log line has no address")?.to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The worker's program: beside this one, or beside its folder (tests live in `deps`).
pub(super) fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("worker"));
    let found = beside.find(|program| program.is_file());
    found.with_context(|| {
        format!(
            "no worker beside {}: run `cargo build --release -p streamstage-worker`",
            own.display()
        )
    })
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
