//! After a restore of the database to an earlier point, the stages continue at its positions, regardless of the offsets
//! in Kafka, and produce the same rows.
#![expect(clippy::disallowed_types, reason = "edge: copies databases")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, start_services};
use e2e::services::Services;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const DEADLINE: Duration = Duration::from_mins(3);
const PARTITIONS: i32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_start_on_a_restored_database_catch_up() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(600);
    let pipeline = create_pipeline(&services, "restored_stopped", &generator).await?;
    let (first, second) = messages.split_at(messages.len() / 2);

    produce_and_drain(&pipeline, first).await?;
    let backup = Backup::create(&services, &pipeline).await?;
    produce_and_drain(&pipeline, second).await?;
    let (expected, positions) = (
        pipeline.row_digests().await?,
        positions_by_stage(&pipeline).await?,
    );

    backup.restore().await?;
    for (stage, before) in &positions {
        let after = pipeline.positions(stage).await?;
        let is_restored = before
            .iter()
            .all(|(partition, offset)| after.get(partition) < Some(offset));
        ensure!(
            is_restored,
            "{stage} was at {before:?}, and is at {after:?} after the restore"
        );
    }
    produce_and_drain(&pipeline, &[]).await?;
    assert_eq!(pipeline.row_digests().await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn running_workers_catch_up_after_the_database_is_restored() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(600);
    let reference = create_pipeline(&services, "restored_never", &generator).await?;
    produce_and_drain(&reference, &messages).await?;

    let pipeline = create_pipeline(&services, "restored_running", &generator).await?;
    let worker = pipeline.start_worker(&[])?;
    let mut thirds = messages.chunks(messages.len().div_ceil(3));
    let mut produce_next = async || -> Result<()> {
        pipeline
            .produce(1, thirds.next().unwrap_or_default().iter().cloned())
            .await?;
        Ok(())
    };
    produce_next().await?;
    pipeline.wait_drained(DEADLINE).await?;
    let backup = Backup::create(&services, &pipeline).await?;
    produce_next().await?;
    pipeline.wait_drained(DEADLINE).await?;
    backup.restore().await?;
    produce_next().await?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    assert_eq!(pipeline.row_digests().await?, reference.row_digests().await?);
    Ok(())
}

/// Copy of a pipeline's database.
struct Backup {
    server: PgConnection,
    name: String,
}

impl Backup {
    /// Copies the database. Terminates all its sessions, because PostgreSQL copies only a database without sessions.
    async fn create(services: &Services, pipeline: &Pipeline) -> Result<Self> {
        let server = PgConnection::connect(&services.postgres_url("postgres")).await?;
        let name = pipeline.name().to_owned();
        let mut backup = Self { server, name };
        let name = &backup.name;
        let statements = [
            format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
            format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"),
            format!("CREATE DATABASE {name}_backup TEMPLATE {name}"),
            format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"),
        ];
        backup.execute(statements).await?;
        Ok(backup)
    }

    /// Replaces the database by the copy, and terminates its sessions.
    async fn restore(mut self) -> Result<()> {
        let name = &self.name;
        let statements = [
            format!("DROP DATABASE {name} WITH (FORCE)"),
            format!("ALTER DATABASE {name}_backup RENAME TO {name}"),
        ];
        self.execute(statements).await
    }

    /// Executes the statements one by one, because `CREATE DATABASE` is not allowed in a transaction.
    async fn execute(&mut self, statements: impl IntoIterator<Item = String>) -> Result<()> {
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut self.server)
                .await?;
        }
        Ok(())
    }
}

fn generate_orders(count: usize) -> (Generator, Vec<Message>) {
    let mut generator = Generator::new(&Settings {
        seed: 12,
        ..Settings::default()
    });
    let messages = generator.history(count).collect();
    (generator, messages)
}

async fn create_pipeline(services: &Services, name: &str, generator: &Generator) -> Result<Pipeline> {
    let pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.load_reference_data(generator, 0).await?;
    Ok(pipeline)
}

/// Produces messages, and runs a worker until all stages are drained.
async fn produce_and_drain(pipeline: &Pipeline, messages: &[Message]) -> Result<()> {
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// Stored positions of every stage.
async fn positions_by_stage(pipeline: &Pipeline) -> Result<BTreeMap<&'static str, BTreeMap<i32, i64>>> {
    let mut positions = BTreeMap::new();
    for stage in STAGES {
        positions.insert(stage, pipeline.positions(stage).await?);
    }
    Ok(positions)
}
