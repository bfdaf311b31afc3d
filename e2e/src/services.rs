//! Real Kafka, PostgreSQL and Redis as local processes, in a scratch folder, stopped for certain.
//!
//! [`Services`] owns them: dropping it stops them and removes their data; a watchdog does so when the owner is killed.
//! Services that already run can be named instead, and are then never started, stopped or emptied.
//! Tests, the demo and the benches start here.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs processes and asks them whether they are ready"
)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

mod install;
mod kafka;
mod postgres;
mod process;
mod redis;
mod scratch;
mod service;

pub use kafka::{VERSION as KAFKA_VERSION, create_topic};
pub use process::Recorded;
pub use scratch::remove;
pub use service::{Endpoint, Service};

/// Services that already run: these are used instead of local ones.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Named {
    /// Kafka that already runs: bootstrap servers, without TLS or password
    #[arg(long, env = "STREAMSTAGE_KAFKA", value_name = "HOST:PORT,…")]
    pub kafka: Option<String>,
    /// PostgreSQL that already runs: the URL of a superuser, with a database
    #[arg(long, env = "STREAMSTAGE_POSTGRES", value_name = "URL")]
    pub postgres: Option<String>,
    /// Redis that already runs: its URL
    #[arg(long, env = "STREAMSTAGE_REDIS", value_name = "URL")]
    pub redis: Option<String>,
}

/// Where the services live. The default is a fresh folder and free ports.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Scratch folder; must not exist or be empty. `None` makes one in the system's temporary folder.
    pub folder: Option<PathBuf>,
    /// Port of Kafka on 127.0.0.1; 0 takes a free one.
    pub kafka_port: u16,
    /// Port of PostgreSQL on 127.0.0.1; 0 takes a free one.
    pub postgres_port: u16,
    /// Port of Redis on 127.0.0.1; 0 takes a free one.
    pub redis_port: u16,
    /// What not to start, because it runs already.
    pub named: Named,
}

/// The three services, ready. Dropping it stops those that were started, and removes their data.
#[derive(Debug)]
pub struct Services {
    /// Kafka; `kafka.stop().await` and `kafka.start().await` for a fault test.
    pub kafka: Service,
    /// PostgreSQL.
    pub postgres: Service,
    /// Redis.
    pub redis: Service,
    /// How long it took until all were ready, downloads and installations included.
    pub took: Duration,
    /// `None` when all three were named.
    scratch: Option<scratch::Scratch>,
}

impl Services {
    /// Takes the named services and starts the others; what `options` does not name, the environment may
    /// (`STREAMSTAGE_KAFKA`, `STREAMSTAGE_POSTGRES`, `STREAMSTAGE_REDIS`).
    ///
    /// # Errors
    /// As [`Services::start`].
    pub async fn from_env_or_start(mut options: Options) -> Result<Self> {
        let environment =
            <Named as clap::Args>::augment_args(clap::Command::new("services")).no_binary_name(true);
        let matches = environment.try_get_matches_from(std::iter::empty::<String>())?;
        let found = <Named as clap::FromArgMatches>::from_arg_matches(&matches)?;
        let named = &mut options.named;
        named.kafka = named.kafka.take().or(found.kafka);
        named.postgres = named.postgres.take().or(found.postgres);
        named.redis = named.redis.take().or(found.redis);
        Self::start(&options).await
    }

    /// Takes the services that `options` names and starts the others; returns when all are ready.
    ///
    /// # Errors
    /// When a program is missing and cannot be installed, a port is taken, or a service does not become ready
    /// (with the last lines of its log). Nothing is left behind then.
    pub async fn start(options: &Options) -> Result<Self> {
        let began = Instant::now();
        let named = &options.named;
        // One after the other: two package managers at once block each other.
        let java = if named.kafka.is_none() {
            Some(kafka::programs().await?)
        } else {
            None
        };
        let postgres = if named.postgres.is_none() {
            Some(postgres::programs().await?)
        } else {
            None
        };
        let redis = if named.redis.is_none() {
            Some(redis::program().await?)
        } else {
            None
        };
        let needed = java.is_some() || postgres.is_some() || redis.is_some();
        let scratch = if needed {
            Some(scratch::Scratch::make(options.folder.as_deref())?)
        } else {
            None
        };
        let folder = scratch
            .as_ref()
            .map_or_else(PathBuf::new, |scratch| scratch.folder.clone());
        let (kafka, postgres, redis) = tokio::try_join!(
            kafka_service(named.kafka.clone(), java, &folder, options.kafka_port),
            postgres_service(named.postgres.clone(), postgres, &folder, options.postgres_port),
            redis_service(named.redis.clone(), redis, &folder, options.redis_port),
        )?;
        Ok(Self {
            kafka,
            postgres,
            redis,
            took: began.elapsed(),
            scratch,
        })
    }

    /// Bootstrap servers of Kafka.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        self.kafka.endpoint().as_str()
    }

    /// URL of a database, as superuser.
    #[must_use]
    pub fn postgres_url(&self, database: &str) -> String {
        with_path(self.postgres.endpoint().as_str(), database)
    }

    /// URL of one of Redis's databases; a Redis that was started here has 64.
    #[must_use]
    pub fn redis_url(&self, database: u32) -> String {
        with_path(self.redis.endpoint().as_str(), &database.to_string())
    }

    /// Creates a topic with one replica.
    ///
    /// # Errors
    /// When it exists already or the broker refuses.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        kafka::create_topic(self.bootstrap_servers(), name, partitions).await
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// When it exists already or the server refuses.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let created = postgres::create_database(self.postgres.endpoint().as_str(), name).await;
        created.with_context(|| format!("cannot create the database {name}"))
    }

    /// The scratch folder, if anything was started.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.scratch.as_ref().map(|scratch| scratch.folder.as_path())
    }

    /// One line: `kafka 4.1.1 :29092   postgresql 15 :25432   redis 7 :26379   ready in 9 s`.
    #[must_use]
    pub fn summary(&self) -> String {
        let part = |name: &str, service: &Service| {
            format!("{name} {} {}", service.version(), service.place()).replace("  ", " ")
        };
        let parts = [
            part("kafka", &self.kafka),
            part("postgresql", &self.postgres),
            part("redis", &self.redis),
        ];
        format!(
            "{}   ready in {:.1} s",
            parts.join("   "),
            self.took.as_secs_f64()
        )
    }

    /// Leaves the services running without an owner, until [`remove`] is called on their folder.
    ///
    /// # Errors
    /// When the watchdog cannot be ended.
    pub fn detach(mut self) -> Result<()> {
        self.scratch.take().map_or(Ok(()), scratch::Scratch::abandon)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // Nothing was started without a scratch folder, and detached services have lost theirs.
        if self.scratch.take().is_some() {
            for service in [&mut self.kafka, &mut self.postgres, &mut self.redis] {
                service.reap();
            }
        }
    }
}

/// What the pid files of a scratch folder name, running or not; empty when the folder does not exist.
///
/// # Errors
/// When the folder cannot be read.
pub fn status(folder: &Path) -> Result<Vec<Recorded>> {
    if folder.exists() {
        process::recorded(folder)
    } else {
        Ok(Vec::new())
    }
}

async fn kafka_service(
    named: Option<String>,
    programs: Option<kafka::Programs>,
    folder: &Path,
    port: u16,
) -> Result<Service> {
    let Some(programs) = programs else {
        return Service::named(Endpoint::Kafka(named.unwrap_or_default())).await;
    };
    let (port, controller) = (free(port, "--kafka-port")?, free(0, "")?);
    let launch = kafka::prepare(&programs, folder, port, controller).await?;
    let mut service = Service::local(Endpoint::Kafka(launch.address.clone()), launch);
    service.start().await?;
    Ok(service)
}

async fn postgres_service(
    named: Option<String>,
    programs: Option<PathBuf>,
    folder: &Path,
    port: u16,
) -> Result<Service> {
    let Some(programs) = programs else {
        return Service::named(Endpoint::Postgres(named.unwrap_or_default())).await;
    };
    let launch = postgres::prepare(&programs, folder, free(port, "--postgres-port")?).await?;
    let url = format!(
        "postgres://postgres:{}@{}/postgres",
        postgres::PASSWORD,
        launch.address
    );
    let mut service = Service::local(Endpoint::Postgres(url), launch);
    service.start().await?;
    Ok(service)
}

async fn redis_service(
    named: Option<String>,
    program: Option<PathBuf>,
    folder: &Path,
    port: u16,
) -> Result<Service> {
    let Some(program) = program else {
        return Service::named(Endpoint::Redis(named.unwrap_or_default())).await;
    };
    let launch = redis::prepare(program, folder, free(port, "--redis-port")?)?;
    let mut service = Service::local(Endpoint::Redis(format!("redis://{}", launch.address)), launch);
    service.start().await?;
    Ok(service)
}

/// The port, or a free one for 0: below those that the system gives to clients, one of which could take it while
/// its service is stopped.
fn free(port: u16, option: &str) -> Result<u16> {
    let bound = |port: u16| TcpListener::bind(("127.0.0.1", port)).map(|_| port);
    if port == 0 {
        let tried = std::iter::repeat_with(|| rand::random_range(20_000..32_000)).take(100);
        return tried
            .flat_map(bound)
            .next()
            .context("no free port between 20000 and 32000");
    }
    bound(port).with_context(|| {
        format!("port {port} of 127.0.0.1 is taken: name another with {option} (0 takes a free one)")
    })
}

/// A URL with another path; its parameters stay.
fn with_path(url: &str, path: &str) -> String {
    let (url, parameters) = url
        .split_once('?')
        .map_or((url, String::new()), |(url, rest)| (url, format!("?{rest}")));
    let authority = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[authority..]
        .find('/')
        .map_or(url.len(), |slash| authority + slash);
    format!("{}/{path}{parameters}", &url[..end])
}

#[cfg(test)]
mod tests {
    use super::with_path;

    #[test]
    fn a_database_replaces_the_path_of_a_url_and_keeps_its_parameters() {
        assert_eq!(with_path("redis://localhost", "3"), "redis://localhost/3");
        assert_eq!(
            with_path("redis://u:p@localhost:1/0", "3"),
            "redis://u:p@localhost:1/3"
        );
        assert_eq!(
            with_path("postgres://h/postgres?sslmode=require", "dwh"),
            "postgres://h/dwh?sslmode=require"
        );
    }
}
