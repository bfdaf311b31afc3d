//! A database that is restored to an earlier point: the stages go back to the positions that it holds, whatever
//! they have committed to Kafka, and end in the same rows.
#![expect(clippy::disallowed_types, reason = "edge: copies databases")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, services};
use e2e::services::Services;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const WITHIN: Duration = Duration::from_mins(3);
const PARTITIONS: i32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_start_on_a_restored_database_catch_up() -> Result<()> {
    let services = services().await?;
    let (generator, messages) = orders(600);
    let pipeline = pipeline(&services, "restored_stopped", &generator).await?;
    let (first, second) = messages.split_at(messages.len() / 2);

    run(&pipeline, first).await?;
    let backup = Backup::of(&services, &pipeline).await?;
    run(&pipeline, second).await?;
    let (expected, positions) = (pipeline.rows().await?, positions(&pipeline).await?);

    backup.restore().await?;
    for (stage, stood) in &positions {
        let stands = pipeline.positions(stage).await?;
        let back = stood
            .iter()
            .all(|(partition, offset)| stands.get(partition) < Some(offset));
        ensure!(back, "{stage} was at {stood:?}, and is at {stands:?}");
    }
    run(&pipeline, &[]).await?;
    assert_eq!(pipeline.rows().await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn running_workers_go_back_when_the_database_under_them_is_restored() -> Result<()> {
    let services = services().await?;
    let (generator, messages) = orders(600);
    let reference = pipeline(&services, "restored_never", &generator).await?;
    run(&reference, &messages).await?;

    let pipeline = pipeline(&services, "restored_running", &generator).await?;
    let worker = pipeline.worker(&[])?;
    let mut thirds = messages.chunks(messages.len().div_ceil(3));
    let mut next = async || -> Result<()> {
        pipeline
            .produce(1, thirds.next().unwrap_or_default().iter().cloned())
            .await?;
        Ok(())
    };
    next().await?;
    pipeline.drained(WITHIN).await?;
    let backup = Backup::of(&services, &pipeline).await?;
    next().await?;
    pipeline.drained(WITHIN).await?;
    backup.restore().await?;
    next().await?;
    pipeline.drained(WITHIN).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    assert_eq!(pipeline.rows().await?, reference.rows().await?);
    Ok(())
}

/// A copy of a pipeline's database.
struct Backup {
    server: PgConnection,
    name: String,
}

impl Backup {
    /// Copies the database. Every session in it is ended, because a copy tolerates none.
    async fn of(services: &Services, pipeline: &Pipeline) -> Result<Self> {
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

    /// Puts the copy in the place of the database, whoever is connected to it.
    async fn restore(mut self) -> Result<()> {
        let name = &self.name;
        let statements = [
            format!("DROP DATABASE {name} WITH (FORCE)"),
            format!("ALTER DATABASE {name}_backup RENAME TO {name}"),
        ];
        self.execute(statements).await
    }

    /// One by one: PostgreSQL makes no database in a transaction.
    async fn execute(&mut self, statements: impl IntoIterator<Item = String>) -> Result<()> {
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut self.server)
                .await?;
        }
        Ok(())
    }
}

fn orders(count: usize) -> (Generator, Vec<Message>) {
    let mut generator = Generator::new(&Settings {
        seed: 12,
        ..Settings::default()
    });
    let messages = generator.history(count).collect();
    (generator, messages)
}

async fn pipeline(services: &Services, name: &str, generator: &Generator) -> Result<Pipeline> {
    let pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.load_dictionary(generator, 0).await?;
    Ok(pipeline)
}

/// Produces messages, and runs a worker until all stages have done with them.
async fn run(pipeline: &Pipeline, messages: &[Message]) -> Result<()> {
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// The positions of every stage.
async fn positions(pipeline: &Pipeline) -> Result<BTreeMap<&'static str, BTreeMap<i32, i64>>> {
    let mut positions = BTreeMap::new();
    for stage in STAGES {
        positions.insert(stage, pipeline.positions(stage).await?);
    }
    Ok(positions)
}
