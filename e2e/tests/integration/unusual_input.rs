//! Input at the limits: unusual records are accepted, and records over a limit are accepted after it is raised.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings, send};
use e2e::pipeline::{Pipeline, Record, start_services};
use e2e::recount::{read_marts, recount};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// `limits.maxRecordBytes` of the stage `stg`.
const MAX_RECORD_BYTES: usize = 64 << 10;

/// A name, and the change that turns an ordinary order into this form.
type Form = (&'static str, fn(&mut Value));

/// Forms that are stored as received.
const ACCEPTED: [Form; 10] = [
    ("fields that are in no contract", |order| {
        let extra = json!({"a": [1, null, {"b": "c"}], "ключ": "значение"});
        for pointer in [
            "",
            "/payload",
            "/payload/user",
            "/payload/order_items/0",
            "/payload/statuses/0",
        ] {
            set(order, pointer, "extra", extra.clone());
        }
    }),
    ("an unknown status", |order| {
        set(order, "/payload", "final_status", json!("COURIER LOST"));
    }),
    ("no lines", |order| {
        set(order, "/payload", "order_items", json!([]));
    }),
    ("a product on three lines", |order| {
        let line = order["payload"]["order_items"][0].clone();
        set(order, "/payload", "order_items", json!([line, line, line]));
    }),
    ("128 levels", |order| {
        let deepest = (0..126).fold(json!(1), |inner, _| json!([inner]));
        set(order, "/payload", "extra", deepest);
    }),
    ("the maximum record size", |order| {
        set(order, "/payload", "extra", json!(""));
        let padding = "x".repeat(MAX_RECORD_BYTES - order.to_string().len());
        set(order, "/payload", "extra", json!(padding));
    }),
    ("cost, price and quantity 0", |order| {
        set(order, "/payload", "cost", json!(0));
        set(order, "/payload/order_items/0", "price", json!(0));
        set(order, "/payload/order_items/0", "quantity", json!(0));
    }),
    ("five decimals", |order| {
        set(order, "/payload", "cost", json!(360.12345));
    }),
    ("spaces around names and ids in other scripts", |order| {
        set(
            order,
            "/payload/order_items/0",
            "name",
            json!("  РОЛЛ\t'quoted\" \\ {a,b} \u{1f363} "),
        );
    }),
    ("a time before 1970", |order| {
        set(order, "/payload", "update_ts", json!("1969-12-31 23:59:59"));
    }),
];

fn set(order: &mut Value, pointer: &str, field: &str, value: Value) {
    if let Some(object) = order.pointer_mut(pointer) {
        object[field] = value;
    }
}

/// The next order, closed, in the given form.
fn next_order(generator: &mut Generator, form: fn(&mut Value)) -> Result<Value> {
    let ordinary = generator.live().next().and_then(|message| message.value);
    let mut order: Value = serde_json::from_slice(&ordinary.context("no value")?)?;
    set(&mut order, "/payload", "final_status", json!("CLOSED"));
    form(&mut order);
    Ok(order)
}

fn to_message(order: &Value) -> Message {
    Message {
        value: Some(order.to_string().into_bytes()),
        expected: Expected::Good,
    }
}

async fn create_pipeline(
    name: &str,
    withheld: usize,
) -> Result<(e2e::services::Services, Pipeline, Generator)> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, name, PARTITIONS).await?;
    pipeline.edit("layer: stg\n", "layer: stg\n  limits: {maxRecordBytes: 64Ki}\n")?;
    let generator = Generator::new(&Settings {
        seed: 12,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, withheld).await?;
    Ok((services, pipeline, generator))
}

/// Writes the messages to a file for the recount.
fn write_messages(pipeline: &Pipeline, messages: &[Message]) -> Result<PathBuf> {
    let file = pipeline.folder().join("orders.ndjson");
    let mut lines = Vec::new();
    messages
        .iter()
        .try_for_each(|message| send::write_line(&mut lines, message))?;
    std::fs::write(&file, lines)?;
    Ok(file)
}

/// The marts equal a recount of the messages.
async fn assert_marts(pipeline: &Pipeline, generator: &Generator, messages: &[Message]) -> Result<()> {
    let (reference_data, tags) = pipeline.write_recount_inputs(generator)?;
    let expected = recount(&write_messages(pipeline, messages)?, &reference_data, &tags)?;
    ensure!(!expected.products.is_empty(), "nothing to compare");
    assert_eq!(read_marts(pipeline.pool()).await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusual_order_is_stored_as_received_and_counted_once() -> Result<()> {
    let (_services, pipeline, mut generator) = create_pipeline("unusual", 0).await?;
    let forms = ACCEPTED.iter().map(|(_, form)| next_order(&mut generator, *form));
    let orders: Vec<Value> = forms.collect::<Result<_>>()?;
    let messages: Vec<Message> = orders.iter().map(to_message).collect();
    // With a key and a header, which are ignored and do not count for the record size.
    let records = messages.iter().map(|message| Record {
        key: Some(b"any".to_vec()),
        value: message.value.clone(),
        headers: vec![("trace".to_owned(), Some(b"any".to_vec()))],
        ..Record::default()
    });
    let records: Vec<Record> = records.collect();
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;

    for ((name, _), order) in ACCEPTED.iter().zip(&orders) {
        let (payload, rank): (String, Vec<u8>) = sqlx::query_as(
            "SELECT payload::text, substr(version, 9, 1) FROM stg.order_events WHERE object_id = $1",
        )
        .bind(order["object_id"].as_i64())
        .fetch_one(pipeline.pool())
        .await
        .with_context(|| format!("not stored: {name}"))?;
        let sent = order.to_string();
        assert!(payload == sent, "{name}: stored as {payload}");
        let is_known = order["payload"]["final_status"] == "CLOSED";
        assert_eq!(rank, [if is_known { 4 } else { 0 }], "{name}: rank of its status");
    }
    let dead_letters: i64 = pipeline
        .query_scalar("SELECT count(*) FROM streamstage.dead_letter")
        .await?;
    assert_eq!(dead_letters, 0);
    let (_, metrics) = worker.http_get("/metrics").await?;
    let expected = "streamstage_worker_unknown_order_status_total{stage=\"stg\"} 1\n";
    ensure!(metrics.contains(expected), "no {expected:?} in {metrics}");
    assert_marts(&pipeline, &generator, &messages).await
}

/// One byte over [`MAX_RECORD_BYTES`].
fn too_many_bytes(order: &mut Value) {
    set(order, "/payload", "extra", json!(""));
    let padding = "x".repeat(MAX_RECORD_BYTES + 1 - order.to_string().len());
    set(order, "/payload", "extra", json!(padding));
}

/// Enough lines for an enriched message over 20,000 bytes.
fn many_lines(order: &mut Value) {
    let line = order["payload"]["order_items"][0].clone();
    set(order, "/payload", "order_items", json!(vec![line; 250]));
}

/// Under 20,000 bytes uncompressed, and over 5,000 bytes with any compression.
fn incompressible(order: &mut Value) {
    let line = order["payload"]["order_items"][0].clone();
    let lines = std::iter::repeat_with(|| {
        let mut line = line.clone();
        let digits: [u128; 4] = rand::random();
        line["name"] = json!(format!("{digits:x?}"));
        line
    });
    let lines: Vec<Value> = lines.take(60).collect();
    set(order, "/payload", "order_items", json!(lines));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_over_a_limit_are_processed_after_it_is_raised() -> Result<()> {
    let (_services, mut pipeline, mut generator) = create_pipeline("limits", 1).await?;
    pipeline
        .set_topic_config(pipeline.stg_topic(), "max.message.bytes", "20000")
        .await?;
    pipeline
        .set_topic_config(pipeline.dds_topic(), "max.message.bytes", "4000")
        .await?;
    let menu: Vec<Value> = generator.catalogue().restaurants[0]
        .menu
        .iter()
        .map(|product| json!({"id": product.id, "name": product.name, "price": 1, "quantity": 1}))
        .collect();
    let restaurant = generator.catalogue().restaurants[0].id.clone();
    // Enough small orders for producer batches that are larger than the topics allow.
    let mut messages: Vec<Message> = generator.history(1500).collect();
    messages.insert(700, to_message(&next_order(&mut generator, too_many_bytes)?));
    messages.insert(800, to_message(&next_order(&mut generator, many_lines)?));
    // Every product of a menu: the fact is over 4,000 bytes, the enriched message under 20,000.
    let mut whole_menu = next_order(&mut generator, |_| ())?;
    set(&mut whole_menu, "/payload/restaurant", "id", json!(restaurant));
    set(&mut whole_menu, "/payload", "order_items", json!(menu));
    messages.insert(900, to_message(&whole_menu));
    // Pending at first; it is too large only after the user is in the reference data.
    let mut pending = next_order(&mut generator, many_lines)?;
    let user = generator.catalogue().users.last().context("no user")?;
    set(&mut pending, "/payload/user", "id", json!(user.id));
    messages.insert(1000, to_message(&pending));
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_drained(DEADLINE).await?;
    let limits = [
        ("dds", "OutputTooLarge"),
        ("stg", "OutputTooLarge"),
        ("stg", "OutputTooLarge"),
        ("stg", "TooLarge"),
    ];
    assert_eq!(
        dead_letters(&pipeline).await?,
        limits.map(|(stage, code)| (stage.to_owned(), code.to_owned()))
    );

    // Lowering a limit of a topic has an effect on a running worker.
    pipeline
        .set_topic_config(pipeline.dds_topic(), "max.message.bytes", "1048588")
        .await?;
    pipeline
        .set_topic_config(pipeline.stg_topic(), "max.message.bytes", "5000")
        .await?;
    let large = next_order(&mut generator, incompressible)?;
    let small = next_order(&mut generator, |_| ())?;
    pipeline
        .produce(2, [to_message(&large), to_message(&small)].into_iter())
        .await?;
    messages.extend([to_message(&large), to_message(&small)]);
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(dead_letters(&pipeline).await?.len(), 5);

    // So has raising it: the limit that the worker knows is read again before it rejects a record.
    pipeline
        .set_topic_config(pipeline.stg_topic(), "max.message.bytes", "1048588")
        .await?;
    let accepted = next_order(&mut generator, incompressible)?;
    pipeline
        .produce(3, std::iter::once(to_message(&accepted)))
        .await?;
    messages.push(to_message(&accepted));
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(dead_letters(&pipeline).await?.len(), 5);
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    pipeline
        .set_topic_config(pipeline.stg_topic(), "max.message.bytes", "1048588")
        .await?;
    pipeline.edit("maxRecordBytes: 64Ki", "maxRecordBytes: 1Mi")?;
    let output = pipeline.run_command("dead-letters redrive", &[], &["--execute"])?;
    assert!(
        output.contains("stg: 4 dead letters") && output.contains("dds: 1 dead letters"),
        "{output}"
    );
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(dead_letters(&pipeline).await?, []);
    assert_marts(&pipeline, &generator, &messages).await
}

/// Stage and code of every dead letter that is not redriven.
async fn dead_letters(pipeline: &Pipeline) -> Result<Vec<(String, String)>> {
    let query = sqlx::query_as(
        "SELECT stage, code FROM streamstage.dead_letter WHERE redriven_at IS NULL ORDER BY stage, code",
    );
    Ok(query.fetch_all(pipeline.pool()).await?)
}
