//! One isolated pipeline: a database, topics, consumer groups and a Redis database of its own, on shared services.
//!
//! It runs the real worker, from a stage file made of `examples/local.yaml`: nothing of the pipeline is imitated here,
//! and nothing of the worker is linked. Tests of the whole pipeline start here.
#![expect(
    clippy::disallowed_types,
    reason = "edge: keeps a connection to the warehouse that it looks into"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Postgres};
use url::Url;

use crate::orders::manifest::Manifest;
use crate::orders::{Generator, Message, dictionary, send};
use crate::services::{Options, Services};

mod drain;
mod inputs;
mod rows;
mod topics;
mod worker;

pub use drain::until;
pub use topics::Record;
pub use worker::Worker;

/// The stages of every pipeline, upstream first.
pub const STAGES: [&str; 3] = ["stg", "dds", "cdm"];
/// `application_name` of the sessions of [`Pipeline::pool`].
pub const SESSIONS: &str = "streamstage-e2e";
/// The stage file that every pipeline's own is made of.
const EXAMPLE: &str = include_str!("../../examples/local.yaml");
/// Databases that a Redis has which [`Services`] started; 0 is left to others.
const REDIS_DATABASES: std::ops::Range<u32> = 1..64;

/// The services, started for this test, or those that the environment names.
///
/// # Errors
/// As [`Services::start`].
pub async fn services() -> Result<Services> {
    Services::from_env_or_start(Options::default()).await
}

/// One pipeline; dropping it empties its Redis database, of which there are few, and leaves its topics and its
/// PostgreSQL database to the services' end.
pub struct Pipeline {
    name: String,
    topics: [String; 3],
    bootstrap_servers: String,
    redis_url: String,
    /// User and password of PostgreSQL, for the workers' environment.
    login: (String, String),
    pool: PgPool,
    folder: tempfile::TempDir,
    file: PathBuf,
    workers: AtomicU32,
}

impl Pipeline {
    /// Makes a name of its own that begins with `name`, so that services can be used again and again; the database
    /// of that name, the topics `{name}-orders`, `{name}-stg` and `{name}-dds`, each with a `.dlq`, the stage file
    /// (stages `stg`, `dds` and `cdm` of the namespace of that name), and runs `worker migrate`.
    ///
    /// # Errors
    /// When a service refuses, or the worker is not built.
    pub async fn create(services: &Services, name: &str, partitions: i32) -> Result<Self> {
        let name = format!("{name}_{:08x}", rand::random::<u32>());
        let topics = ["orders", "stg", "dds"].map(|topic| format!("{name}-{topic}"));
        for topic in &topics {
            services.create_topic(topic, partitions).await?;
            services.create_topic(&format!("{topic}.dlq"), partitions).await?;
        }
        services.create_database(&name).await?;
        let postgres = services.postgres_url(&name);
        let redis_url = services.redis_url(empty_redis(services).await?);
        // Named, so that a test can tell the workers' sessions from its own.
        let options = PgConnectOptions::from_str(&postgres)?.application_name(SESSIONS);
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await?;
        let postgres = Url::parse(&postgres).context("the URL of PostgreSQL")?;
        let folder = tempfile::Builder::new().prefix("streamstage-").tempdir()?;
        let file = folder.path().join("stage.yaml");
        let pipeline = Self {
            name,
            bootstrap_servers: services.bootstrap_servers().to_owned(),
            login: (
                postgres.username().to_owned(),
                postgres.password().unwrap_or_default().to_owned(),
            ),
            topics,
            redis_url,
            pool,
            folder,
            file,
            workers: AtomicU32::new(0),
        };
        std::fs::write(&pipeline.file, pipeline.document(&postgres)?)?;
        pipeline.command("migrate", &[], &[])?;
        Ok(pipeline)
    }

    /// The example's text with this pipeline's names and addresses in it.
    fn document(&self, postgres: &Url) -> Result<String> {
        let [orders, stg, dds] = &self.topics;
        let host = postgres.host_str().context("the URL of PostgreSQL has no host")?;
        let servers = self.bootstrap_servers.replace(',', "\", \"");
        let mut text = EXAMPLE.to_owned();
        for (from, to) in [
            ("namespace: local", format!("namespace: {}", self.name)),
            ("127.0.0.1:29092", servers),
            ("topic: order-service_orders", format!("topic: {orders}")),
            ("topic: stg-service-orders", format!("topic: {stg}")),
            ("topic: dds-service-orders", format!("topic: {dds}")),
            ("redis://127.0.0.1:26379/0", self.redis_url.clone()),
            ("host: 127.0.0.1", format!("host: {host}")),
            (
                "port: 25432",
                format!("port: {}", postgres.port().unwrap_or(5432)),
            ),
            ("database: streamstage", format!("database: {}", self.name)),
        ] {
            text = replaced(&text, from, &to)?;
        }
        Ok(text)
    }

    /// The name of the database and of the namespace; a stage's consumer group is `<name>.<stage>`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stage file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A folder of this pipeline's own, removed with it; the stage file and the workers' logs are in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Topic that `stg` reads.
    #[must_use]
    pub fn source_topic(&self) -> &str {
        &self.topics[0]
    }

    /// Topic that `stg` writes and `dds` reads.
    #[must_use]
    pub fn stg_topic(&self) -> &str {
        &self.topics[1]
    }

    /// Topic that `dds` writes and `cdm` reads.
    #[must_use]
    pub fn dds_topic(&self) -> &str {
        &self.topics[2]
    }

    /// The warehouse, as superuser.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Replaces every occurrence of a text in the stage file, such as `"layer: stg\n"` to put settings below it.
    ///
    /// # Errors
    /// When the file has no such text.
    pub fn edit(&mut self, from: &str, to: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.file)?;
        Ok(std::fs::write(&self.file, replaced(&text, from, to)?)?)
    }

    /// Gives every stage these settings of its batches, such as `{maxRecords: 40, maxWait: 100ms}`.
    ///
    /// # Errors
    /// When the stage file is not the one that was made.
    pub fn set_batches(&mut self, settings: &str) -> Result<()> {
        STAGES.iter().try_for_each(|stage| {
            let layer = format!("layer: {stage}\n");
            self.edit(&layer, &format!("{layer}  batch: {settings}\n"))
        })
    }

    /// Writes the generator's guests and restaurants into the dictionary, without the last `withheld` guests.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn load_dictionary(&self, generator: &Generator, withheld: usize) -> Result<()> {
        self.load_entries(generator.catalogue().entries(withheld)).await
    }

    /// Writes entries into the dictionary: pairs of id and JSON.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn load_entries<'e>(&self, entries: impl Iterator<Item = (&'e str, String)>) -> Result<()> {
        dictionary::load(&self.redis_url, entries).await.map(drop)
    }

    /// Sends messages to the source topic, to partitions that the seed chooses, and awaits every delivery.
    ///
    /// # Errors
    /// When Kafka refuses one.
    pub async fn produce(&self, seed: u64, messages: impl Iterator<Item = Message>) -> Result<Manifest> {
        send::to_kafka(
            &self.bootstrap_servers,
            self.source_topic(),
            seed,
            messages,
            |_| (),
        )
        .await
    }

    /// Starts `worker run` with these stages (all of them when none is named) in a process of its own.
    ///
    /// # Errors
    /// When the worker is not built or cannot be started.
    pub fn worker(&self, stages: &[&str]) -> Result<Worker> {
        self.worker_with(stages, &[])
    }

    /// [`Self::worker`] with more flags, such as `--secrets-dir`.
    ///
    /// # Errors
    /// When the worker is not built or cannot be started.
    pub fn worker_with(&self, stages: &[&str], flags: &[&str]) -> Result<Worker> {
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        let log = self.folder().join(format!("worker-{number}.log"));
        let mut command = self.prepared("run", stages)?;
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        Worker::spawn(command, log)
    }

    /// Runs another command of the worker, such as `reset-offsets`, to its end; returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn command(&self, command: &str, stages: &[&str], flags: &[&str]) -> Result<String> {
        let output = self.prepared(command, stages)?.args(flags).output()?;
        ensure!(
            output.status.success(),
            "worker {command}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn prepared(&self, name: &str, stages: &[&str]) -> Result<Command> {
        let mut command = Command::new(worker::program()?);
        command.arg(name).arg("--file").arg(&self.file);
        for stage in stages {
            command.args(["--stage", stage]);
        }
        command
            .env("PGUSER", &self.login.0)
            .env("PGPASSWORD", &self.login.1);
        Ok(command)
    }

    /// The one value that a query has.
    ///
    /// # Errors
    /// When PostgreSQL refuses the query, or the value is of another type.
    pub async fn query<T>(&self, sql: &str) -> Result<T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        let asked = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool);
        asked.await.with_context(|| format!("refused: {sql}"))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // A Redis that is stopped keeps what it has; the next pipeline takes another database then.
        dictionary::empty(&self.redis_url).unwrap_or_default();
    }
}

/// The text with a part of it replaced, which must be there.
fn replaced(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "the stage file has no {from:?}");
    Ok(text.replace(from, to))
}

/// The number of a Redis database that holds nothing, another one for each call in this process.
///
/// # Errors
/// When Redis does not answer, or none of its databases is empty.
pub async fn empty_redis(services: &Services) -> Result<u32> {
    static NEXT: AtomicU32 = AtomicU32::new(REDIS_DATABASES.start);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if !REDIS_DATABASES.contains(&number) {
            bail!("no Redis database from 1 to 63 is empty: use another Redis, or fewer pipelines");
        }
        if dictionary::is_empty(&services.redis_url(number)).await? {
            return Ok(number);
        }
    }
}
