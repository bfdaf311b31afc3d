//! The rows are a function of the set of messages: neither their order, nor how often each comes, nor the partitions,
//! nor the number of workers changes any of them.
#![expect(clippy::disallowed_methods, reason = "edge: measures the time")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{self, Pipeline, Worker};
use e2e::services::Services;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

const ORDERS: usize = 1500;
/// Small batches, so that many of them meet.
const BATCH: &str = "batch: {maxRecords: 200, maxWait: 50ms}";
/// How long the stages of one pipeline may take.
const DRAINED: Duration = Duration::from_mins(2);

/// What a pipeline must end in.
struct Outcome {
    /// Every table but the dead letters, which have one row for each source offset.
    rows: BTreeMap<String, String>,
    /// Code and value of each dead letter.
    dead: BTreeSet<(String, Option<Vec<u8>>)>,
}

/// One way to send the messages.
struct Way {
    partitions: i32,
    workers: usize,
    messages: Vec<Message>,
}

async fn run(services: &Services, generator: &Generator, number: usize, way: Way) -> Result<Outcome> {
    let mut pipeline = Pipeline::create(services, &format!("way{number}"), way.partitions).await?;
    for stage in pipeline::STAGES {
        let layer = format!("layer: {stage}\n");
        pipeline.edit(&layer, &format!("{layer}  {BATCH}\n"))?;
    }
    pipeline.load_dictionary(generator, 0).await?;
    let workers: Vec<Worker> = (0..way.workers)
        .map(|_| pipeline.worker(&[]))
        .collect::<Result<_>>()?;
    // Where there are enough partitions, all workers are at work when the first message comes.
    if way.partitions >= i32::try_from(way.workers)? {
        for worker in &workers {
            worker.logged("partitions assigned").await?;
        }
    }
    let began = Instant::now();
    let seed = u64::try_from(number)?;
    let manifest = pipeline.produce(seed, way.messages.into_iter()).await?;
    pipeline.drained(DRAINED).await?;
    let took = began.elapsed();
    for worker in workers {
        ensure!(worker.stop().await?.success(), "a worker did not stop properly");
    }
    let mut rows = pipeline.rows().await?;
    let letters = rows.remove("streamstage.dead_letter").unwrap_or_default();
    assert!(
        letters.starts_with(&format!("{} rows", manifest.bad)),
        "{letters} of {manifest:?}"
    );
    let dead: Vec<_> = sqlx::query_as("SELECT code, value FROM streamstage.dead_letter")
        .fetch_all(pipeline.pool())
        .await?;
    eprintln!(
        "permutation: {:>2} partitions, {} workers per stage, {} messages: {:.1} s",
        way.partitions,
        way.workers,
        manifest.messages,
        took.as_secs_f64()
    );
    Ok(Outcome {
        rows,
        dead: dead.into_iter().collect(),
    })
}

#[tokio::test]
async fn the_same_messages_in_any_order_give_the_same_rows() -> Result<()> {
    let services = pipeline::services().await?;
    let mut generator = Generator::new(&Settings {
        bad: 0.02,
        ..Settings::default()
    });
    let messages: Vec<Message> = generator.history(ORDERS).collect();
    let in_order = Way {
        partitions: 1,
        workers: 1,
        messages: messages.clone(),
    };
    let reference = run(&services, &generator, 0, in_order).await?;
    assert!(reference.rows.len() > 20 && reference.rows["cdm.order_contribution"].starts_with("1500 rows"));

    let ways = [1, 3, 12]
        .into_iter()
        .flat_map(|partitions| [1, 2, 3].map(|workers| (partitions, workers)));
    for (number, (partitions, workers)) in (1..).zip(ways) {
        let mut shuffled = [messages.clone(), messages.clone()].concat();
        shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(number.try_into()?));
        let way = Way {
            partitions,
            workers,
            messages: shuffled,
        };
        let outcome = run(&services, &generator, number, way).await?;
        let place = format!("{partitions} partitions, {workers} workers per stage");
        assert_eq!(outcome.rows, reference.rows, "{place}");
        let dead: Vec<_> = outcome.dead.symmetric_difference(&reference.dead).collect();
        assert!(dead.is_empty(), "{place}: other dead letters: {dead:?}");
    }
    Ok(())
}
