//! Workers that are killed at random moments: the rows are those of a run without a kill, and whoever reads them
//! meanwhile sees no order go back to an older version.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the warehouse, and waits until a deadline"
)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, Worker, services};
use e2e::services::Services;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sqlx::PgPool;
use tokio::sync::oneshot;

const PARTITIONS: i32 = 6;
/// Each round kills one worker of every stage.
const ROUNDS: usize = 18;
const DRAINED_WITHIN: Duration = Duration::from_mins(3);
/// A killed member's partitions move after the session timeout; until then its stage may stand still.
const MOVES_WITHIN: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_at_random_moments_change_nothing() -> Result<()> {
    let services = services().await?;
    let mut generator = Generator::new(&Settings {
        seed: 50,
        ..Settings::default()
    });
    let messages: Vec<Message> = generator.history(6_000).collect();

    let reference = pipeline(&services, "kill_none", &generator).await?;
    let _worker = reference.worker(&[])?;
    reference.produce(1, messages.iter().cloned()).await?;
    reference.drained(DRAINED_WITHIN).await?;

    let killed = pipeline(&services, "kill_fifty", &generator).await?;
    let (done, ended) = oneshot::channel();
    let reader = tokio::spawn(sees_no_version_go_down(killed.pool().clone(), ended));
    let mut workers: Vec<[Worker; 2]> = Vec::new();
    for stage in STAGES {
        workers.push([killed.worker(&[stage])?, killed.worker(&[stage])?]);
    }
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut kills = 0;
    for chunk in messages.chunks(messages.len().div_ceil(ROUNDS)) {
        let before = reached(&killed).await?;
        killed.produce(random.random(), chunk.iter().cloned()).await?;
        for (stage, before) in before.into_iter().enumerate() {
            moved(&killed, stage, before).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        for (stage, pair) in STAGES.iter().zip(&mut workers) {
            let fresh = killed.worker(&[stage])?;
            std::mem::replace(&mut pair[random.random_range(0..2)], fresh).kill();
            kills += 1;
        }
    }
    killed.drained(DRAINED_WITHIN).await?;
    drop(done);
    let readings = reader.await??;
    eprintln!(
        "kill: {kills} workers killed over {} messages, {readings} readings meanwhile",
        messages.len()
    );
    ensure!(kills >= 50, "only {kills} kills");
    assert_eq!(killed.rows().await?, reference.rows().await?);
    Ok(())
}

/// The newest version of every order, in the first layer and in the last.
const VERSIONS: &str = "SELECT 'stg ' || object_id, version FROM stg.order_events \
    UNION ALL SELECT 'cdm ' || order_id, version FROM cdm.order_contribution";

/// Reads the versions until `ended`; how often.
async fn sees_no_version_go_down(pool: PgPool, mut ended: oneshot::Receiver<()>) -> Result<usize> {
    let mut known: HashMap<String, Vec<u8>> = HashMap::new();
    let mut readings = 0;
    while ended.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let read: Vec<(String, Vec<u8>)> = sqlx::query_as(VERSIONS).fetch_all(&pool).await?;
        for (order, version) in read {
            let before = known.get(&order);
            ensure!(
                before.is_none_or(|before| *before <= version),
                "{order} went back"
            );
            known.insert(order, version);
        }
        readings += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(readings)
}

/// A pipeline whose batches are small, so that a kill finds one under way.
async fn pipeline(services: &Services, name: &str, generator: &Generator) -> Result<Pipeline> {
    let mut pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.set_batches("{maxRecords: 40, maxWait: 100ms}")?;
    pipeline.load_dictionary(generator, 0).await?;
    Ok(pipeline)
}

/// The sums of the stored positions, by stage.
async fn reached(pipeline: &Pipeline) -> Result<Vec<i64>> {
    let mut sums = Vec::new();
    for stage in STAGES {
        sums.push(pipeline.positions(stage).await?.values().sum());
    }
    Ok(sums)
}

/// Waits until a stage has committed something since `before`.
async fn moved(pipeline: &Pipeline, stage: usize, before: i64) -> Result<()> {
    let deadline = Instant::now() + MOVES_WITHIN;
    while reached(pipeline).await?[stage] <= before {
        ensure!(
            Instant::now() < deadline,
            "stage {} stands still at {before}",
            STAGES[stage]
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
