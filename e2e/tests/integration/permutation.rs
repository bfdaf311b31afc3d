//! The rows depend only on the set of messages: not on their order, duplicates, partitions or the number of workers.
#![expect(clippy::disallowed_methods, reason = "edge: measures time")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings, edit};
use e2e::pipeline::{self, Pipeline, Worker};
use e2e::services::Services;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

const ORDERS: usize = 1500;
/// Small batches, so that many batches of different workers overlap.
const BATCH_SETTINGS: &str = "{maxRecords: 200, maxWait: 50ms}";
/// Timeout for one pipeline.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(2);

/// Final content of a warehouse.
struct Outcome {
    /// Row digests of every table but the dead letters, which have one row per source offset.
    digests: BTreeMap<String, String>,
    /// Code and value of each dead letter.
    dead_letters: BTreeSet<(String, Option<Vec<u8>>)>,
}

/// Order of the messages, and the setup that processes them.
struct Variant {
    partitions: i32,
    workers: usize,
    messages: Vec<Message>,
}

async fn run_variant(
    services: &Services,
    generator: &Generator,
    number: usize,
    variant: Variant,
) -> Result<Outcome> {
    let name = format!("variant{number}");
    let mut pipeline = Pipeline::create(services, &name, variant.partitions).await?;
    pipeline.set_batch_settings(BATCH_SETTINGS)?;
    pipeline.load_reference_data(generator, 0).await?;
    let workers: Vec<Worker> = (0..variant.workers)
        .map(|_| pipeline.start_worker(&[]))
        .collect::<Result<_>>()?;
    // With enough partitions, every worker has one before the first message arrives.
    if variant.partitions >= i32::try_from(variant.workers)? {
        for worker in &workers {
            worker.wait_for_log("partitions assigned").await?;
        }
    }
    let start = Instant::now();
    let seed = u64::try_from(number)?;
    let manifest = pipeline.produce(seed, variant.messages.into_iter()).await?;
    pipeline.wait_drained(DRAIN_TIMEOUT).await?;
    let elapsed = start.elapsed();
    for worker in workers {
        ensure!(worker.stop().await?.success(), "a worker did not stop properly");
    }
    let mut digests = pipeline.row_digests().await?;
    let dead_letter_digest = digests.remove("streamstage.dead_letter").unwrap_or_default();
    assert!(
        dead_letter_digest.starts_with(&format!("{} rows", manifest.bad)),
        "{dead_letter_digest} of {manifest:?}"
    );
    let dead_letters: Vec<_> = sqlx::query_as("SELECT code, value FROM streamstage.dead_letter")
        .fetch_all(pipeline.pool())
        .await?;
    eprintln!(
        "permutation: {:>2} partitions, {} workers per stage, {} messages: {:.1} s",
        variant.partitions,
        variant.workers,
        manifest.messages,
        elapsed.as_secs_f64()
    );
    Ok(Outcome {
        digests,
        dead_letters: dead_letters.into_iter().collect(),
    })
}

#[tokio::test]
async fn the_same_messages_in_any_order_produce_the_same_rows() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    let services = pipeline::start_services().await?;
    let mut generator = Generator::new(&Settings {
        bad: 0.02,
        ..Settings::default()
    });
    let messages: Vec<Message> = edit::with_edits(generator.history(ORDERS)).collect();
    let in_order = Variant {
        partitions: 1,
        workers: 1,
        messages: messages.clone(),
    };
    let reference = run_variant(&services, &generator, 0, in_order).await?;
    assert!(
        reference.digests.len() > 20 && reference.digests["cdm.order_contribution"].starts_with("1500 rows")
    );

    let variants = [1, 3, 12]
        .into_iter()
        .flat_map(|partitions| [1, 2, 3].map(|workers| (partitions, workers)));
    for (number, (partitions, workers)) in (1..).zip(variants) {
        let mut shuffled = [messages.clone(), messages.clone()].concat();
        shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(number.try_into()?));
        let variant = Variant {
            partitions,
            workers,
            messages: shuffled,
        };
        let outcome = run_variant(&services, &generator, number, variant).await?;
        let description = format!("{partitions} partitions, {workers} workers per stage");
        assert_eq!(outcome.digests, reference.digests, "{description}");
        let different: Vec<_> = outcome
            .dead_letters
            .symmetric_difference(&reference.dead_letters)
            .collect();
        assert!(
            different.is_empty(),
            "{description}: other dead letters: {different:?}"
        );
    }
    Ok(())
}
