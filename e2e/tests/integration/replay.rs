//! A stage that consumes its topic again from the start skips all records as duplicates: it writes no row, not even an
//! identical one.
#![expect(
    clippy::disallowed_methods,
    reason = "edge: waits until a deadline, and measures time"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{self, Pipeline, TEST_APPLICATION_NAME};
use sqlx::AssertSqlSafe;

const ORDERS: usize = 1000;
const DRAIN_TIMEOUT: Duration = Duration::from_mins(2);

/// Numbers of inserted, updated, deleted and dead rows, by table.
type TupleCounts = BTreeMap<String, Vec<i64>>;

/// Reads PostgreSQL's statistics of every table, after all worker sessions have ended: a session reports its counts at
/// its end at the latest.
async fn tuple_counts(pipeline: &Pipeline) -> Result<TupleCounts> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let worker_sessions = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND backend_type = 'client backend' AND application_name <> '{TEST_APPLICATION_NAME}'"
    );
    while pipeline.query_scalar::<i64>(&worker_sessions).await? > 0 {
        ensure!(Instant::now() < deadline, "the workers' sessions do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let counts: Vec<(String, Vec<i64>)> = sqlx::query_as(
        "SELECT schemaname || '.' || relname, ARRAY[n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup] \
         FROM pg_stat_user_tables WHERE schemaname IN ('stg', 'dds', 'cdm')",
    )
    .fetch_all(pipeline.pool())
    .await?;
    Ok(counts.into_iter().collect())
}

/// Removes all dead rows, and returns the statistics. An autovacuum at the same time may count rows that are gone, so
/// that more than one round is needed.
async fn vacuum_all(pipeline: &Pipeline) -> Result<TupleCounts> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    let mut counts = tuple_counts(pipeline).await?;
    loop {
        for table in counts.keys() {
            // Without index cleanup, a few dead rows may remain because an index still refers to them.
            let vacuum = AssertSqlSafe(format!("VACUUM (ANALYZE, INDEX_CLEANUP ON) {table}"));
            sqlx::raw_sql(vacuum).execute(pipeline.pool()).await?;
        }
        counts = tuple_counts(pipeline).await?;
        if counts.values().all(|counts| counts[3] == 0) {
            return Ok(counts);
        }
        ensure!(Instant::now() < deadline, "dead rows remain: {counts:?}");
    }
}

async fn run_until_drained(pipeline: &Pipeline) -> Result<()> {
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DRAIN_TIMEOUT).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test]
async fn a_replay_from_offset_0_writes_no_row() -> Result<()> {
    let services = pipeline::start_services().await?;
    let pipeline = Pipeline::create(&services, "replay", 3).await?;
    let mut generator = Generator::new(&Settings {
        bad: 0.02,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let manifest = pipeline.produce(1, generator.history(ORDERS)).await?;
    run_until_drained(&pipeline).await?;
    let digests = pipeline.row_digests().await?;

    let before = vacuum_all(&pipeline).await?;
    assert!(before.len() > 20, "{before:?}");
    // The statistics do count: every valid message has inserted a row.
    let stored = before["stg.order_events"][0] + before["stg.order_event_history"][0];
    assert!(stored > i64::try_from(ORDERS)?);

    for stage in pipeline::STAGES {
        let start = Instant::now();
        let output = pipeline.run_command(
            "reset-offsets",
            &[stage],
            &["--to", "earliest", "--all", "--execute"],
        )?;
        assert_eq!(output.matches("-> 0").count(), 3, "{output}");
        run_until_drained(&pipeline).await?;
        assert_eq!(tuple_counts(&pipeline).await?, before, "{stage} was replayed");
        assert_eq!(pipeline.row_digests().await?, digests, "{stage} was replayed");
        eprintln!(
            "replay: {stage} consumed its topic again ({} source messages) in {:.1} s; {} tables unchanged",
            manifest.messages,
            start.elapsed().as_secs_f64(),
            before.len()
        );
    }
    Ok(())
}
