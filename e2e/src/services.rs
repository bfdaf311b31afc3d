//! Real Kafka, PostgreSQL and Redis as local processes, with their data in a scratch folder.
//!
//! Dropping [`Services`] stops them and removes their data. If the owner is killed, a watchdog does it.
//! External services can be used instead; this module must never start, stop or clear those.
//! Tests and the demo start here.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs processes and probes their readiness"
)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::PgConnection;
use url::Url;

mod example;
mod install;
mod kafka;
mod pooler;
mod postgres;
mod process;
mod redis;
mod scratch;
mod service;

pub use example::{ExampleResources, create_example_resources};
pub(crate) use kafka::cache_folder;
pub use kafka::{VERSION as KAFKA_VERSION, create_topic};
pub use postgres::local_url as local_postgres_url;
pub use process::RecordedProcess;
pub use scratch::remove;
pub use service::{Endpoint, Service};

/// Services that already run and are used instead of local ones.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ExternalServices {
    /// Bootstrap servers of an existing Kafka to use instead, without TLS and authentication
    #[arg(long, env = "STREAMSTAGE_KAFKA", value_name = "HOST:PORT,…")]
    pub kafka: Option<String>,
    /// URL of an existing PostgreSQL to use instead, with a superuser and a database
    #[arg(long, env = "STREAMSTAGE_POSTGRES", value_name = "URL")]
    pub postgres: Option<String>,
    /// URL of an existing Redis to use instead
    #[arg(long, env = "STREAMSTAGE_REDIS", value_name = "URL")]
    pub redis: Option<String>,
}

/// Ports and data folder of local services. The default is a temporary folder and free ports.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Scratch folder; must be empty or not exist. `None` creates one in the system's temporary folder.
    pub folder: Option<PathBuf>,
    /// Port of Kafka on 127.0.0.1; 0 picks a free port.
    pub kafka_port: u16,
    /// Port of PostgreSQL on 127.0.0.1; 0 picks a free port.
    pub postgres_port: u16,
    /// Port of Redis on 127.0.0.1; 0 picks a free port.
    pub redis_port: u16,
    /// Services to use instead of starting local ones.
    pub external: ExternalServices,
}

/// The three services, ready. Dropping it stops the local ones and removes their data.
#[derive(Debug)]
pub struct Services {
    /// Kafka; a fault test calls `kafka.stop().await` and `kafka.start().await`.
    pub kafka: Service,
    /// PostgreSQL.
    pub postgres: Service,
    /// Redis.
    pub redis: Service,
    /// Time until all were ready, including downloads and installations.
    pub startup_time: Duration,
    /// `None` when all three are external.
    scratch: Option<scratch::Scratch>,
}

impl Services {
    /// Connects to the external services of `options` and of the environment (`STREAMSTAGE_KAFKA`,
    /// `STREAMSTAGE_POSTGRES`, `STREAMSTAGE_REDIS`), and starts the others. `options` has precedence.
    ///
    /// # Errors
    /// As [`Services::start`].
    pub async fn from_env_or_start(mut options: Options) -> Result<Self> {
        let environment = <ExternalServices as clap::Args>::augment_args(clap::Command::new("services"))
            .no_binary_name(true);
        let matches = environment.try_get_matches_from(std::iter::empty::<String>())?;
        let from_env = <ExternalServices as clap::FromArgMatches>::from_arg_matches(&matches)?;
        let external = &mut options.external;
        external.kafka = external.kafka.take().or(from_env.kafka);
        external.postgres = external.postgres.take().or(from_env.postgres);
        external.redis = external.redis.take().or(from_env.redis);
        Self::start(&options).await
    }

    /// Connects to the external services of `options`, and starts the others; returns when all are ready.
    ///
    /// # Errors
    /// When a program is missing and cannot be installed, a port is in use, or a service does not become ready
    /// (with the last lines of its log). Started processes are then stopped and the folder is removed.
    pub async fn start(options: &Options) -> Result<Self> {
        let started_at = Instant::now();
        let external = &options.external;
        // Sequential, because two package managers at once block each other.
        let java = if external.kafka.is_none() {
            Some(kafka::find_programs().await?)
        } else {
            None
        };
        let postgres = if external.postgres.is_none() {
            Some(postgres::find_programs().await?)
        } else {
            None
        };
        let redis = if external.redis.is_none() {
            Some(redis::find_program().await?)
        } else {
            None
        };
        let has_local = java.is_some() || postgres.is_some() || redis.is_some();
        let scratch = if has_local {
            Some(scratch::Scratch::create(options.folder.as_deref())?)
        } else {
            None
        };
        let folder = scratch
            .as_ref()
            .map_or_else(PathBuf::new, |scratch| scratch.folder.clone());
        let (kafka, postgres, redis) = tokio::try_join!(
            kafka_service(external.kafka.clone(), java, &folder, options.kafka_port),
            postgres_service(
                external.postgres.clone(),
                postgres,
                &folder,
                options.postgres_port
            ),
            redis_service(external.redis.clone(), redis, &folder, options.redis_port),
        )?;
        Ok(Self {
            kafka,
            postgres,
            redis,
            startup_time: started_at.elapsed(),
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

    /// URL of a Redis database, by number; a local Redis has 64.
    #[must_use]
    pub fn redis_url(&self, database: u32) -> String {
        with_path(self.redis.endpoint().as_str(), &database.to_string())
    }

    /// Creates a topic with one replica.
    ///
    /// # Errors
    /// When it exists or the broker rejects the request.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        kafka::create_topic(self.bootstrap_servers(), name, partitions).await
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// When it exists or the server rejects the request.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let created = postgres::create_database(self.postgres.endpoint().as_str(), name).await;
        created.with_context(|| format!("cannot create the database {name}"))
    }

    /// The scratch folder; `None` if all services are external.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.scratch.as_ref().map(|scratch| scratch.folder.as_path())
    }

    /// Versions and addresses in one line:
    /// `kafka 4.1.1 :29092   postgresql 15 :25432   redis 7 :26379   ready in 9.0 s`.
    #[must_use]
    pub fn summary(&self) -> String {
        let part = |name: &str, service: &Service| {
            format!("{name} {} {}", service.version(), service.display_address()).replace("  ", " ")
        };
        let parts = [
            part("kafka", &self.kafka),
            part("postgresql", &self.postgres),
            part("redis", &self.redis),
        ];
        format!(
            "{}   ready in {:.1} s",
            parts.join("   "),
            self.startup_time.as_secs_f64()
        )
    }

    /// Leaves the services running without an owner, until [`remove`] is called for their folder.
    ///
    /// # Errors
    /// When the watchdog cannot be stopped.
    pub fn detach(mut self) -> Result<()> {
        self.scratch.take().map_or(Ok(()), scratch::Scratch::detach)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // External services have no scratch folder, and detached ones have lost theirs.
        if self.scratch.take().is_some() {
            for service in [&mut self.kafka, &mut self.postgres, &mut self.redis] {
                service.reap();
            }
        }
    }
}

/// `PgBouncer` in transaction mode. Dropping it stops it.
#[derive(Debug)]
pub struct Pooler {
    service: Service,
    scratch: Option<scratch::Scratch>,
}

impl Pooler {
    /// Starts a pooler in front of PostgreSQL. `connect_query` is the first statement of each server connection.
    ///
    /// # Errors
    /// When the program is missing and cannot be installed, or the pooler does not answer.
    pub async fn start(services: &Services, connect_query: &str) -> Result<Self> {
        let program = pooler::find_program().await?;
        let scratch = scratch::Scratch::create(None)?;
        let port = ensure_free_port(0, "")?;
        let mut url = Url::parse(services.postgres.endpoint().as_str())?;
        let launch = pooler::prepare(program, &scratch.folder, port, &url, connect_query)?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(port))
            .ok()
            .context("the URL cannot have a port")?;
        let mut service = Service::local(Endpoint::Pooler(url.into()), launch);
        service.start().await?;
        Ok(Self {
            service,
            scratch: Some(scratch),
        })
    }

    /// Address of the pooler: `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1{}", self.service.display_address())
    }

    /// Connects to a database as a client of the pooler.
    ///
    /// # Errors
    /// When the pooler rejects the client.
    pub async fn connect(&self, database: &str) -> Result<PgConnection> {
        pooler::connect(&with_path(self.service.endpoint().as_str(), database)).await
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.scratch.take());
        self.service.reap();
    }
}

/// Processes in the pid files of a scratch folder, running or not; empty if the folder does not exist.
///
/// # Errors
/// When the folder cannot be read.
pub fn status(folder: &Path) -> Result<Vec<RecordedProcess>> {
    if folder.exists() {
        process::read_pid_files(folder)
    } else {
        Ok(Vec::new())
    }
}

async fn kafka_service(
    external: Option<String>,
    programs: Option<kafka::Programs>,
    folder: &Path,
    port: u16,
) -> Result<Service> {
    let Some(programs) = programs else {
        return Service::external(Endpoint::Kafka(external.unwrap_or_default())).await;
    };
    let (port, controller) = (ensure_free_port(port, "--kafka-port")?, ensure_free_port(0, "")?);
    let launch = kafka::prepare(&programs, folder, port, controller).await?;
    let mut service = Service::local(Endpoint::Kafka(launch.address.clone()), launch);
    service.start().await?;
    Ok(service)
}

async fn postgres_service(
    external: Option<String>,
    programs: Option<PathBuf>,
    folder: &Path,
    port: u16,
) -> Result<Service> {
    let Some(programs) = programs else {
        return Service::external(Endpoint::Postgres(external.unwrap_or_default())).await;
    };
    let port = ensure_free_port(port, "--postgres-port")?;
    let launch = postgres::prepare(&programs, folder, port).await?;
    let url = local_postgres_url(&launch.address);
    let mut service = Service::local(Endpoint::Postgres(url), launch);
    service.start().await?;
    Ok(service)
}

async fn redis_service(
    external: Option<String>,
    program: Option<PathBuf>,
    folder: &Path,
    port: u16,
) -> Result<Service> {
    let Some(program) = program else {
        return Service::external(Endpoint::Redis(external.unwrap_or_default())).await;
    };
    let launch = redis::prepare(program, folder, ensure_free_port(port, "--redis-port")?)?;
    let mut service = Service::local(Endpoint::Redis(format!("redis://{}", launch.address)), launch);
    service.start().await?;
    Ok(service)
}

/// Returns the port if it is free, or picks a free one for 0. Picks below the system's range of client ports, because
/// a client could otherwise get the port while its service is stopped.
fn ensure_free_port(port: u16, option: &str) -> Result<u16> {
    let try_bind = |port: u16| TcpListener::bind(("127.0.0.1", port)).map(|_| port);
    if port == 0 {
        let candidates = std::iter::repeat_with(|| rand::random_range(20_000..32_000)).take(100);
        return candidates
            .flat_map(try_bind)
            .next()
            .context("no free port between 20000 and 32000");
    }
    try_bind(port).with_context(|| {
        format!("port {port} of 127.0.0.1 is in use: set another with {option} (0 picks a free port)")
    })
}

/// Replaces the path of a URL and leaves its parameters unchanged.
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
    fn a_database_replaces_the_path_of_a_url_but_not_its_parameters() {
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
