//! Workers are killed at random moments: the rows equal those of a run without a kill, and a concurrent reader never
//! sees an order with an older version than before.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the warehouse, and waits until a deadline"
)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, Worker, start_services};
use e2e::services::Services;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sqlx::PgPool;
use tokio::sync::oneshot;

const PARTITIONS: i32 = 6;
/// Number of rounds; each kills one worker of every stage.
const ROUNDS: usize = 18;
const DRAIN_TIMEOUT: Duration = Duration::from_mins(3);
/// Deadline for progress of a stage: longer than the session timeout, after which the partitions of a killed member are
/// reassigned.
const PROGRESS_DEADLINE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_at_random_moments_change_no_row() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    let services = start_services().await?;
    let mut generator = Generator::new(&Settings {
        seed: 50,
        ..Settings::default()
    });
    let messages: Vec<Message> = generator.history(6_000).collect();

    let reference = create_pipeline(&services, "kill_none", &generator).await?;
    let _worker = reference.start_worker(&[])?;
    reference.produce(1, messages.iter().cloned()).await?;
    reference.wait_drained(DRAIN_TIMEOUT).await?;

    let killed = create_pipeline(&services, "kill_fifty", &generator).await?;
    let (stop_reader, stopped) = oneshot::channel();
    let reader = tokio::spawn(assert_versions_never_decrease(killed.pool().clone(), stopped));
    let mut workers: Vec<[Worker; 2]> = Vec::new();
    for stage in STAGES {
        workers.push([killed.start_worker(&[stage])?, killed.start_worker(&[stage])?]);
    }
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut kills = 0;
    for chunk in messages.chunks(messages.len().div_ceil(ROUNDS)) {
        let before = processed_records(&killed).await?;
        killed.produce(random.random(), chunk.iter().cloned()).await?;
        for (stage, before) in before.into_iter().enumerate() {
            wait_for_progress(&killed, stage, before).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        for (stage, pair) in STAGES.iter().zip(&mut workers) {
            let replacement = killed.start_worker(&[stage])?;
            std::mem::replace(&mut pair[random.random_range(0..2)], replacement).kill();
            kills += 1;
        }
    }
    killed.wait_drained(DRAIN_TIMEOUT).await?;
    drop(stop_reader);
    let reads = reader.await??;
    eprintln!(
        "kill: {kills} workers killed over {} messages, {reads} concurrent reads",
        messages.len()
    );
    ensure!(kills >= 50, "only {kills} kills");
    assert_eq!(killed.row_digests().await?, reference.row_digests().await?);
    let verified = killed.run_command("verify", &[], &[])?;
    ensure!(verified.contains("verdict    agrees\n"), "{verified}");
    Ok(())
}

/// Reads the latest version of every order, in the first layer and in the last.
const VERSIONS_QUERY: &str = "SELECT 'stg ' || object_id, version FROM stg.order_events \
    UNION ALL SELECT 'cdm ' || order_id, version FROM cdm.order_contribution";

/// Reads the versions until `stopped` is closed; returns the number of reads.
async fn assert_versions_never_decrease(pool: PgPool, mut stopped: oneshot::Receiver<()>) -> Result<usize> {
    let mut latest: HashMap<String, Vec<u8>> = HashMap::new();
    let mut reads = 0;
    while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(VERSIONS_QUERY).fetch_all(&pool).await?;
        for (order, version) in rows {
            let before = latest.get(&order);
            ensure!(
                before.is_none_or(|before| *before <= version),
                "{order} has an older version than before"
            );
            latest.insert(order, version);
        }
        reads += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(reads)
}

/// Creates a pipeline with small batches, so that a batch is in flight at each kill.
async fn create_pipeline(services: &Services, name: &str, generator: &Generator) -> Result<Pipeline> {
    let mut pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.set_batch_settings("{maxRecords: 40, maxWait: 100ms}")?;
    pipeline.load_reference_data(generator, 0).await?;
    Ok(pipeline)
}

/// Number of processed records of each stage: the sum of its positions.
async fn processed_records(pipeline: &Pipeline) -> Result<Vec<i64>> {
    let mut sums = Vec::new();
    for stage in STAGES {
        sums.push(pipeline.positions(stage).await?.values().sum());
    }
    Ok(sums)
}

/// Waits until a stage has processed more than `before` records.
async fn wait_for_progress(pipeline: &Pipeline, stage: usize, before: i64) -> Result<()> {
    let deadline = Instant::now() + PROGRESS_DEADLINE;
    while processed_records(pipeline).await?[stage] <= before {
        ensure!(
            Instant::now() < deadline,
            "stage {} makes no progress at {before}",
            STAGES[stage]
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
