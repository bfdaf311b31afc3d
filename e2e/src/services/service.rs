//! One service: local, or external.
//!
//! A local service can be stopped, killed and restarted on the same data, independently of the others.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::process::{self, Launch};
use super::{kafka, pooler, postgres, redis};

/// Timeout of a start, until the service answers.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Timeout of one probe while a service starts. A starting server may accept a connection and never answer.
const START_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the probe of an external service.
const EXTERNAL_PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Address of a service, with the kind that decides how it is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Bootstrap servers, `host:port,…`.
    Kafka(String),
    /// URL with a superuser.
    Postgres(String),
    /// URL of a pooler in front of PostgreSQL, with the server's login.
    Pooler(String),
    /// URL, with or without a database number.
    Redis(String),
}

impl Endpoint {
    /// Probes readiness once; returns the version, empty if the service does not report one.
    async fn probe(&self) -> Result<String> {
        match self {
            Self::Kafka(servers) => kafka::probe(servers).await.map(|()| String::new()),
            Self::Postgres(url) => postgres::probe(url).await,
            Self::Pooler(url) => pooler::probe(url).await.map(|()| String::new()),
            Self::Redis(url) => redis::probe(url).await,
        }
    }

    /// Bootstrap servers or URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Kafka(text) | Self::Postgres(text) | Self::Pooler(text) | Self::Redis(text) => text,
        }
    }
}

/// A service that tests use.
#[derive(Debug)]
pub struct Service {
    endpoint: Endpoint,
    version: String,
    /// `None` for an external service.
    launch: Option<Launch>,
    /// `None` for an external service and while the service is stopped.
    child: Option<Child>,
}

impl Service {
    /// Connects to an external service; fails if it does not answer.
    pub(super) async fn external(endpoint: Endpoint) -> Result<Self> {
        let probe = tokio::time::timeout(EXTERNAL_PROBE_TIMEOUT, endpoint.probe()).await;
        let version = probe.context("no answer within 10 s").flatten();
        let version = version.with_context(|| format!("{} does not answer", endpoint.as_str()))?;
        Ok(Self {
            endpoint,
            version,
            launch: None,
            child: None,
        })
    }

    /// Creates a local service, still stopped.
    pub(super) fn local(endpoint: Endpoint, launch: Launch) -> Self {
        let version = if matches!(endpoint, Endpoint::Kafka(_)) {
            kafka::VERSION
        } else {
            ""
        };
        Self {
            endpoint,
            version: version.to_owned(),
            launch: Some(launch),
            child: None,
        }
    }

    /// Address for clients.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Version; empty while it is unknown.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Address for display: `:port` of a local service, else the endpoint without its password.
    #[must_use]
    pub fn display_address(&self) -> &str {
        match &self.launch {
            Some(launch) => launch.address.trim_start_matches("127.0.0.1"),
            None => self.endpoint.as_str().rsplit('@').next().unwrap_or_default(),
        }
    }

    /// Starts the service on its data and waits until it answers.
    ///
    /// # Errors
    /// When it already runs, is external, exits, or does not answer within 90 s (with the last lines of its log).
    pub async fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} already runs", self.endpoint.as_str());
        }
        self.child = Some(self.launch()?.spawn()?);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let probe = tokio::time::timeout(START_PROBE_TIMEOUT, self.endpoint.probe()).await;
            let probe_error = match probe.context("no answer within 5 s").flatten() {
                Ok(version) if version.is_empty() => return Ok(()),
                Ok(version) => {
                    self.version = version;
                    return Ok(());
                }
                Err(error) => error,
            };
            let exit_status = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if exit_status.is_some() {
                self.child = None;
            }
            if exit_status.is_some() || Instant::now() > deadline {
                return Err(self.start_error(exit_status, &probe_error));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the service gracefully; its data survives.
    ///
    /// # Errors
    /// When it is external or stopped, or does not exit.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop_with(None).await
    }

    /// Kills the service with SIGKILL, as in a crash: Redis loses its data, the others recover theirs.
    ///
    /// # Errors
    /// When it is external or stopped.
    pub async fn kill(&mut self) -> Result<()> {
        self.stop_with(Some("KILL")).await
    }

    /// Halts the service and its child processes (SIGSTOP): connections stay open, and nothing answers.
    ///
    /// # Errors
    /// When it is external or stopped.
    pub fn halt(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Resumes a halted service (SIGCONT).
    ///
    /// # Errors
    /// When it is external or stopped.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let launch = self.launch()?;
        let child = self.child.as_ref();
        let pid = child.with_context(|| format!("{} is stopped", launch.name))?.id();
        // The parent first, so that no child starts meanwhile. A child may exit at any time.
        let script =
            "kill -s $0 $1 && for child in $(cat /proc/$1/task/*/children); do kill -s $0 $child || :; done";
        let mut shell = Command::new("sh");
        let status = shell.args(["-c", script, signal, &pid.to_string()]).status()?;
        ensure!(status.success(), "cannot send {signal} to {}", launch.name);
        Ok(())
    }

    /// Stops the service with a signal; `None` is the one for a graceful stop.
    async fn stop_with(&mut self, signal: Option<&str>) -> Result<()> {
        let launch = self.launch()?;
        if self.child.is_none() {
            bail!("{} is already stopped", launch.name);
        }
        process::stop(&launch.pid_file(), signal).await?;
        self.reap();
        Ok(())
    }

    /// Reaps a process that has exited, so that it does not stay as a zombie.
    pub(super) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _status = child.wait();
        }
    }

    fn launch(&self) -> Result<&Launch> {
        let external = || {
            format!(
                "{} is an external service: start and stop it yourself",
                self.endpoint.as_str()
            )
        };
        self.launch.as_ref().with_context(external)
    }

    fn start_error(
        &self,
        exit_status: Option<std::process::ExitStatus>,
        probe_error: &anyhow::Error,
    ) -> anyhow::Error {
        let (name, log) = self
            .launch
            .as_ref()
            .map_or(("", String::new()), |launch| (launch.name, launch.log_tail()));
        let cause = exit_status.map_or_else(
            || format!("does not answer: {probe_error:#}"),
            |status| format!("exited: {status}"),
        );
        anyhow::anyhow!("{name} {cause}\nlast lines of its log:\n{log}")
    }
}
