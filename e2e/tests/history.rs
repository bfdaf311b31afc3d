//! A long history reaches the marts exactly: they equal a recount of the messages by another program, every offset is
//! accounted for, and the layers agree with each other.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: writes the messages into a file, and measures the time"
)]

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{BufWriter, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::orders::manifest::Manifest;
use e2e::orders::{Expected, Generator, Message, Settings, send};
use e2e::pipeline::{self, Pipeline};
use e2e::recount::{marts, recount};
use e2e::services::Services;

const ORDERS: usize = 50_000;
const PARTITIONS: i32 = 6;
/// Messages that come one by one while the workers run.
const TRICKLE: usize = 50;
/// How long the stages may take.
const DRAINED: Duration = Duration::from_mins(4);

/// All messages of the test: in a file for the recount, counted for the comparison.
struct Written {
    file: BufWriter<File>,
    manifest: Manifest,
    /// Digests of the good messages: as many as versions that must be stored.
    distinct: HashSet<u64>,
}

impl Written {
    fn put(&mut self, message: &Message) -> Result<()> {
        self.manifest.count(message);
        if message.expected == Expected::Good {
            let mut hasher = DefaultHasher::new();
            message.value.hash(&mut hasher);
            self.distinct.insert(hasher.finish());
        }
        send::write_line(&mut self.file, message)
    }
}

/// Sends the history to Kafka, and writes it into the file.
async fn produce(pipeline: &Pipeline, generator: &mut Generator, written: &mut Written) -> Result<()> {
    let mut failed = Ok(());
    let messages = generator.history(ORDERS).inspect(|message| {
        if failed.is_ok() {
            failed = written.put(message);
        }
    });
    pipeline.produce(1, messages).await?;
    failed
}

/// Sends some more orders, each after the one before it has arrived.
async fn trickle(
    services: &Services,
    pipeline: &Pipeline,
    generator: &mut Generator,
    written: &mut Written,
) -> Result<()> {
    let servers = services.bootstrap_servers();
    let mut sender = send::Sender::connect(servers, pipeline.source_topic(), 2).await?;
    for message in generator.live().take(TRICKLE) {
        written.put(&message)?;
        sender.send(&message).await?;
        sender.flush().await?;
    }
    written.file.flush()?;
    Ok(())
}

/// Runs the stage `stg` alone over all that is there, and tells how fast it was.
async fn stg_alone(pipeline: &Pipeline) -> Result<pipeline::Worker> {
    let worker = pipeline.worker(&["stg"])?;
    let (started, _) = worker.logged("stage starts").await?;
    let end: i64 = pipeline.ends(pipeline.source_topic())?.values().sum();
    let began = Instant::now();
    let mut moves: Vec<(Duration, i64)> = Vec::new();
    let mut position = 0;
    while position < end {
        ensure!(
            began.elapsed() < DRAINED,
            "stg is at {position} of {end}:\n{}",
            worker.log()
        );
        let now: i64 = pipeline.positions("stg").await?.values().sum();
        if now > position {
            position = now;
            moves.push((began.elapsed(), position));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (first, last) = (
        moves.first().context("no move")?,
        moves.last().context("no move")?,
    );
    let seconds = last.0.as_secs_f64() - first.0.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    let (records, per_record) = ((last.1 - first.1) as f64, ORDERS as f64 / end as f64);
    let mebibytes = |bytes: u64| bytes / (1 << 20);
    eprintln!("stg: {ORDERS} orders in {end} records over {PARTITIONS} partitions, one worker");
    eprintln!(
        "stg: {:.0} records/s, {:.0} orders/s ({records} records in {seconds:.2} s, first to last position change)",
        records / seconds,
        records * per_record / seconds
    );
    eprintln!(
        "stg: starts {} ms after its process, first position change {} ms later",
        started.as_millis(),
        first.0.as_millis()
    );
    eprintln!(
        "stg: holds {} MiB at the end (VmRSS), {} MiB at most (VmHWM)",
        mebibytes(worker.rss_bytes()?),
        mebibytes(worker.peak_rss_bytes()?)
    );
    Ok(worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_of_50_000_orders_reaches_the_marts_exactly() -> Result<()> {
    let services = pipeline::services().await?;
    let pipeline = Pipeline::create(&services, "history", PARTITIONS).await?;
    let mut generator = Generator::new(&Settings::default());
    pipeline.load_dictionary(&generator, 0).await?;
    let messages = pipeline.folder().join("messages.ndjson");
    let mut written = Written {
        file: BufWriter::new(File::create(&messages)?),
        manifest: Manifest::default(),
        distinct: HashSet::new(),
    };
    produce(&pipeline, &mut generator, &mut written).await?;

    let stg = stg_alone(&pipeline).await?;
    let began = Instant::now();
    let workers = [stg, pipeline.worker(&["dds"])?, pipeline.worker(&["cdm"])?];
    trickle(&services, &pipeline, &mut generator, &mut written).await?;
    pipeline.drained(DRAINED).await?;
    eprintln!(
        "dds, cdm: drained {:.1} s after their start",
        began.elapsed().as_secs_f64()
    );
    let outcomes = Outcomes::of(&workers[0]).await?;
    for worker in workers {
        ensure!(worker.stop().await?.success(), "a worker did not stop properly");
    }

    let (dictionary, tags) = pipeline.write_recount_inputs(&generator)?;
    let counted = recount(&messages, &dictionary, &tags)?;
    let marts = marts(pipeline.pool()).await?;
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

    every_offset_is_accounted_for(&pipeline, &written, &outcomes).await?;
    the_counters_are_those_of_the_ledger(&pipeline).await?;
    no_row_of_the_vault_is_an_orphan(&pipeline).await
}

/// What became of the records, as the worker of `stg` counts them.
struct Outcomes(BTreeMap<String, u64>);

impl Outcomes {
    async fn of(worker: &pipeline::Worker) -> Result<Self> {
        const FIGURE: &str = "streamstage_records_total{stage=\"stg\",outcome=\"";
        let (_, figures) = worker.get("/metrics").await?;
        let outcomes = figures.lines().filter_map(|line| line.strip_prefix(FIGURE));
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

/// Each offset of the source is a version that is stored, one more copy of such a version, or a dead letter.
async fn every_offset_is_accounted_for(
    pipeline: &Pipeline,
    written: &Written,
    outcomes: &Outcomes,
) -> Result<()> {
    let dead: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT topic, code, count(*) FROM streamstage.dead_letter GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .fetch_all(pipeline.pool())
    .await?;
    assert!(
        dead.iter().all(|(topic, ..)| topic == pipeline.source_topic()),
        "{dead:?}"
    );
    let by_code: BTreeMap<String, u64> = dead
        .into_iter()
        .map(|(_, code, count)| Ok((code, count.try_into()?)))
        .collect::<Result<_>>()?;
    assert_eq!(by_code, written.manifest.bad_by_code);

    let stored: i64 = pipeline
        .query(
            "SELECT count(*) FROM (SELECT object_id, version FROM stg.order_events
             UNION SELECT object_id, version FROM stg.order_event_history) AS stored",
        )
        .await?;
    let stored = u64::try_from(stored)?;
    assert_eq!(stored, u64::try_from(written.distinct.len())?);
    let ends: i64 = pipeline.ends(pipeline.source_topic())?.values().sum();
    let duplicates = outcomes.get("duplicate");
    eprintln!(
        "conservation: {ends} offsets = {stored} stored + {duplicates} duplicates + {} dead letters",
        written.manifest.bad
    );
    let counted = ["stored", "dead_lettered", "pending"].map(|outcome| outcomes.get(outcome));
    assert_eq!(counted, [stored, written.manifest.bad, 0], "{:?}", outcomes.0);
    assert_eq!(u64::try_from(ends)?, outcomes.0.values().sum::<u64>());
    assert_eq!(
        pipeline
            .query::<i64>("SELECT count(*) FROM stg.pending_enrichment")
            .await?,
        0
    );
    Ok(())
}

/// Both counters, counted again from what each order adds to them.
async fn the_counters_are_those_of_the_ledger(pipeline: &Pipeline) -> Result<()> {
    for (counter, id, list) in [
        ("product_order_count", "product_id", "products"),
        ("category_order_count", "category_id", "categories"),
    ] {
        let different: i64 = pipeline
            .query(&format!(
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

/// Every key of a link or a satellite is in the table it leads to, and every version of an order is in the vault.
async fn no_row_of_the_vault_is_an_orphan(pipeline: &Pipeline) -> Result<()> {
    let keys: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text FROM information_schema.columns
         JOIN information_schema.tables USING (table_schema, table_name)
         WHERE table_schema = 'dds' AND table_type = 'BASE TABLE'
             AND column_name LIKE '%\\_pk' AND column_name <> table_name || '_pk'",
    )
    .fetch_all(pipeline.pool())
    .await?;
    // Five links of two hubs each, and six satellites.
    assert_eq!(keys.len(), 16, "{keys:?}");
    for (child, key) in keys {
        let parent = key.trim_end_matches("_pk");
        let orphans: i64 = pipeline
            .query(&format!(
                "SELECT count(*) FROM dds.{child} AS child LEFT JOIN dds.{parent} AS parent
                 ON parent.{key} = child.{key} WHERE parent.{key} IS NULL"
            ))
            .await?;
        assert_eq!(orphans, 0, "{child} leads to {parent}");
    }
    let missing: i64 = pipeline
        .query(
            "SELECT count(*) FROM (SELECT object_id, version FROM stg.order_events
                 UNION ALL SELECT object_id, version FROM stg.order_event_history) AS stored
             FULL JOIN (SELECT order_id, version FROM dds.s_order_status
                 JOIN dds.h_order USING (h_order_pk)) AS vault
             ON vault.order_id = stored.object_id AND vault.version = stored.version
             WHERE vault.order_id IS NULL OR stored.object_id IS NULL",
        )
        .await?;
    assert_eq!(missing, 0, "versions that only one of stg and dds has");
    Ok(())
}
