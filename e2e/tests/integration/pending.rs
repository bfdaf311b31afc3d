//! Pending orders: as soon as their reference data exists, they are processed like a backlog, and metrics show how many
//! wait and for how long.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{Pipeline, Worker, start_services, wait_until};

const DEADLINE: Duration = Duration::from_mins(1);
const ORDERS: usize = 300;
const PENDING: &str = "SELECT count(*) FROM stg.pending_enrichment";

/// Value of a gauge of the stage `stg`; `None` if the worker does not export it.
async fn gauge(worker: &Worker, name: &str) -> Result<Option<f64>> {
    let (_, metrics) = worker.http_get("/metrics").await?;
    let prefix = format!("{name}{{stage=\"stg\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
    Ok(value.map(str::parse).transpose()?)
}

async fn wait_gauge(worker: &Worker, name: &str, condition: impl Fn(f64) -> bool) -> Result<()> {
    wait_until(name, DEADLINE, || async {
        Ok(gauge(worker, name).await?.is_some_and(&condition))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn due_orders_are_retried_without_a_pause_and_counted_while_they_wait() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "pending", 2).await?;
    // A page is much smaller than the number of orders.
    pipeline.set_batch_settings("{maxRecords: 10}")?;
    let settings = Settings {
        seed: 17,
        bad: 0.0,
        late: 0.0,
        duplicated: 0.0,
        ..Settings::default()
    };
    let mut generator = Generator::new(&settings);
    pipeline.load_reference_data(&generator, settings.users).await?;
    let messages: Vec<_> = generator.live().take(ORDERS).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    let pending: i64 = pipeline.query_scalar(PENDING).await?;
    assert_eq!(pending, i64::try_from(ORDERS)?);
    wait_gauge(&worker, "streamstage_worker_pending_orders", |count| {
        count.to_string() == ORDERS.to_string()
    })
    .await?;
    wait_gauge(
        &worker,
        "streamstage_worker_oldest_pending_order_age_seconds",
        |age| age > 0.0,
    )
    .await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    pipeline.load_reference_data(&generator, 0).await?;
    sqlx::query("UPDATE stg.pending_enrichment SET next_attempt_at = now()")
        .execute(pipeline.pool())
        .await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_until("no order is pending", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(PENDING).await? == 0)
    })
    .await?;
    // One line per round: the retries wait for their interval only between two rounds.
    worker.wait_for_log("retried pending orders").await?;
    let log = worker.log();
    let round = log.lines().find(|line| line.contains("retried pending orders"));
    let round = round.context("a round")?;
    ensure!(round.contains(&format!("\"orders\":{ORDERS}")), "{round}");
    wait_gauge(&worker, "streamstage_worker_pending_orders", |count| count < 0.5).await?;
    wait_gauge(
        &worker,
        "streamstage_worker_oldest_pending_order_age_seconds",
        |age| age < 0.5,
    )
    .await
}
