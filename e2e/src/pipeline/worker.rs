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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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
    pub async fn stop(self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        Ok(self.ended().await?.0)
    }

    /// Waits for its end, which nobody asked for; how it ended, and all that it has logged.
    ///
    /// # Errors
    /// When it still runs after a minute; it is killed then.
    pub async fn ended(mut self) -> Result<(ExitStatus, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, self.log()));
            }
            if Instant::now() > deadline {
                bail!(
                    "the worker does not end within {PATIENCE:?}:\n{}",
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
    /// When there is none within a minute from now.
    pub async fn logged(&self, text: &str) -> Result<(Duration, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let since_start = self.began.elapsed();
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Ok((since_start, line.to_owned()));
            }
            if Instant::now() > deadline {
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

    /// Asks one of its endpoints, such as `/readyz`: the status and the body.
    ///
    /// # Errors
    /// When it does not answer within a minute.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let address = self.address().await?;
        let asked = async {
            let mut stream = TcpStream::connect(&address).await?;
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await?;
        let answer = answer.with_context(|| format!("no answer of {address}{path}:\n{}", tail(&self.log)))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
        let status = head.split(' ').nth(1).context("no status")?;
        Ok((status.parse()?, body.to_owned()))
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
