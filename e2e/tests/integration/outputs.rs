//! Outputs: a batch that is retried publishes only what the broker has not acknowledged yet.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Worker, start_services, wait_until};

const DEADLINE: Duration = Duration::from_mins(2);
/// Retries of the batch before its commit succeeds.
const RETRIES: u64 = 4;

/// Makes every commit that moves a position fail, as a serialization failure does, after the outputs are published.
const FAIL_COMMITS: [&str; 2] = [
    "CREATE FUNCTION streamstage.fails() RETURNS trigger LANGUAGE plpgsql
         AS $$ BEGIN RAISE 'conflict' USING ERRCODE = '40001'; END $$",
    "CREATE CONSTRAINT TRIGGER fails after update ON streamstage.position DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION streamstage.fails()",
];

/// Number of failed attempts of the stage's batches.
async fn retries(worker: &Worker, stage: &str) -> Result<u64> {
    let (_, metrics) = worker.http_get("/metrics").await?;
    let prefix = format!("streamstage_worker_batch_retries_total{{stage=\"{stage}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
    Ok(count.map_or(Ok(0), str::parse)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_retry_publishes_again_what_the_broker_has_acknowledged() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "retried", 3).await?;
    let mut generator = Generator::new(&Settings {
        seed: 31,
        bad: 0.0,
        duplicated: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(60).collect();
    let expected = i64::try_from(messages.len())?;
    for statement in FAIL_COMMITS {
        sqlx::query(statement).execute(pipeline.pool()).await?;
    }
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_until("the batch is retried", DEADLINE, || async {
        Ok(retries(&worker, "stg").await? >= RETRIES)
    })
    .await?;
    let published = || -> Result<i64> { Ok(pipeline.end_offsets(pipeline.stg_topic())?.values().sum()) };
    let during = published()?;
    ensure!(
        during <= expected,
        "{during} messages of {expected} orders after {RETRIES} retries"
    );
    sqlx::query("DROP TRIGGER fails ON streamstage.position")
        .execute(pipeline.pool())
        .await?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    assert_eq!(published()?, expected);
    Ok(())
}
