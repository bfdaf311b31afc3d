//! A connection pooler in transaction mode between the workers and PostgreSQL: everything works, and no session state of a
//! worker reaches another client of the pool.
#![expect(
    clippy::disallowed_types,
    reason = "edge: connects to the pooler as another client"
)]

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, start_services};
use e2e::recount::{read_marts, recount};
use e2e::services::Pooler;
use sqlx::{PgConnection, Row as _};
use tokio::sync::oneshot;

const ORDERS: usize = 600;
/// Users whose reference data is loaded later, so that their orders are pending first.
const WITHHELD_USERS: usize = 20;
const DRAIN_TIMEOUT: Duration = Duration::from_mins(2);
/// Session state that a worker could leave behind on a server connection.
const SESSION_STATE: &str = "SELECT current_user || ' ' || current_setting('lock_timeout') || ' ' \
    || current_setting('statement_timeout') || ' ' || current_setting('idle_in_transaction_session_timeout') || ' ' \
    || (SELECT count(*) FROM pg_prepared_statements) || ' ' \
    || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";

#[tokio::test(flavor = "multi_thread")]
async fn stages_and_commands_work_through_a_pooler_and_leave_no_session_state() -> Result<()> {
    let services = start_services().await?;
    let pooler = Pooler::start(&services, "SELECT 1").await?;
    let mut pipeline = Pipeline::create(&services, "pooler", 3).await?;
    pipeline.set_batch_settings("{maxRecords: 50, maxWait: 50ms}")?;
    pipeline.set_warehouse_host(&pooler.address())?;
    sqlx::raw_sql("DROP SCHEMA streamstage, stg, dds, cdm, cdm_bi CASCADE")
        .execute(pipeline.pool())
        .await?;
    for _ in 0..2 {
        pipeline.run_command("migrate", &[], &[])?;
    }
    let client = pooler.connect(pipeline.name()).await?;
    let (stop, stopped) = oneshot::channel();
    let observer = tokio::spawn(assert_no_session_state(client, stopped));

    let mut generator = Generator::new(&Settings {
        seed: 16,
        bad: 0.02,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, WITHHELD_USERS).await?;
    let messages: Vec<Message> = generator.history(ORDERS).collect();
    let file = pipeline.write_messages(&messages)?;
    let workers = [pipeline.start_worker(&[])?, pipeline.start_worker(&[])?];
    let sent = pipeline.produce(1, messages.into_iter()).await?;
    pipeline.run_command("check", &[], &[])?;
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_drained(DRAIN_TIMEOUT).await?;
    let dead_letters = "SELECT count(*) FROM streamstage.dead_letter WHERE redriven_at IS NULL";
    let bad: i64 = sent.bad_by_code.values().sum::<u64>().try_into()?;
    assert_eq!(pipeline.query_scalar::<i64>(dead_letters).await?, bad);
    pipeline.run_command("dead-letters list", &["stg"], &[])?;
    pipeline.run_command("dead-letters redrive", &["stg"], &["--execute"])?;
    pipeline.wait_drained(DRAIN_TIMEOUT).await?;
    for worker in workers {
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    }
    pipeline.run_command(
        "reset-offsets",
        &["dds"],
        &["--to", "earliest", "--all", "--execute"],
    )?;
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DRAIN_TIMEOUT).await?;

    let (reference_data, tags) = pipeline.write_recount_inputs(&generator)?;
    let expected = recount(&file, &reference_data, &tags)?;
    ensure!(expected.products.values().sum::<i64>() > 0, "no order is counted");
    assert_eq!(read_marts(pipeline.pool()).await?, expected);
    drop(stop);
    let observations = observer.await??;
    eprintln!("pooler: {observations} observations of another client");
    ensure!(observations > 100, "only {observations} observations");
    Ok(())
}

/// Uses the server connections of the pool by turns with the workers, until `stopped` is closed; returns the number of
/// observations. None of them may show a trace of a worker.
async fn assert_no_session_state(
    mut client: PgConnection,
    mut stopped: oneshot::Receiver<()>,
) -> Result<usize> {
    let mut observations = 0;
    while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let row = sqlx::raw_sql(SESSION_STATE).fetch_one(&mut client).await?;
        let state: String = row.try_get(0)?;
        ensure!(
            state == "postgres 0 0 0 0 0",
            "another client of the pool has: {state}"
        );
        observations += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(observations)
}
