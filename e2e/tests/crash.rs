//! A worker that is killed at each point of a batch's path at which something can be half done: the rows are those of
//! a run without a crash.
//!
//! The worker knows nothing of these points: what it needs next is withheld, by a lock, by a topic that takes nothing
//! or by a commit that waits, until it is seen to wait there.
#![expect(clippy::disallowed_types, reason = "edge: holds locks in PostgreSQL")]

use std::time::Duration;

use anyhow::Result;
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, services, until};
use e2e::services::Services;
use sqlx::{AssertSqlSafe, Postgres, Transaction};

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
    /// As above, of its dead letters.
    DeadLetters,
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
    Point::DeadLetters,
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
    let services = services().await?;
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
        crash(&crashed, stage, points, &messages).await?;
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
async fn crash(pipeline: &Pipeline, stage: &str, points: &[Point], messages: &[Message]) -> Result<()> {
    let upstream = STAGES.into_iter().take_while(|other| *other != stage);
    execute(pipeline, &COMMITS_WAIT.replace("{stage}", stage)).await?;
    let parts = messages.chunks(messages.len().div_ceil(points.len()));
    for (point, part) in std::iter::zip(points, parts) {
        pipeline.produce(1, part.iter().cloned()).await?;
        for stage in upstream.clone() {
            pipeline.read_to_the_end(stage, WITHIN).await?;
        }
        let held = Held::at(pipeline, stage, *point).await?;
        let worker = pipeline.worker(&[stage])?;
        until(&format!("{stage} waits at {point:?}"), WITHIN, || held.waits()).await?;
        let before = pipeline.positions(stage).await?;
        worker.kill();
        held.release().await?;
        let moved = || async { Ok(pipeline.positions(stage).await? != before) };
        match point {
            Point::CommitUnanswered => until("the commit goes through", WITHIN, moved).await?,
            Point::CommitLost => assert!(!moved().await?, "{stage}: the commit was not lost"),
            _ => {}
        }
    }
    Ok(())
}

/// Makes every commit of a stage wait for the advisory lock, after all that the worker does before it.
const COMMITS_WAIT: &str = "\
CREATE FUNCTION streamstage.wait() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON streamstage.position DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.consumer_group LIKE '%.{stage}') EXECUTE FUNCTION streamstage.wait()";

/// What keeps a worker of a stage at a point.
struct Held<'p> {
    pipeline: &'p Pipeline,
    stage: &'p str,
    point: Point,
    lock: Transaction<'static, Postgres>,
}

impl<'p> Held<'p> {
    async fn at(pipeline: &'p Pipeline, stage: &'p str, point: Point) -> Result<Self> {
        let mut lock = pipeline.pool().begin().await?;
        match point {
            Point::Table(table) => {
                let statement = format!("LOCK TABLE {table} IN EXCLUSIVE MODE");
                sqlx::raw_sql(AssertSqlSafe(statement))
                    .execute(&mut *lock)
                    .await?;
            }
            Point::CommitUnanswered | Point::CommitLost => {
                sqlx::raw_sql("SELECT pg_advisory_xact_lock(7)")
                    .execute(&mut *lock)
                    .await?;
            }
            Point::Outputs | Point::DeadLetters => {}
        }
        let held = Self {
            pipeline,
            stage,
            point,
            lock,
        };
        held.demand_replicas("2").await?;
        Ok(held)
    }

    /// Whether the worker is there.
    async fn waits(&self) -> Result<bool> {
        let how = match self.point {
            // Between two statements it is idle for an instant only.
            Point::Outputs | Point::DeadLetters => {
                "state = 'idle in transaction' AND clock_timestamp() - state_change > interval '500 ms'"
            }
            Point::CommitUnanswered | Point::CommitLost => "wait_event_type = 'Lock' AND query = 'COMMIT'",
            Point::Table(_) => "wait_event_type = 'Lock' AND query <> 'COMMIT'",
        };
        let sessions = format!("SELECT count(*) {} AND {how}", self.sessions());
        Ok(self.pipeline.query::<i64>(&sessions).await? > 0)
    }

    /// Lets go what a worker would wait for, once the killed one's sessions are gone, or must go on without it.
    async fn release(self) -> Result<()> {
        if matches!(self.point, Point::CommitLost) {
            let end = format!("SELECT pg_terminate_backend(pid) {}", self.sessions());
            execute(self.pipeline, &end).await?;
            until("the session is gone", WITHIN, || async {
                Ok(!self.waits().await?)
            })
            .await?;
        }
        self.demand_replicas("1").await?;
        self.lock.rollback().await?;
        Ok(())
    }

    fn sessions(&self) -> String {
        format!(
            "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'streamstage {}'",
            self.stage
        )
    }

    /// How many replicas a record of the topic at this point needs; there is one.
    async fn demand_replicas(&self, count: &str) -> Result<()> {
        let outputs = if self.stage == "stg" {
            self.pipeline.stg_topic()
        } else {
            self.pipeline.dds_topic()
        };
        let topic = match self.point {
            Point::Outputs => outputs.to_owned(),
            Point::DeadLetters => format!("{}.dlq", self.pipeline.source_topic()),
            _ => return Ok(()),
        };
        self.pipeline
            .configure(&topic, "min.insync.replicas", count)
            .await
    }
}

async fn execute(pipeline: &Pipeline, statement: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(pipeline.pool())
        .await?;
    Ok(())
}
