//! A worker is killed at each point of the batch pipeline where a step can be incomplete: the rows equal those of a run
//! without a crash.
//!
//! The worker has no hooks for this. A lock, a halted broker or a delayed commit makes it wait at the point.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, wait_until};
use e2e::services::{Options, Services};
use sqlx::AssertSqlSafe;
use tokio::sync::{Mutex, MutexGuard};

const PARTITIONS: i32 = 3;
/// Longer than the session timeout, after which the partitions of a killed member are reassigned.
const DEADLINE: Duration = Duration::from_mins(2);
/// Users of the generator.
const USERS: usize = 40;
/// Users that are missing in the reference data until the end.
const WITHHELD_USERS: usize = 10;

/// A point of the batch pipeline at which the worker is killed.
#[derive(Clone, Copy, Debug)]
enum CrashPoint {
    /// Before the batch locks or writes rows of this table.
    Table(&'static str),
    /// After the effects are written, before the outputs are acknowledged.
    Outputs,
    /// During the commit; it succeeds, but the worker gets no response.
    CommitWithoutResponse,
    /// During the commit; it fails after the outputs were acknowledged.
    CommitLost,
}

const STG: &[CrashPoint] = &[
    CrashPoint::Table("stg.order_events"),
    CrashPoint::Table("stg.order_event_history"),
    CrashPoint::Table("stg.pending_enrichment"),
    CrashPoint::Table("streamstage.dead_letter"),
    CrashPoint::Table("streamstage.position"),
    CrashPoint::Outputs,
    CrashPoint::CommitWithoutResponse,
    CrashPoint::CommitLost,
];
const DDS: &[CrashPoint] = &[
    CrashPoint::Table("dds.h_order"),
    CrashPoint::Table("streamstage.position"),
    CrashPoint::Outputs,
    CrashPoint::CommitWithoutResponse,
    CrashPoint::CommitLost,
];
const CDM: &[CrashPoint] = &[
    CrashPoint::Table("cdm.order_contribution"),
    CrashPoint::Table("cdm.product_order_count"),
    CrashPoint::Table("cdm.category_order_count"),
    CrashPoint::Table("cdm.entity_name"),
    CrashPoint::Table("streamstage.position"),
    CrashPoint::CommitWithoutResponse,
    CrashPoint::CommitLost,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_of_a_batch_changes_nothing() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    // Own services, because the broker is halted.
    let services = Services::start(&Options::default()).await?;
    let kafka = KafkaProcess::find(&services)?;
    let mut generator = Generator::new(&Settings {
        seed: 21,
        users: USERS,
        bad: 0.1,
        ..Settings::default()
    });
    let messages: Vec<Message> = generator.history(600).collect();
    let reference = create_pipeline(&services, "crash_none", &generator, 0).await?;
    reference.produce(1, messages.iter().cloned()).await?;
    let _worker = reference.start_worker(&[])?;
    reference.wait_drained(DEADLINE).await?;
    let expected = reference.row_digests().await?;

    let crash_stage = async |stage: &str, points: &[CrashPoint]| -> Result<()> {
        let name = format!("crash_{stage}");
        let crashed = create_pipeline(&services, &name, &generator, WITHHELD_USERS).await?;
        let others = STAGES.into_iter().filter(|other| *other != stage);
        let _others = crashed.start_worker(&others.collect::<Vec<_>>())?;
        crash_at_points(&kafka, &crashed, stage, points, &messages).await?;
        crashed.load_reference_data(&generator, 0).await?;
        let _worker = crashed.start_worker(&[stage])?;
        crashed.wait_drained(DEADLINE).await?;
        assert_eq!(crashed.row_digests().await?, expected, "{stage}");
        eprintln!("crash: {stage} was killed at {} points", points.len());
        Ok(())
    };
    tokio::try_join!(
        crash_stage("stg", STG),
        crash_stage("dds", DDS),
        crash_stage("cdm", CDM)
    )?;
    Ok(())
}

/// Creates a pipeline with small batches, so that some batch reaches every point.
async fn create_pipeline(
    services: &Services,
    name: &str,
    generator: &Generator,
    withheld: usize,
) -> Result<Pipeline> {
    let mut pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.set_batch_settings("{maxRecords: 20, maxWait: 100ms}")?;
    pipeline.load_reference_data(generator, withheld).await?;
    Ok(pipeline)
}

/// Kills a worker of the stage at each point, each time with a part of the messages to process.
async fn crash_at_points(
    kafka: &KafkaProcess,
    pipeline: &Pipeline,
    stage: &str,
    points: &[CrashPoint],
    messages: &[Message],
) -> Result<()> {
    let upstream = STAGES.into_iter().take_while(|other| *other != stage);
    execute(pipeline, &DELAY_COMMITS.replace("{stage}", stage)).await?;
    let parts = messages.chunks(messages.len().div_ceil(points.len()));
    for (point, part) in std::iter::zip(points, parts) {
        pipeline.produce(1, part.iter().cloned()).await?;
        for stage in upstream.clone() {
            pipeline.wait_caught_up(stage, DEADLINE).await?;
        }
        let mut lock = pipeline.pool().begin().await?;
        let statement = AssertSqlSafe(point.lock_statement());
        sqlx::raw_sql(statement).execute(&mut *lock).await?;
        let worker = pipeline.start_worker(&[stage])?;
        wait_for_session(pipeline, stage, point.session_condition()).await?;
        let before = pipeline.positions(stage).await?;
        let is_committed = || async { Ok(pipeline.positions(stage).await? != before) };
        match point {
            CrashPoint::Table(_) => {
                worker.kill();
                lock.rollback().await?;
            }
            CrashPoint::Outputs => {
                let _halted = kafka.halt().await?;
                lock.rollback().await?;
                wait_for_session(pipeline, stage, EFFECTS_WRITTEN).await?;
                worker.kill();
            }
            CrashPoint::CommitWithoutResponse => {
                worker.kill();
                lock.rollback().await?;
                wait_until("the commit succeeds", DEADLINE, is_committed).await?;
            }
            CrashPoint::CommitLost => {
                worker.kill();
                let terminate = format!("SELECT pg_terminate_backend(pid) {}", sessions_of(stage));
                execute(pipeline, &terminate).await?;
                wait_until("the session is terminated", DEADLINE, || async {
                    Ok(!has_session(pipeline, stage, point.session_condition()).await?)
                })
                .await?;
                lock.rollback().await?;
                assert!(!is_committed().await?, "{stage}: the commit was not lost");
            }
        }
    }
    Ok(())
}

/// Makes every commit of a stage wait for an advisory lock, after all other steps of the transaction.
const DELAY_COMMITS: &str = "\
create function streamstage.wait() returns trigger language plpgsql
    as 'begin perform pg_advisory_xact_lock_shared(7); return null; end';
create constraint trigger wait after update on streamstage.position deferrable initially deferred
    for each row when (new.consumer_group like '%.{stage}') execute function streamstage.wait()";
/// Condition for a session whose effects are written, while the outputs are not acknowledged: it has been idle in its
/// transaction for longer than between two statements.
const EFFECTS_WRITTEN: &str =
    "state = 'idle in transaction' AND clock_timestamp() - state_change > interval '500 ms'";

impl CrashPoint {
    /// Statement that locks what the worker needs next.
    fn lock_statement(self) -> String {
        match self {
            Self::Table(table) => format!("LOCK TABLE {table} IN EXCLUSIVE MODE"),
            Self::Outputs => Self::Table("streamstage.position").lock_statement(),
            Self::CommitWithoutResponse | Self::CommitLost => "SELECT pg_advisory_xact_lock(7)".to_owned(),
        }
    }

    /// Condition on `pg_stat_activity` for a session that waits at this point.
    fn session_condition(self) -> &'static str {
        match self {
            // The copies of dead letters wait for the same tables.
            Self::Table(_) | Self::Outputs => {
                "wait_event_type = 'Lock' AND query <> 'COMMIT' AND query NOT LIKE '%copied_at IS NULL%'"
            }
            Self::CommitWithoutResponse | Self::CommitLost => "wait_event_type = 'Lock' AND query = 'COMMIT'",
        }
    }
}

async fn wait_for_session(pipeline: &Pipeline, stage: &str, condition: &str) -> Result<()> {
    let description = format!("{stage}: {condition}");
    wait_until(&description, DEADLINE, || has_session(pipeline, stage, condition)).await
}

async fn has_session(pipeline: &Pipeline, stage: &str, condition: &str) -> Result<bool> {
    let query = format!("SELECT count(*) {} AND {condition}", sessions_of(stage));
    Ok(pipeline.query_scalar::<i64>(&query).await? > 0)
}

fn sessions_of(stage: &str) -> String {
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

/// Process id of the broker; the mutex allows one stage at a time to halt it.
struct KafkaProcess(Mutex<u32>);

/// Guard of a halted broker; dropping it resumes the broker.
struct HaltedKafka<'k>(MutexGuard<'k, u32>);

impl KafkaProcess {
    fn find(services: &Services) -> Result<Self> {
        let folder = services.folder().context("external services")?;
        let mut processes = e2e::services::status(folder)?.into_iter();
        let kafka = processes.find(|service| service.name == "kafka");
        Ok(Self(Mutex::new(kafka.context("no Kafka")?.pid)))
    }

    async fn halt(&self) -> Result<HaltedKafka<'_>> {
        let halted = HaltedKafka(self.0.lock().await);
        send_signal("STOP", *halted.0)?;
        Ok(halted)
    }
}

impl Drop for HaltedKafka<'_> {
    fn drop(&mut self) {
        if let Err(error) = send_signal("CONT", *self.0) {
            eprintln!("cannot resume Kafka: {error:#}");
        }
    }
}

fn send_signal(signal: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status()?;
    ensure!(status.success(), "cannot send {signal} to {pid}");
    Ok(())
}
