//! Bad input: each form gets its code, in the table and on the dead letter topic, and everything else gets through.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the dead letter topic, waits until a deadline"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings, send};
use e2e::pipeline::{Pipeline, Worker, services};
use e2e::recount::{marts, recount};
use e2e::services::Services;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

const WITHIN: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;

/// Codes and values, as often as each is there.
type Letters = BTreeMap<(String, Option<Vec<u8>>), usize>;

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_bad_input_gets_its_code_and_the_good_messages_get_through() -> Result<()> {
    let services = services().await?;
    let pipeline = Pipeline::create(&services, "bad_input", PARTITIONS).await?;
    let mut generator = Generator::new(&Settings {
        seed: 3,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 10).await?;
    let bad = generator.every_bad();
    let good: Vec<Message> = generator.history(500).collect();
    let messages: Vec<Message> = good[..100]
        .iter()
        .chain(&bad)
        .chain(&good[100..])
        .cloned()
        .collect();
    let file = pipeline.folder().join("orders.ndjson");
    let mut written = File::create(&file)?;
    messages
        .iter()
        .try_for_each(|message| send::write_line(&mut written, message))?;
    pipeline.produce(1, messages.iter().cloned()).await?;

    let _worker = pipeline.worker(&[])?;
    pipeline.read_to_the_end("stg", WITHIN).await?;
    let waiting: i64 = pipeline
        .query("SELECT count(*) FROM stg.pending_enrichment")
        .await?;
    ensure!(
        waiting > 0,
        "guests are withheld from the dictionary, and yet no order waits for it"
    );
    pipeline.load_dictionary(&generator, 0).await?;
    pipeline.drained(WITHIN).await?;

    let expected = letters(messages.iter().filter_map(|message| match message.expected {
        Expected::Good => None,
        Expected::Bad(code) => Some((code.to_owned(), message.value.clone())),
    }));
    let rows: Vec<(String, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT code, value FROM streamstage.dead_letter")
            .fetch_all(pipeline.pool())
            .await?;
    assert_eq!(codes(&letters(rows.into_iter())), codes(&expected));
    let unplaced: i64 = pipeline
        .query(
            "SELECT count(*) FROM streamstage.dead_letter WHERE NOT CASE code
                 WHEN 'ParseError' THEN detail ~ '^byte [0-9]+: .'
                 WHEN 'ContractViolation' THEN detail ~ '^(/[^ ]+)?: .'
                 ELSE detail <> '' END",
        )
        .await?;
    assert_eq!(unplaced, 0, "details that do not say where");
    let copies = copies(
        services.bootstrap_servers(),
        &format!("{}.dlq", pipeline.source_topic()),
        bad.len(),
    )?;
    ensure!(
        copies == expected,
        "the dead letter topic has {:?}, not {:?}",
        codes(&copies),
        codes(&expected)
    );

    let (dictionary, tags) = pipeline.write_recount_inputs(&generator)?;
    assert_eq!(marts(pipeline.pool()).await?, recount(&file, &dictionary, &tags)?);
    eprintln!(
        "bad input: {} forms, {waiting} orders waited for the dictionary",
        bad.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_postgresql_refuses_is_found_among_its_batch() -> Result<()> {
    let services = services().await?;
    let mut pipeline = Pipeline::create(&services, "bad_rows", PARTITIONS).await?;
    // So small that batches of the partition are in flight when it is held.
    pipeline.set_batches("{maxRecords: 5}")?;
    let mut generator = Generator::new(&Settings {
        seed: 4,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(400).collect();
    let (refused, held) = (
        object_id(&messages[200])?,
        only_message_of_its_order(&messages[300..])?,
    );
    ensure!(refused != held, "two messages of one order: choose others");
    for statement in [
        format!("ALTER TABLE stg.order_events ADD CONSTRAINT refuses CHECK (object_id <> {refused})"),
        "CREATE FUNCTION stg.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'unknown'; END $$"
            .to_owned(),
        format!(
            "CREATE TRIGGER fails BEFORE INSERT ON stg.order_events FOR EACH ROW WHEN (NEW.object_id = {held})
             EXECUTE FUNCTION stg.fails()"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(pipeline.pool())
            .await?;
    }
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.worker(&[])?;
    worker.logged("partition held").await?;
    let ends = pipeline.ends(pipeline.source_topic())?;
    until("the partitions that are not held reach their ends", || async {
        let positions = pipeline.positions("stg").await?;
        let behind = ends
            .iter()
            .filter(|(partition, end)| positions.get(partition) != Some(end))
            .count();
        Ok(behind > 0 && behind < ends.len() && worker.log().contains("partition held"))
    })
    .await?;
    let stored: i64 = pipeline
        .query(&format!(
            "SELECT count(*) FROM stg.order_events WHERE object_id = {held}"
        ))
        .await?;
    ensure!(stored == 0, "the order that fails is stored");
    until("the record is tried again", || async {
        Ok(holds(&worker)?.len() > 1)
    })
    .await?;
    let holds = holds(&worker)?;
    let rest = holds[1].duration_since(holds[0]);
    ensure!(
        rest.as_secs() >= 9,
        "the held partition rested for {rest} alone: {holds:?}"
    );

    sqlx::query("DROP TRIGGER fails ON stg.order_events")
        .execute(pipeline.pool())
        .await?;
    pipeline.drained(WITHIN).await?;
    let stored: i64 = pipeline
        .query(&format!(
            "SELECT count(*) FROM stg.order_events WHERE object_id = {held}"
        ))
        .await?;
    ensure!(stored == 1, "the order that failed is not stored now");
    let letters: Vec<(String, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT code, value FROM streamstage.dead_letter")
            .fetch_all(pipeline.pool())
            .await?;
    ensure!(!letters.is_empty(), "nothing is dead-lettered");
    for (code, value) in letters {
        let value: Value = serde_json::from_slice(&value.context("a dead letter without a value")?)?;
        ensure!(
            code == "WarehouseRefused" && value["object_id"] == refused,
            "{code} for {}",
            value["object_id"]
        );
    }
    Ok(())
}

/// When a partition was held, or held again.
fn holds(worker: &Worker) -> Result<Vec<jiff::Timestamp>> {
    let log = worker.log();
    let lines = log.lines().filter(|line| line.contains("partition held"));
    lines
        .map(|line| {
            let line: Value = serde_json::from_str(line)?;
            Ok(line["timestamp"].as_str().context("no time")?.parse()?)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_whose_name_cannot_be_read_is_a_dead_letter_and_the_others_get_through() -> Result<()> {
    let services = services().await?;
    let pipeline = Pipeline::create(&services, "bad_header", 1).await?;
    let mut generator = Generator::new(&Settings {
        seed: 6,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 0).await?;
    let messages: Vec<Message> = generator.live().take(3).collect();
    pipeline.produce(1, messages[..1].iter().cloned()).await?;
    let poisonous = messages[1].value.as_deref().context("a tombstone")?;
    send_with_latin_1_header(&services, pipeline.source_topic(), poisonous).await?;
    pipeline.produce(1, messages[2..].iter().cloned()).await?;
    let _worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;

    let rows: Vec<(String, Option<Vec<u8>>, Vec<String>)> =
        sqlx::query_as("SELECT code, value, header_names FROM streamstage.dead_letter")
            .fetch_all(pipeline.pool())
            .await?;
    let expected = (
        "ContractViolation".to_owned(),
        Some(poisonous.to_vec()),
        vec!["before".to_owned(), "after".to_owned()],
    );
    assert_eq!(rows, [expected]);
    let stored: i64 = pipeline.query("SELECT count(*) FROM stg.order_events").await?;
    assert_eq!(stored, 2);
    Ok(())
}

/// Sends a value with three headers; the name of the second is `é` in Latin-1, as another client may send it.
async fn send_with_latin_1_header(services: &Services, topic: &str, value: &[u8]) -> Result<()> {
    let latin_1 = vec![0xe9];
    #[expect(
        unsafe_code,
        reason = "this client takes names in UTF-8 alone, and passes them on by pointer and length"
    )]
    // SAFETY: nothing reads it as text.
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
    let sent = producer.send(record, WITHIN).await;
    sent.map_err(|(error, _)| error)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_let_go_keeps_no_other_waiting() -> Result<()> {
    let services = services().await?;
    let pipeline = Pipeline::create(&services, "bad_wait", PARTITIONS).await?;
    let mut generator = Generator::new(&Settings {
        seed: 5,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 30).await?;
    let messages: Vec<Message> = generator.history(300).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.worker(&[])?;
    pipeline.read_to_the_end("stg", WITHIN).await?;
    let waiting = "SELECT count(DISTINCT object_id) FROM stg.pending_enrichment";
    ensure!(pipeline.query::<i64>(waiting).await? > 1, "too few orders wait");
    let stuck: i64 = pipeline
        .query("SELECT min(object_id) FROM stg.pending_enrichment")
        .await?;
    for statement in [
        "CREATE FUNCTION stg.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'unknown'; END $$"
            .to_owned(),
        format!(
            "CREATE TRIGGER fails BEFORE DELETE ON stg.pending_enrichment FOR EACH ROW
             WHEN (OLD.object_id = {stuck}) EXECUTE FUNCTION stg.fails()"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(pipeline.pool())
            .await?;
    }
    pipeline.load_dictionary(&generator, 0).await?;
    let others = format!("SELECT count(*) FROM stg.pending_enrichment WHERE object_id <> {stuck}");
    until("the other orders have left", || async {
        Ok(pipeline.query::<i64>(&others).await? == 0)
    })
    .await?;
    worker.logged("a pending order fails").await?;
    ensure!(
        pipeline.query::<i64>(waiting).await? == 1,
        "the order that fails is gone"
    );
    sqlx::query("DROP TRIGGER fails ON stg.pending_enrichment")
        .execute(pipeline.pool())
        .await?;
    pipeline.drained(WITHIN).await
}

fn letters(found: impl Iterator<Item = (String, Option<Vec<u8>>)>) -> Letters {
    let mut letters = Letters::new();
    found.for_each(|letter| *letters.entry(letter).or_default() += 1);
    letters
}

/// How often each code is there: what a failure shows.
fn codes(letters: &Letters) -> BTreeMap<&str, usize> {
    let mut codes = BTreeMap::new();
    for ((code, _), times) in letters {
        *codes.entry(code.as_str()).or_default() += times;
    }
    codes
}

/// The order that a good message is about.
fn object_id(message: &Message) -> Result<i64> {
    let value: Value = serde_json::from_slice(message.value.as_deref().context("a tombstone")?)?;
    value["object_id"].as_i64().context("no object_id")
}

/// An order that has one message: with more of them it would hold more than one partition.
fn only_message_of_its_order(messages: &[Message]) -> Result<i64> {
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    for message in messages {
        *times.entry(object_id(message)?).or_default() += 1;
    }
    let newest = times.iter().rev().find(|(_, times)| **times == 1);
    newest
        .map(|(order, _)| *order)
        .context("every order has several messages")
}

/// Reads `count` messages of a dead letter topic: the code of the header, and the value.
fn copies(servers: &str, topic: &str, count: usize) -> Result<Letters> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bad-input")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let deadline = Instant::now() + WITHIN;
    let mut found = Vec::new();
    while found.len() < count {
        ensure!(
            Instant::now() < deadline,
            "{} of {count} messages on {topic}",
            found.len()
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
        found.push((code, message.payload().map(<[u8]>::to_vec)));
    }
    Ok(letters(found.into_iter()))
}

/// Waits until a condition holds.
async fn until<F: Future<Output = Result<bool>>>(what: &str, condition: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    while !condition().await? {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
