//! A worker that is killed at each point of a batch's path at which something can be half done: the rows are those of
//! a run without a crash.
//!
//! The worker knows nothing of these points: what it needs next is withheld, by a lock, by a broker that is halted or
//! by a commit that waits, until it is seen to wait there.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, until};
use e2e::services::{Options, Services};
use sqlx::AssertSqlSafe;
use tokio::sync::{Mutex, MutexGuard};

const PARTITIONS: i32 = 3;
/// A killed member's partitions move after its session timeout.
const WITHIN: Duration = Duration::from_mins(2);
/// Guests of the generator, and those of them that the dictionary lacks until the end.
const GUESTS: usize = 40;
const WITHHELD: usize = 10;

/// A point of a batch's path.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// Before it locks or writes rows of this table.
    Table(&'static str),
    /// After its effects are written, before its outputs are acknowledged.
    Outputs,
    /// In its commit, which goes through although nobody is told.
    CommitUnanswered,
    /// In its commit, which is lost after the outputs were acknowledged.
    CommitLost,
}

const STG: &[Point] = &[
    Point::Table("stg.order_events"),
    Point::Table("stg.order_event_history"),
    Point::Table("stg.pending_enrichment"),
    Point::Table("streamstage.dead_letter"),
    Point::Table("streamstage.position"),
    Point::Outputs,
    Point::CommitUnanswered,
    Point::CommitLost,
];
const DDS: &[Point] = &[
    Point::Table("dds.h_order"),
    Point::Table("streamstage.position"),
    Point::Outputs,
    Point::CommitUnanswered,
    Point::CommitLost,
];
const CDM: &[Point] = &[
    Point::Table("cdm.order_contribution"),
    Point::Table("cdm.product_order_count"),
    Point::Table("cdm.category_order_count"),
    Point::Table("cdm.name"),
    Point::Table("streamstage.position"),
    Point::CommitUnanswered,
    Point::CommitLost,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_of_a_batch_changes_nothing() -> Result<()> {
    // Never those that the environment names: others use them.
    let services = Services::start(&Options::default()).await?;
    let kafka = Kafka::of(&services)?;
    let mut generator = Generator::new(&Settings {
        seed: 21,
        guests: GUESTS,
        bad: 0.1,
        ..Settings::default()
    });
    let messages: Vec<Message> = generator.history(600).collect();
    let reference = pipeline(&services, "crash_none", &generator, 0).await?;
    reference.produce(1, messages.iter().cloned()).await?;
    let _worker = reference.worker(&[])?;
    reference.drained(WITHIN).await?;
    let expected = reference.rows().await?;

    let crashes = async |stage: &str, points: &[Point]| -> Result<()> {
        let crashed = pipeline(&services, &format!("crash_{stage}"), &generator, WITHHELD).await?;
        let others = STAGES.into_iter().filter(|other| *other != stage);
        let _others = crashed.worker(&others.collect::<Vec<_>>())?;
        crash(&kafka, &crashed, stage, points, &messages).await?;
        crashed.load_dictionary(&generator, 0).await?;
        let _worker = crashed.worker(&[stage])?;
        crashed.drained(WITHIN).await?;
        assert_eq!(crashed.rows().await?, expected, "{stage}");
        eprintln!("crash: {stage} was killed at {} points", points.len());
        Ok(())
    };
    tokio::try_join!(crashes("stg", STG), crashes("dds", DDS), crashes("cdm", CDM))?;
    Ok(())
}

/// A pipeline whose batches are small, so that every point is met by some of them.
async fn pipeline(
    services: &Services,
    name: &str,
    generator: &Generator,
    withheld: usize,
) -> Result<Pipeline> {
    let mut pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.set_batches("{maxRecords: 20, maxWait: 100ms}")?;
    pipeline.load_dictionary(generator, withheld).await?;
    Ok(pipeline)
}

/// Kills a worker of the stage at each of the points, with a part of the messages to read each time.
async fn crash(
    kafka: &Kafka,
    pipeline: &Pipeline,
    stage: &str,
    points: &[Point],
    messages: &[Message],
) -> Result<()> {
    let upstream = STAGES.into_iter().take_while(|other| *other != stage);
    execute(pipeline, &COMMITS_WAIT.replace("{stage}", stage)).await?;
    let parts = messages.chunks(messages.len().div_ceil(points.len()));
    for (point, part) in std::iter::zip(points, parts) {
        pipeline.produce(1, part.iter().cloned()).await?;
        for stage in upstream.clone() {
            pipeline.read_to_the_end(stage, WITHIN).await?;
        }
        let mut lock = pipeline.pool().begin().await?;
        let statement = AssertSqlSafe(point.lock());
        sqlx::raw_sql(statement).execute(&mut *lock).await?;
        let worker = pipeline.worker(&[stage])?;
        waits(pipeline, stage, point.is_met()).await?;
        let before = pipeline.positions(stage).await?;
        let moved = || async { Ok(pipeline.positions(stage).await? != before) };
        match point {
            Point::Table(_) => {
                worker.kill();
                lock.rollback().await?;
            }
            Point::Outputs => {
                let _halted = kafka.halt().await?;
                lock.rollback().await?;
                waits(pipeline, stage, WRITTEN).await?;
                worker.kill();
            }
            Point::CommitUnanswered => {
                worker.kill();
                lock.rollback().await?;
                until("the commit goes through", WITHIN, moved).await?;
            }
            Point::CommitLost => {
                worker.kill();
                let end = format!("SELECT pg_terminate_backend(pid) {}", sessions(stage));
                execute(pipeline, &end).await?;
                until("the session is gone", WITHIN, || async {
                    Ok(!is_at(pipeline, stage, point.is_met()).await?)
                })
                .await?;
                lock.rollback().await?;
                assert!(!moved().await?, "{stage}: the commit was not lost");
            }
        }
    }
    Ok(())
}

/// Makes every commit of a stage wait for an advisory lock, after all that the worker does before it.
const COMMITS_WAIT: &str = "\
CREATE FUNCTION streamstage.wait() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON streamstage.position DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.consumer_group LIKE '%.{stage}') EXECUTE FUNCTION streamstage.wait()";
/// The worker has written, and asks PostgreSQL for nothing: between two statements that lasts an instant only.
const WRITTEN: &str =
    "state = 'idle in transaction' AND clock_timestamp() - state_change > interval '500 ms'";

impl Point {
    /// What the worker is kept from.
    fn lock(self) -> String {
        match self {
            Self::Table(table) => format!("LOCK TABLE {table} IN EXCLUSIVE MODE"),
            Self::Outputs => Self::Table("streamstage.position").lock(),
            Self::CommitUnanswered | Self::CommitLost => "SELECT pg_advisory_xact_lock(7)".to_owned(),
        }
    }

    /// What PostgreSQL says of the session of a worker that is kept from it.
    fn is_met(self) -> &'static str {
        match self {
            Self::Table(_) | Self::Outputs => "wait_event_type = 'Lock' AND query <> 'COMMIT'",
            Self::CommitUnanswered | Self::CommitLost => "wait_event_type = 'Lock' AND query = 'COMMIT'",
        }
    }
}

async fn waits(pipeline: &Pipeline, stage: &str, how: &str) -> Result<()> {
    until(&format!("{stage}: {how}"), WITHIN, || is_at(pipeline, stage, how)).await
}

async fn is_at(pipeline: &Pipeline, stage: &str, how: &str) -> Result<bool> {
    let sessions = format!("SELECT count(*) {} AND {how}", sessions(stage));
    Ok(pipeline.query::<i64>(&sessions).await? > 0)
}

fn sessions(stage: &str) -> String {
    format!(
        "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'streamstage {stage}'"
    )
}

async fn execute(pipeline: &Pipeline, statement: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(pipeline.pool())
        .await?;
    Ok(())
}

/// The process of the broker, which can be halted by one stage at a time.
struct Kafka(Mutex<u32>);

/// It answers nobody while this is there.
struct Halted<'k>(MutexGuard<'k, u32>);

impl Kafka {
    fn of(services: &Services) -> Result<Self> {
        let folder = services.folder().context("services of others")?;
        let running = e2e::services::status(folder)?.into_iter();
        let mut named = running.filter(|service| service.name == "kafka");
        Ok(Self(Mutex::new(named.next().context("no Kafka")?.pid)))
    }

    async fn halt(&self) -> Result<Halted<'_>> {
        let halted = Halted(self.0.lock().await);
        signal("STOP", *halted.0)?;
        Ok(halted)
    }
}

impl Drop for Halted<'_> {
    fn drop(&mut self) {
        if let Err(error) = signal("CONT", *self.0) {
            eprintln!("Kafka does not go on: {error:#}");
        }
    }
}

fn signal(signal: &str, pid: u32) -> Result<()> {
    let sent = Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status()?;
    ensure!(sent.success(), "no signal {signal} to {pid}");
    Ok(())
}
