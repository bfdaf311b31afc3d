//! Malformed input: each form is dead-lettered with its code, in the table and on the topic; all other records are stored.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the dead letter topic until a deadline"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings, send};
use e2e::pipeline::{Pipeline, Worker, start_services, wait_until};
use e2e::recount::{read_marts, recount};
use e2e::services::Services;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;

/// Number of dead letters by code and value.
type DeadLetterCounts = BTreeMap<(String, Option<Vec<u8>>), usize>;

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_message_is_dead_lettered_with_its_code_and_the_others_are_stored() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "bad_input", PARTITIONS).await?;
    let mut generator = Generator::new(&Settings {
        seed: 3,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 10).await?;
    let bad = generator.every_bad();
    let good: Vec<Message> = generator.history(500).collect();
    let messages: Vec<Message> = good[..100]
        .iter()
        .chain(&bad)
        .chain(&good[100..])
        .cloned()
        .collect();
    let file = pipeline.folder().join("orders.ndjson");
    let mut writer = File::create(&file)?;
    messages
        .iter()
        .try_for_each(|message| send::write_line(&mut writer, message))?;
    pipeline.produce(1, messages.iter().cloned()).await?;

    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    let pending: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.pending_enrichment")
        .await?;
    ensure!(
        pending > 0,
        "no order is pending, although users are missing in the reference data"
    );
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_drained(DEADLINE).await?;

    let expected = count_dead_letters(messages.iter().filter_map(|message| match message.expected {
        Expected::Good => None,
        Expected::Bad(code) => Some((code.to_owned(), message.value.clone())),
    }));
    let rows: Vec<(String, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT code, value FROM streamstage.dead_letter")
            .fetch_all(pipeline.pool())
            .await?;
    assert_eq!(
        count_codes(&count_dead_letters(rows.into_iter())),
        count_codes(&expected)
    );
    let without_location: i64 = pipeline
        .query_scalar(
            "SELECT count(*) FROM streamstage.dead_letter WHERE NOT CASE code
                 WHEN 'ParseError' THEN detail ~ '^byte [0-9]+: .'
                 WHEN 'ContractViolation' THEN detail ~ '^(/[^ ]+)?: .'
                 ELSE detail <> '' END",
        )
        .await?;
    assert_eq!(without_location, 0, "details without a location");
    let published = read_dead_letter_topic(
        services.bootstrap_servers(),
        &format!("{}.dlq", pipeline.source_topic()),
        bad.len(),
    )?;
    ensure!(
        published == expected,
        "the dead letter topic has {:?}, not {:?}",
        count_codes(&published),
        count_codes(&expected)
    );

    let (reference_data, tags) = pipeline.write_recount_inputs(&generator)?;
    assert_eq!(
        read_marts(pipeline.pool()).await?,
        recount(&file, &reference_data, &tags)?
    );
    eprintln!("bad input: {} forms, {pending} orders were pending", bad.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_postgresql_rejects_is_found_within_its_batch() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "bad_rows", PARTITIONS).await?;
    // Small batches, so that more batches of the partition are in flight when it is blocked.
    pipeline.set_batch_settings("{maxRecords: 5}")?;
    let mut generator = Generator::new(&Settings {
        seed: 4,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(400).collect();
    let (rejected, failing) = (
        object_id(&messages[200])?,
        order_with_one_message(&messages[300..])?,
    );
    ensure!(
        rejected != failing,
        "both messages belong to one order: choose others"
    );
    for statement in [
        format!("ALTER TABLE stg.order_events ADD CONSTRAINT rejects CHECK (object_id <> {rejected})"),
        "CREATE FUNCTION stg.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'unknown'; END $$"
            .to_owned(),
        format!(
            "CREATE TRIGGER fails BEFORE INSERT ON stg.order_events FOR EACH ROW WHEN (NEW.object_id = {failing})
             EXECUTE FUNCTION stg.fails()"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(pipeline.pool())
            .await?;
    }
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.start_worker(&[])?;
    worker.wait_for_log(PARTITION_BLOCKED).await?;
    let end_offsets = pipeline.end_offsets(pipeline.source_topic())?;
    wait_until("the other partitions reach their end", DEADLINE, || async {
        let positions = pipeline.positions("stg").await?;
        let lagging = end_offsets
            .iter()
            .filter(|(partition, end)| positions.get(partition) != Some(end))
            .count();
        Ok(lagging > 0 && lagging < end_offsets.len() && worker.log().contains(PARTITION_BLOCKED))
    })
    .await?;
    let stored: i64 = pipeline
        .query_scalar(&format!(
            "SELECT count(*) FROM stg.order_events WHERE object_id = {failing}"
        ))
        .await?;
    ensure!(stored == 0, "the failing order is stored");
    wait_until("the record is retried", DEADLINE, || async {
        Ok(block_times(&worker)?.len() > 1)
    })
    .await?;
    let times = block_times(&worker)?;
    let retry_delay = times[1].duration_since(times[0]);
    ensure!(
        retry_delay.as_secs() >= 9,
        "the blocked partition was retried after {retry_delay} only: {times:?}"
    );

    sqlx::query("DROP TRIGGER fails ON stg.order_events")
        .execute(pipeline.pool())
        .await?;
    pipeline.wait_drained(DEADLINE).await?;
    let stored: i64 = pipeline
        .query_scalar(&format!(
            "SELECT count(*) FROM stg.order_events WHERE object_id = {failing}"
        ))
        .await?;
    ensure!(stored == 1, "the order is not stored after the repair");
    let dead_letters: Vec<(String, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT code, value FROM streamstage.dead_letter")
            .fetch_all(pipeline.pool())
            .await?;
    ensure!(!dead_letters.is_empty(), "nothing is dead-lettered");
    for (code, value) in dead_letters {
        let value: Value = serde_json::from_slice(&value.context("a dead letter without a value")?)?;
        ensure!(
            code == "WarehouseRejected" && value["object_id"] == rejected,
            "{code} for {}",
            value["object_id"]
        );
    }
    Ok(())
}

/// Log message of a worker that blocks a partition.
const PARTITION_BLOCKED: &str = "partition blocked";

/// Times at which a partition was blocked, also after a failed retry.
fn block_times(worker: &Worker) -> Result<Vec<jiff::Timestamp>> {
    let log = worker.log();
    let lines = log.lines().filter(|line| line.contains(PARTITION_BLOCKED));
    lines
        .map(|line| {
            let line: Value = serde_json::from_str(line)?;
            Ok(line["timestamp"].as_str().context("no time")?.parse()?)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_an_unreadable_header_name_is_dead_lettered_and_the_others_are_stored() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "bad_header", 1).await?;
    let mut generator = Generator::new(&Settings {
        seed: 6,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.live().take(3).collect();
    pipeline.produce(1, messages[..1].iter().cloned()).await?;
    let poison_value = messages[1].value.as_deref().context("a tombstone")?;
    send_with_latin_1_header(&services, pipeline.source_topic(), poison_value).await?;
    pipeline.produce(1, messages[2..].iter().cloned()).await?;
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;

    let rows: Vec<(String, Option<Vec<u8>>, Vec<String>)> =
        sqlx::query_as("SELECT code, value, header_names FROM streamstage.dead_letter")
            .fetch_all(pipeline.pool())
            .await?;
    let expected = (
        "ContractViolation".to_owned(),
        Some(poison_value.to_vec()),
        vec!["before".to_owned(), "after".to_owned()],
    );
    assert_eq!(rows, [expected]);
    let stored: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.order_events")
        .await?;
    assert_eq!(stored, 2);
    Ok(())
}

/// Produces a value with three headers; the name of the second is `é` in Latin-1, as another client may send it.
async fn send_with_latin_1_header(services: &Services, topic: &str, value: &[u8]) -> Result<()> {
    let latin_1 = vec![0xe9];
    #[expect(
        unsafe_code,
        reason = "this client accepts only UTF-8 names, and passes them to librdkafka by pointer and length"
    )]
    // SAFETY: no code reads it as text.
    let latin_1 = unsafe { str::from_utf8_unchecked(&latin_1) };
    let mut headers = OwnedHeaders::new();
    for key in ["before", latin_1, "after"] {
        headers = headers.insert(Header {
            key,
            value: Some("any"),
        });
    }
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", services.bootstrap_servers());
    let producer: FutureProducer = config.create()?;
    let record = FutureRecord::<(), [u8]>::to(topic)
        .payload(value)
        .headers(headers);
    let delivery = producer.send(record, DEADLINE).await;
    delivery.map_err(|(error, _)| error)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_pending_order_delays_no_other_pending_order() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "bad_pending", PARTITIONS).await?;
    let mut generator = Generator::new(&Settings {
        seed: 5,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 30).await?;
    let messages: Vec<Message> = generator.history(300).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    let pending = "SELECT count(DISTINCT object_id) FROM stg.pending_enrichment";
    ensure!(
        pipeline.query_scalar::<i64>(pending).await? > 1,
        "too few orders are pending"
    );
    let failing: i64 = pipeline
        .query_scalar("SELECT min(object_id) FROM stg.pending_enrichment")
        .await?;
    for statement in [
        "CREATE FUNCTION stg.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'unknown'; END $$"
            .to_owned(),
        format!(
            "CREATE TRIGGER fails BEFORE DELETE ON stg.pending_enrichment FOR EACH ROW
             WHEN (OLD.object_id = {failing}) EXECUTE FUNCTION stg.fails()"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(pipeline.pool())
            .await?;
    }
    pipeline.load_reference_data(&generator, 0).await?;
    let others = format!("SELECT count(*) FROM stg.pending_enrichment WHERE object_id <> {failing}");
    wait_until("the other orders are published", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(&others).await? == 0)
    })
    .await?;
    worker.wait_for_log("pending order failed, postponed").await?;
    ensure!(
        pipeline.query_scalar::<i64>(pending).await? == 1,
        "the failing order is no longer pending"
    );
    sqlx::query("DROP TRIGGER fails ON stg.pending_enrichment")
        .execute(pipeline.pool())
        .await?;
    pipeline.wait_drained(DEADLINE).await
}

fn count_dead_letters(dead_letters: impl Iterator<Item = (String, Option<Vec<u8>>)>) -> DeadLetterCounts {
    let mut counts = DeadLetterCounts::new();
    dead_letters.for_each(|dead_letter| *counts.entry(dead_letter).or_default() += 1);
    counts
}

/// Number of dead letters by code, for short error messages.
fn count_codes(counts: &DeadLetterCounts) -> BTreeMap<&str, usize> {
    let mut codes = BTreeMap::new();
    for ((code, _), count) in counts {
        *codes.entry(code.as_str()).or_default() += count;
    }
    codes
}

/// Order id of a valid message.
fn object_id(message: &Message) -> Result<i64> {
    let value: Value = serde_json::from_slice(message.value.as_deref().context("a tombstone")?)?;
    value["object_id"].as_i64().context("no object_id")
}

/// Id of an order with one message; several messages would block more than one partition.
fn order_with_one_message(messages: &[Message]) -> Result<i64> {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    for message in messages {
        *counts.entry(object_id(message)?).or_default() += 1;
    }
    let latest = counts.iter().rev().find(|(_, count)| **count == 1);
    latest
        .map(|(order, _)| *order)
        .context("every order has several messages")
}

/// Reads `count` records of a dead letter topic: the code in the header, and the value.
fn read_dead_letter_topic(servers: &str, topic: &str, count: usize) -> Result<DeadLetterCounts> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bad-input")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let deadline = Instant::now() + DEADLINE;
    let mut dead_letters = Vec::new();
    while dead_letters.len() < count {
        ensure!(
            Instant::now() < deadline,
            "{} of {count} records on {topic}",
            dead_letters.len()
        );
        let Some(message) = consumer.poll(Duration::from_secs(1)) else {
            continue;
        };
        let message = message?;
        let headers = message.headers().context("a dead letter without headers")?;
        let code = headers
            .iter()
            .find(|header| header.key == "streamstage-error-code")
            .context("no code")?;
        let code = String::from_utf8(code.value.unwrap_or_default().to_vec())?;
        dead_letters.push((code, message.payload().map(<[u8]>::to_vec)));
    }
    Ok(count_dead_letters(dead_letters.into_iter()))
}
