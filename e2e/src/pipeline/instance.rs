//! One pipeline: creation, names, commands, workers and queries.
#![expect(clippy::disallowed_types, reason = "edge: queries the warehouse")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Postgres};
use url::Url;

use super::redis_database::RedisDatabase;
use super::worker::{self, Worker};
use crate::orders::manifest::Manifest;
use crate::orders::{Generator, Message, reference_data, send};
use crate::services::Services;

/// The stages of every pipeline, upstream first.
pub const STAGES: [&str; 3] = ["stg", "dds", "cdm"];
/// `application_name` of the sessions of [`Pipeline::pool`].
pub const TEST_APPLICATION_NAME: &str = "streamstage-e2e";
/// Template of every pipeline's stage file.
const STAGE_FILE_TEMPLATE: &str = include_str!("../../../examples/local.yaml");

/// One pipeline. Dropping it releases its Redis database, because there are only a few.
/// Its topics and its PostgreSQL database exist as long as the services.
pub struct Pipeline {
    pub(super) name: String,
    pub(super) topics: [String; 3],
    pub(super) bootstrap_servers: String,
    redis: RedisDatabase,
    /// User and password of PostgreSQL, for the workers' environment.
    login: (String, String),
    pub(super) pool: PgPool,
    folder: tempfile::TempDir,
    pub(super) file: PathBuf,
    workers: AtomicU32,
}

impl Pipeline {
    /// Creates a database, the topics `{name}-orders`, `{name}-stg` and `{name}-dds`, each with a `.dlq` topic, and a
    /// stage file with the stages `stg`, `dds` and `cdm`; then runs `worker migrate`.
    ///
    /// A random suffix makes the name unique, so that tests can share services.
    ///
    /// # Errors
    /// When a service rejects a request, or the worker is not built.
    pub async fn create(services: &Services, name: &str, partitions: i32) -> Result<Self> {
        let name = format!("{name}_{:08x}", rand::random::<u32>());
        let topics = ["orders", "stg", "dds"].map(|topic| format!("{name}-{topic}"));
        for topic in &topics {
            services.create_topic(topic, partitions).await?;
            services.create_topic(&format!("{topic}.dlq"), partitions).await?;
        }
        services.create_database(&name).await?;
        let postgres = services.postgres_url(&name);
        let redis = RedisDatabase::acquire(services).await?;
        // Distinguishes the sessions of a test from those of the workers.
        let options = PgConnectOptions::from_str(&postgres)?.application_name(TEST_APPLICATION_NAME);
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
            redis,
            pool,
            folder,
            file,
            workers: AtomicU32::new(0),
        };
        std::fs::write(&pipeline.file, pipeline.render_stage_file(&postgres)?)?;
        pipeline.run_command("migrate", &[], &[])?;
        Ok(pipeline)
    }

    /// Replaces the names and addresses of the template by those of this pipeline.
    fn render_stage_file(&self, postgres: &Url) -> Result<String> {
        let [orders, stg, dds] = &self.topics;
        let host = postgres.host_str().context("the URL of PostgreSQL has no host")?;
        let servers = self.bootstrap_servers.replace(',', "\", \"");
        let mut text = STAGE_FILE_TEMPLATE.to_owned();
        for (from, to) in [
            ("namespace: local", format!("namespace: {}", self.name)),
            ("127.0.0.1:29092", servers),
            ("topic: order-service_orders", format!("topic: {orders}")),
            ("topic: stg-service-orders", format!("topic: {stg}")),
            ("topic: dds-service-orders", format!("topic: {dds}")),
            ("redis://127.0.0.1:26379/0", self.redis.url().to_owned()),
            ("host: 127.0.0.1", format!("host: {host}")),
            (
                "port: 25432",
                format!("port: {}", postgres.port().unwrap_or(5432)),
            ),
            ("database: streamstage", format!("database: {}", self.name)),
        ] {
            text = replace_required(&text, from, &to)?;
        }
        Ok(text)
    }

    /// Name of the database and of the namespace; a stage's consumer group is `<name>.<stage>`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bootstrap servers of Kafka.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Password of the superuser of PostgreSQL.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.login.1
    }

    /// Path of the stage file.
    #[must_use]
    pub fn stage_file(&self) -> &Path {
        &self.file
    }

    /// Temporary folder with the stage file and the workers' logs; removed with the pipeline.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Source topic of `stg`.
    #[must_use]
    pub fn source_topic(&self) -> &str {
        &self.topics[0]
    }

    /// Output topic of `stg`, source topic of `dds`.
    #[must_use]
    pub fn stg_topic(&self) -> &str {
        &self.topics[1]
    }

    /// Output topic of `dds`, source topic of `cdm`.
    #[must_use]
    pub fn dds_topic(&self) -> &str {
        &self.topics[2]
    }

    /// Connections to the warehouse as superuser, at most four.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Replaces every occurrence of a text in the stage file, such as `"layer: stg\n"` to insert settings below it.
    ///
    /// # Errors
    /// When the file does not contain the text.
    pub fn edit(&mut self, from: &str, to: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.file)?;
        Ok(std::fs::write(&self.file, replace_required(&text, from, to)?)?)
    }

    /// Replaces the host of the warehouse in every stage; `host` is as `spec.warehouse.host`.
    ///
    /// # Errors
    /// When the stage file does not contain the former host.
    pub fn set_warehouse_host(&mut self, host: &str) -> Result<()> {
        let former = format!("host: {}\n", self.pool.connect_options().get_host());
        self.edit(&former, &format!("host: \"{host}\"\n"))
    }

    /// Sets `batch` of every stage, for example to `{maxRecords: 40, maxWait: 100ms}`.
    ///
    /// # Errors
    /// When the stage file does not contain a layer any more.
    pub fn set_batch_settings(&mut self, settings: &str) -> Result<()> {
        STAGES.iter().try_for_each(|stage| {
            let layer = format!("layer: {stage}\n");
            self.edit(&layer, &format!("{layer}  batch: {settings}\n"))
        })
    }

    /// Writes the generator's users and restaurants to Redis, without the last `withheld` users.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn load_reference_data(&self, generator: &Generator, withheld: usize) -> Result<()> {
        self.load_entries(generator.catalogue().entries(withheld)).await
    }

    /// Writes reference data entries to Redis: pairs of id and JSON.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn load_entries<'e>(&self, entries: impl Iterator<Item = (&'e str, String)>) -> Result<()> {
        reference_data::load(self.redis.url(), entries).await.map(drop)
    }

    /// Runs a Redis command that changes entries, such as `SET` or `FLUSHDB`; the arguments may be any bytes.
    ///
    /// # Errors
    /// When Redis does not answer, or rejects the command.
    pub async fn run_redis(&self, command: &str, arguments: &[&[u8]]) -> Result<()> {
        reference_data::run(self.redis.url(), command, arguments).await
    }

    /// Produces messages to the source topic and waits for every acknowledgment; the seed chooses the partitions.
    ///
    /// # Errors
    /// When Kafka rejects a message.
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

    /// Starts `worker run` for these stages, or for all of them if the list is empty.
    ///
    /// # Errors
    /// When the worker is not built or cannot be started.
    pub fn start_worker(&self, stages: &[&str]) -> Result<Worker> {
        self.start_worker_with_flags(stages, &[])
    }

    /// As [`Self::start_worker`], with more flags, such as `--secrets-dir`.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub fn start_worker_with_flags(&self, stages: &[&str], flags: &[&str]) -> Result<Worker> {
        self.start_command("run", stages, &[&["--listen", "127.0.0.1:0"], flags].concat())
    }

    /// Starts a worker command, such as `redrive`, without waiting for its exit.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub fn start_command(&self, command: &str, stages: &[&str], flags: &[&str]) -> Result<Worker> {
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        let log = self.folder().join(format!("worker-{number}.log"));
        let mut command = self.worker_command(command, stages)?;
        command.args(flags);
        Worker::spawn(command, log)
    }

    /// Runs another worker command, such as `reset-offsets` or `dead-letters list`, and returns its standard output.
    ///
    /// # Errors
    /// When it fails, with its output.
    pub fn run_command(&self, command: &str, stages: &[&str], flags: &[&str]) -> Result<String> {
        let output = self.worker_command(command, stages)?.args(flags).output()?;
        ensure!(
            output.status.success(),
            "worker {command}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A worker command with its stage file, stages and credentials, to run in another way than [`Self::run_command`].
    ///
    /// # Errors
    /// When the worker is not built.
    pub fn worker_command(&self, name: &str, stages: &[&str]) -> Result<Command> {
        let mut command = Command::new(worker::find_worker_binary()?);
        command.args(name.split(' ')).arg("--file").arg(&self.file);
        for stage in stages {
            command.args(["--stage", stage]);
        }
        command
            .env("PGUSER", &self.login.0)
            .env("PGPASSWORD", &self.login.1);
        Ok(command)
    }

    /// Runs a query and returns its single value.
    ///
    /// # Errors
    /// When PostgreSQL rejects the query, or the value has another type.
    pub async fn query_scalar<T>(&self, sql: &str) -> Result<T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool);
        value.await.with_context(|| format!("query failed: {sql}"))
    }
}

/// Replaces `from` by `to`; fails if the text does not contain `from`.
fn replace_required(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "the stage file does not contain {from:?}");
    Ok(text.replace(from, to))
}
