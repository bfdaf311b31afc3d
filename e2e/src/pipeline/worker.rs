//! A worker process. It is killed when its handle is dropped.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs the worker, and waits for its log lines"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Timeout of a shutdown, a log line and an HTTP request.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Interval between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running worker; dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    log: PathBuf,
    started_at: Instant,
}

impl Worker {
    pub(super) fn spawn(mut command: Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let started_at = Instant::now();
        let child = command.spawn().context("cannot start the worker")?;
        Ok(Self {
            child,
            log,
            started_at,
        })
    }

    /// Sends SIGKILL, as in a crash.
    pub fn kill(self) {
        drop(self);
    }

    /// Sends SIGTERM and waits for the exit.
    ///
    /// # Errors
    /// When the worker still runs after a minute; it is then killed.
    pub async fn stop(self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        let path = self.log.clone();
        let (status, _) = self.wait_exit().await?;
        if !status.success() {
            eprintln!("{status}:\n{}", log_tail(&path));
        }
        Ok(status)
    }

    /// Waits for the exit without sending a signal; returns the exit status and the whole log.
    ///
    /// # Errors
    /// When the worker still runs after a minute; it is then killed.
    pub async fn wait_exit(mut self) -> Result<(ExitStatus, String)> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, self.log()));
            }
            if Instant::now() > deadline {
                bail!(
                    "the worker did not exit within {TIMEOUT:?}:\n{}",
                    log_tail(&self.log)
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends a signal, such as `STOP` or `CONT`.
    ///
    /// # Errors
    /// When the worker has exited.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let mut kill = Command::new("kill");
        let status = kill.args(["-s", signal, &self.pid().to_string()]).status()?;
        ensure!(
            status.success(),
            "cannot send {signal} to the worker, it has exited:\n{}",
            log_tail(&self.log)
        );
        Ok(())
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory at present.
    ///
    /// # Errors
    /// When the worker has exited.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.memory_bytes("VmRSS")
    }

    /// Maximum of the resident memory since the start.
    ///
    /// # Errors
    /// When the worker has exited.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        self.memory_bytes("VmHWM")
    }

    /// Reads a field of `/proc/<pid>/status` that has the unit kB.
    fn memory_bytes(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: u64 = kilobytes
            .with_context(|| format!("the worker has exited:\n{}", log_tail(&self.log)))?
            .parse()?;
        Ok(kilobytes * 1024)
    }

    /// The whole log so far: one JSON object per line.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a log line that contains `text`; returns the time since the start of the worker, and the line.
    ///
    /// # Errors
    /// When no such line is logged within a minute.
    pub async fn wait_for_log(&self, text: &str) -> Result<(Duration, String)> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let since_start = self.started_at.elapsed();
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Ok((since_start, line.to_owned()));
            }
            if Instant::now() > deadline {
                bail!(
                    "the worker did not log {text:?} within {TIMEOUT:?}:\n{}",
                    log_tail(&self.log)
                );
            }
            tokio::time::sleep(POLL_INTERVAL / 4).await;
        }
    }

    /// Listen address of `/livez`, `/readyz` and `/metrics`.
    ///
    /// # Errors
    /// When the worker does not log it within a minute.
    pub async fn address(&self) -> Result<String> {
        let (_, line) = self.wait_for_log("serving /livez").await?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        let address = line["address"].as_str();
        Ok(address.context("the log line has no address")?.to_owned())
    }

    /// Sends an HTTP GET request for a path such as `/readyz`; returns the status code and the body.
    ///
    /// # Errors
    /// When the worker does not answer within a minute.
    pub async fn http_get(&self, path: &str) -> Result<(u16, String)> {
        let address = self.address().await?;
        let exchange = async {
            let mut stream = TcpStream::connect(&address).await?;
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut response = String::new();
            stream.read_to_string(&mut response).await?;
            Ok::<_, std::io::Error>(response)
        };
        let response = tokio::time::timeout(TIMEOUT, exchange).await?;
        let response = response
            .with_context(|| format!("no response from {address}{path}:\n{}", log_tail(&self.log)))?;
        let (head, body) = response.split_once("\r\n\r\n").context("not HTTP")?;
        let status = head.split(' ').nth(1).context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The worker may have exited before.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Finds the worker binary in the folder of this program or in its parent folder, because tests are in `deps`.
///
/// # Errors
/// When the worker is not built.
pub fn find_worker_binary() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let mut candidates = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("worker"));
    let worker = candidates.find(|candidate| candidate.is_file());
    worker.with_context(|| {
        format!(
            "no worker binary beside {}: run `cargo build --release -p streamstage-worker`",
            program.display()
        )
    })
}

/// Last eight lines of a log.
pub(super) fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
