//! A long history is processed exactly once: the marts equal a recount by another program, every offset is accounted
//! for, and the layers are consistent.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: writes the messages to a file, and measures time"
)]

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{BufWriter, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::orders::manifest::Manifest;
use e2e::orders::{Expected, Generator, Message, Settings, edit, send};
use e2e::pipeline::{self, Pipeline};
use e2e::recount::{read_marts, recount};
use e2e::services::Services;

const ORDERS: usize = 50_000;
const PARTITIONS: i32 = 6;
/// Messages that are produced one by one while the workers run.
const LIVE_MESSAGES: usize = 50;
const DRAIN_TIMEOUT: Duration = Duration::from_mins(4);

/// All messages of the test: in a file for the recount, and counted.
struct ProducedMessages {
    file: BufWriter<File>,
    manifest: Manifest,
    /// Digests of the valid messages: one per version that must be stored.
    distinct: HashSet<u64>,
}

impl ProducedMessages {
    fn record(&mut self, message: &Message) -> Result<()> {
        self.manifest.count(message);
        if message.expected == Expected::Good {
            let mut hasher = DefaultHasher::new();
            message.value.hash(&mut hasher);
            self.distinct.insert(hasher.finish());
        }
        send::write_line(&mut self.file, message)
    }
}

/// Produces the history, and writes it to the file.
async fn produce_history(
    pipeline: &Pipeline,
    generator: &mut Generator,
    produced: &mut ProducedMessages,
) -> Result<()> {
    let mut result = Ok(());
    let messages = edit::with_edits(generator.history(ORDERS)).inspect(|message| {
        if result.is_ok() {
            result = produced.record(message);
        }
    });
    pipeline.produce(1, messages).await?;
    result
}

/// Produces live orders, each after the acknowledgment of the previous one.
async fn produce_live(
    services: &Services,
    pipeline: &Pipeline,
    generator: &mut Generator,
    produced: &mut ProducedMessages,
) -> Result<()> {
    let servers = services.bootstrap_servers();
    let mut sender = send::Sender::connect(servers, pipeline.source_topic(), 2).await?;
    for message in generator.live().take(LIVE_MESSAGES) {
        produced.record(&message)?;
        sender.send(&message).await?;
        sender.flush().await?;
    }
    produced.file.flush()?;
    Ok(())
}

/// Drains the source topic with one worker of `stg`, and prints its throughput.
async fn measure_stg(pipeline: &Pipeline) -> Result<pipeline::Worker> {
    let worker = pipeline.start_worker(&["stg"])?;
    let (started, _) = worker.wait_for_log("stage started").await?;
    let end: i64 = pipeline.end_offsets(pipeline.source_topic())?.values().sum();
    let start = Instant::now();
    let mut progress: Vec<(Duration, i64)> = Vec::new();
    let mut position = 0;
    while position < end {
        ensure!(
            start.elapsed() < DRAIN_TIMEOUT,
            "stg is at {position} of {end}:\n{}",
            worker.log()
        );
        let now: i64 = pipeline.positions("stg").await?.values().sum();
        if now > position {
            position = now;
            progress.push((start.elapsed(), position));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (first, last) = (
        progress.first().context("no progress")?,
        progress.last().context("no progress")?,
    );
    let seconds = last.0.as_secs_f64() - first.0.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    let (records, per_record) = ((last.1 - first.1) as f64, ORDERS as f64 / end as f64);
    let mebibytes = |bytes: u64| bytes / (1 << 20);
    eprintln!("stg: {ORDERS} orders in {end} records over {PARTITIONS} partitions, one worker");
    eprintln!(
        "stg: {:.0} records/s, {:.0} orders/s ({records} records in {seconds:.2} s, first to last position change)",
        records / seconds,
        records * per_record / seconds
    );
    eprintln!(
        "stg: started {} ms after its process, first position change {} ms later",
        started.as_millis(),
        first.0.as_millis()
    );
    eprintln!(
        "stg: memory {} MiB at the end (VmRSS), {} MiB at most (VmHWM)",
        mebibytes(worker.rss_bytes()?),
        mebibytes(worker.peak_rss_bytes()?)
    );
    Ok(worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_marts_of_50_000_orders_equal_an_independent_recount() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    let services = pipeline::start_services().await?;
    let pipeline = Pipeline::create(&services, "history", PARTITIONS).await?;
    let mut generator = Generator::new(&Settings::default());
    pipeline.load_reference_data(&generator, 0).await?;
    let messages = pipeline.folder().join("messages.ndjson");
    let mut produced = ProducedMessages {
        file: BufWriter::new(File::create(&messages)?),
        manifest: Manifest::default(),
        distinct: HashSet::new(),
    };
    produce_history(&pipeline, &mut generator, &mut produced).await?;

    let stg = measure_stg(&pipeline).await?;
    let start = Instant::now();
    let workers = [
        stg,
        pipeline.start_worker(&["dds"])?,
        pipeline.start_worker(&["cdm"])?,
    ];
    produce_live(&services, &pipeline, &mut generator, &mut produced).await?;
    pipeline.wait_drained(DRAIN_TIMEOUT).await?;
    eprintln!(
        "dds, cdm: drained {:.1} s after their start",
        start.elapsed().as_secs_f64()
    );
    let outcomes = RecordOutcomes::from_metrics(&workers[0]).await?;
    for worker in workers {
        ensure!(worker.stop().await?.success(), "a worker did not stop properly");
    }

    let (reference_data, tags) = pipeline.write_recount_inputs(&generator)?;
    let counted = recount(&messages, &reference_data, &tags)?;
    let marts = read_marts(pipeline.pool()).await?;
    eprintln!(
        "recount: {} products, {} categories, {} tags",
        counted.products.len(),
        counted.categories.len(),
        counted.tags.len()
    );
    assert!(!counted.tags.is_empty());
    assert!(
        marts == counted,
        "the marts differ from the recount of {}",
        messages.display()
    );

    assert_offsets_accounted_for(&pipeline, &produced, &outcomes).await?;
    assert_counters_equal_ledger(&pipeline).await?;
    assert_no_orphans_in_vault(&pipeline).await?;
    let start = Instant::now();
    let verified = pipeline.run_command("verify", &[], &[])?;
    eprintln!("verify: {:.1} s\n{verified}", start.elapsed().as_secs_f64());
    ensure!(verified.contains("verdict    agrees\n"), "{verified}");
    Ok(())
}

/// Number of records by outcome, from the metrics of the worker of `stg`.
struct RecordOutcomes(BTreeMap<String, u64>);

impl RecordOutcomes {
    async fn from_metrics(worker: &pipeline::Worker) -> Result<Self> {
        const METRIC: &str = "streamstage_worker_records_total{stage=\"stg\",outcome=\"";
        let (_, metrics) = worker.http_get("/metrics").await?;
        let outcomes = metrics.lines().filter_map(|line| line.strip_prefix(METRIC));
        let outcomes = outcomes.map(|line| {
            let (outcome, count) = line.split_once("\"} ").context("no value")?;
            Ok((outcome.to_owned(), count.parse()?))
        });
        Ok(Self(outcomes.collect::<Result<_>>()?))
    }

    fn get(&self, outcome: &str) -> u64 {
        self.0.get(outcome).copied().unwrap_or_default()
    }
}

/// Every offset of the source topic is a stored version, a duplicate of one, or a dead letter.
async fn assert_offsets_accounted_for(
    pipeline: &Pipeline,
    produced: &ProducedMessages,
    outcomes: &RecordOutcomes,
) -> Result<()> {
    let dead_letters: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT topic, code, count(*) FROM streamstage.dead_letter GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .fetch_all(pipeline.pool())
    .await?;
    assert!(
        dead_letters
            .iter()
            .all(|(topic, ..)| topic == pipeline.source_topic()),
        "{dead_letters:?}"
    );
    let by_code: BTreeMap<String, u64> = dead_letters
        .into_iter()
        .map(|(_, code, count)| Ok((code, count.try_into()?)))
        .collect::<Result<_>>()?;
    assert_eq!(by_code, produced.manifest.bad_by_code);

    let stored: i64 = pipeline
        .query_scalar(
            "SELECT count(*) FROM (SELECT object_id, version FROM stg.order_events
             UNION SELECT object_id, version FROM stg.order_event_history) AS stored",
        )
        .await?;
    let stored = u64::try_from(stored)?;
    assert_eq!(stored, u64::try_from(produced.distinct.len())?);
    let offsets: i64 = pipeline.end_offsets(pipeline.source_topic())?.values().sum();
    let duplicates = outcomes.get("duplicate");
    eprintln!(
        "conservation: {offsets} offsets = {stored} stored + {duplicates} duplicates + {} dead letters",
        produced.manifest.bad
    );
    let counted = ["stored", "dead_lettered", "pending"].map(|outcome| outcomes.get(outcome));
    assert_eq!(counted, [stored, produced.manifest.bad, 0], "{:?}", outcomes.0);
    assert_eq!(u64::try_from(offsets)?, outcomes.0.values().sum::<u64>());
    assert_eq!(
        pipeline
            .query_scalar::<i64>("SELECT count(*) FROM stg.pending_enrichment")
            .await?,
        0
    );
    Ok(())
}

/// Both counters equal a recount of the contribution ledger.
async fn assert_counters_equal_ledger(pipeline: &Pipeline) -> Result<()> {
    for (counter, id, list) in [
        ("product_order_count", "product_id", "products"),
        ("category_order_count", "category_id", "categories"),
    ] {
        let different: i64 = pipeline
            .query_scalar(&format!(
                "SELECT count(*) FROM cdm.{counter} AS counter
                 FULL JOIN (SELECT user_id, {id}, count(*) AS order_cnt
                     FROM cdm.order_contribution, unnest({list}) AS line ({id}) GROUP BY 1, 2) AS ledger
                 USING (user_id, {id})
                 WHERE counter.order_cnt IS DISTINCT FROM ledger.order_cnt"
            ))
            .await?;
        assert_eq!(different, 0, "{counter}");
    }
    Ok(())
}

/// Every foreign key of a link or a satellite exists in its hub or link, and every version of an order is in the vault.
async fn assert_no_orphans_in_vault(pipeline: &Pipeline) -> Result<()> {
    let keys: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text FROM information_schema.columns
         JOIN information_schema.tables USING (table_schema, table_name)
         WHERE table_schema = 'dds' AND table_type = 'BASE TABLE'
             AND column_name LIKE '%\\_pk' AND column_name <> table_name || '_pk'",
    )
    .fetch_all(pipeline.pool())
    .await?;
    // Five links with two hubs each, six satellites, and four effectivity satellites with a hub and a link each.
    assert_eq!(keys.len(), 24, "{keys:?}");
    for (child, key) in keys {
        let parent = key.trim_end_matches("_pk");
        let orphans: i64 = pipeline
            .query_scalar(&format!(
                "SELECT count(*) FROM dds.{child} AS child LEFT JOIN dds.{parent} AS parent
                 ON parent.{key} = child.{key} WHERE parent.{key} IS NULL"
            ))
            .await?;
        assert_eq!(orphans, 0, "{child} without {parent}");
    }
    let missing: i64 = pipeline
        .query_scalar(
            "SELECT count(*) FROM (SELECT object_id, version FROM stg.order_events
                 UNION ALL SELECT object_id, version FROM stg.order_event_history) AS stored
             FULL JOIN (SELECT order_id, version FROM dds.s_order_status
                 JOIN dds.h_order USING (h_order_pk)) AS vault
             ON vault.order_id = stored.object_id AND vault.version = stored.version
             WHERE vault.order_id IS NULL OR stored.object_id IS NULL",
        )
        .await?;
    assert_eq!(missing, 0, "versions that are in stg or dds only");
    Ok(())
}
