//! A stage that reads its topic again from the start finds everything known: no row changes, none is even touched.
#![expect(
    clippy::disallowed_methods,
    reason = "edge: waits until a deadline, and measures the time"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{self, Pipeline, SESSIONS};
use sqlx::AssertSqlSafe;

const ORDERS: usize = 1000;
/// How long the stages may take.
const DRAINED: Duration = Duration::from_mins(2);

/// Rows inserted, updated, deleted, and those that are dead.
type Counts = BTreeMap<String, Vec<i64>>;

/// What PostgreSQL has counted for every table of the pipeline, when every session that could still report something
/// is gone: each does so at its end, at the latest.
async fn counts(pipeline: &Pipeline) -> Result<Counts> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let workers = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND backend_type = 'client backend' AND application_name <> '{SESSIONS}'"
    );
    while pipeline.query::<i64>(&workers).await? > 0 {
        ensure!(Instant::now() < deadline, "the workers' sessions do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let counted: Vec<(String, Vec<i64>)> = sqlx::query_as(
        "SELECT schemaname || '.' || relname, ARRAY[n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup] \
         FROM pg_stat_user_tables WHERE schemaname IN ('stg', 'dds', 'cdm')",
    )
    .fetch_all(pipeline.pool())
    .await?;
    Ok(counted.into_iter().collect())
}

async fn run_until_drained(pipeline: &Pipeline) -> Result<()> {
    let worker = pipeline.worker(&[])?;
    pipeline.drained(DRAINED).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test]
async fn a_stage_replayed_from_offset_0_changes_nothing() -> Result<()> {
    let services = pipeline::services().await?;
    let pipeline = Pipeline::create(&services, "replay", 3).await?;
    let mut generator = Generator::new(&Settings {
        bad: 0.02,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 0).await?;
    let manifest = pipeline.produce(1, generator.history(ORDERS)).await?;
    run_until_drained(&pipeline).await?;
    let rows = pipeline.rows().await?;

    for table in counts(&pipeline).await?.keys() {
        // Otherwise a few dead entries may stay where an index still leads to them.
        let vacuum = AssertSqlSafe(format!("VACUUM (ANALYZE, INDEX_CLEANUP ON) {table}"));
        sqlx::raw_sql(vacuum).execute(pipeline.pool()).await?;
    }
    let before = counts(&pipeline).await?;
    assert!(
        before.len() > 20 && before.values().all(|counts| counts[3] == 0),
        "{before:?}"
    );
    // The counts would show it: every message that is good has inserted something.
    let stored = before["stg.order_events"][0] + before["stg.order_event_history"][0];
    assert!(stored > i64::try_from(ORDERS)?);

    for stage in pipeline::STAGES {
        let began = Instant::now();
        let moved = pipeline.command(
            "reset-offsets",
            &[stage],
            &["--to", "earliest", "--all", "--execute"],
        )?;
        assert_eq!(moved.matches("-> 0").count(), 3, "{moved}");
        run_until_drained(&pipeline).await?;
        assert_eq!(counts(&pipeline).await?, before, "{stage} was replayed");
        assert_eq!(pipeline.rows().await?, rows, "{stage} was replayed");
        eprintln!(
            "replay: {stage} read its topic again ({} source messages) in {:.1} s; {} tables untouched",
            manifest.messages,
            began.elapsed().as_secs_f64(),
            before.len()
        );
    }
    Ok(())
}
