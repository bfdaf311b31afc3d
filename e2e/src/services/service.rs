//! One service: started here, or one that already runs somewhere and was named.
//!
//! A service that was started here can be stopped, killed and started again alone, on the same data.

use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::{self, Launch};
use super::{kafka, postgres, redis};

/// How long a service may take until it answers.
const DEADLINE: Duration = Duration::from_secs(90);

/// Where a service answers; each kind has its own way to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Bootstrap servers, `host:port,…`.
    Kafka(String),
    /// URL of a superuser.
    Postgres(String),
    /// URL.
    Redis(String),
}

impl Endpoint {
    /// Asks once whether the service is ready; answers with its version, empty when it does not tell.
    async fn probe(&self) -> Result<String> {
        match self {
            Self::Kafka(servers) => kafka::probe(servers).await.map(|()| String::new()),
            Self::Postgres(url) => postgres::probe(url).await,
            Self::Redis(url) => redis::probe(url).await,
        }
    }

    /// The endpoint as it was given: bootstrap servers or a URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Kafka(text) | Self::Postgres(text) | Self::Redis(text) => text,
        }
    }
}

/// A local service.
#[derive(Debug)]
pub struct Service {
    endpoint: Endpoint,
    version: String,
    /// `None` for a service that was named.
    launch: Option<Launch>,
    child: Option<Child>,
}

impl Service {
    /// A service that runs already; fails if it does not answer.
    pub(super) async fn named(endpoint: Endpoint) -> Result<Self> {
        let asked = tokio::time::timeout(Duration::from_secs(10), endpoint.probe()).await;
        let version = asked.context("no answer within 10 s").flatten();
        let version = version.with_context(|| format!("{} does not answer", endpoint.as_str()))?;
        Ok(Self {
            endpoint,
            version,
            launch: None,
            child: None,
        })
    }

    /// A service that `start` will start.
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

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its version as far as it is known.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `:port` of a service that was started here, else the endpoint.
    #[must_use]
    pub fn place(&self) -> &str {
        match &self.launch {
            Some(launch) => launch.address.trim_start_matches("127.0.0.1"),
            None => self.endpoint.as_str().rsplit('@').next().unwrap_or_default(),
        }
    }

    /// Starts the service on its data and waits until it answers.
    ///
    /// # Errors
    /// When it runs already, was not started here, ends, or does not answer within 90 s; with the last lines of its log.
    pub async fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.endpoint.as_str());
        }
        self.child = Some(self.launch()?.spawn()?);
        let deadline = Instant::now() + DEADLINE;
        loop {
            // A server that is starting may accept a connection and leave it hanging.
            let asked = tokio::time::timeout(Duration::from_secs(5), self.endpoint.probe()).await;
            let refused = match asked.context("no answer within 5 s").flatten() {
                Ok(version) if version.is_empty() => return Ok(()),
                Ok(version) => {
                    self.version = version;
                    return Ok(());
                }
                Err(error) => error,
            };
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() {
                self.child = None;
            }
            if ended.is_some() || Instant::now() > deadline {
                return Err(self.failed(ended, &refused));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the service in good order: its data is kept.
    ///
    /// # Errors
    /// When it does not run here, or does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(None).await
    }

    /// Kills the service with SIGKILL, as a crash would: Redis loses its data, the others recover theirs.
    ///
    /// # Errors
    /// When it does not run here.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Some("KILL")).await
    }

    async fn end(&mut self, signal: Option<&str>) -> Result<()> {
        let launch = self.launch()?;
        if self.child.is_none() {
            bail!("{} is stopped already", launch.name);
        }
        process::stop(&launch.pid_file(), signal).await?;
        self.reap();
        Ok(())
    }

    /// Takes the exit status of a process that has ended, so that no zombie stays.
    pub(super) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _status = child.wait();
        }
    }

    fn launch(&self) -> Result<&Launch> {
        let named = || {
            format!(
                "{} was not started here: start and stop it yourself",
                self.endpoint.as_str()
            )
        };
        self.launch.as_ref().with_context(named)
    }

    fn failed(&self, ended: Option<std::process::ExitStatus>, refused: &anyhow::Error) -> anyhow::Error {
        let (name, log) = self
            .launch
            .as_ref()
            .map_or(("", String::new()), |launch| (launch.name, launch.log_tail()));
        let how = ended.map_or_else(
            || format!("does not answer: {refused:#}"),
            |status| format!("ended: {status}"),
        );
        anyhow::anyhow!("{name} {how}\nthe end of its log:\n{log}")
    }
}
