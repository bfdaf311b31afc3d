//! Input at the limits: what is unusual and accepted, and what exceeds a limit until somebody raises it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings, send};
use e2e::pipeline::{Pipeline, Record, services};
use e2e::recount::{marts, recount};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// `limits.maxRecordBytes` of the stage `stg`.
const MOST_BYTES: usize = 64 << 10;

/// A name, and how an ordinary order becomes that.
type Form = (&'static str, fn(&mut Value));

/// All of these are stored as they came.
const ACCEPTED: [Form; 10] = [
    ("fields that no contract names", |order| {
        let extra = json!({"a": [1, null, {"b": "c"}], "ключ": "значение"});
        for place in [
            "",
            "/payload",
            "/payload/user",
            "/payload/order_items/0",
            "/payload/statuses/0",
        ] {
            set(order, place, "extra", extra.clone());
        }
    }),
    ("a status that nobody knows", |order| {
        set(order, "/payload", "final_status", json!("COURIER LOST"));
    }),
    ("no lines", |order| {
        set(order, "/payload", "order_items", json!([]));
    }),
    ("a dish on three lines", |order| {
        let line = order["payload"]["order_items"][0].clone();
        set(order, "/payload", "order_items", json!([line, line, line]));
    }),
    ("128 levels", |order| {
        let deepest = (0..126).fold(json!(1), |inner, _| json!([inner]));
        set(order, "/payload", "extra", deepest);
    }),
    ("as large as a record may be", |order| {
        set(order, "/payload", "extra", json!(""));
        let padding = "x".repeat(MOST_BYTES - order.to_string().len());
        set(order, "/payload", "extra", json!(padding));
    }),
    ("free, and nothing of it", |order| {
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

fn set(order: &mut Value, place: &str, field: &str, value: Value) {
    if let Some(object) = order.pointer_mut(place) {
        object[field] = value;
    }
}

/// The next order, closed, in another form.
fn next(generator: &mut Generator, form: fn(&mut Value)) -> Result<Value> {
    let ordinary = generator.live().next().and_then(|message| message.value);
    let mut order: Value = serde_json::from_slice(&ordinary.context("no value")?)?;
    set(&mut order, "/payload", "final_status", json!("CLOSED"));
    form(&mut order);
    Ok(order)
}

fn message(order: &Value) -> Message {
    Message {
        value: Some(order.to_string().into_bytes()),
        expected: Expected::Good,
    }
}

async fn pipeline(name: &str, withheld: usize) -> Result<(e2e::services::Services, Pipeline, Generator)> {
    let services = services().await?;
    let mut pipeline = Pipeline::create(&services, name, PARTITIONS).await?;
    pipeline.edit("layer: stg\n", "layer: stg\n  limits: {maxRecordBytes: 64Ki}\n")?;
    let generator = Generator::new(&Settings {
        seed: 12,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, withheld).await?;
    Ok((services, pipeline, generator))
}

/// Writes the messages for the recount.
fn write(pipeline: &Pipeline, messages: &[Message]) -> Result<PathBuf> {
    let file = pipeline.folder().join("orders.ndjson");
    let mut lines = Vec::new();
    messages
        .iter()
        .try_for_each(|message| send::write_line(&mut lines, message))?;
    std::fs::write(&file, lines)?;
    Ok(file)
}

/// The marts are those of the messages.
async fn compare(pipeline: &Pipeline, generator: &Generator, messages: &[Message]) -> Result<()> {
    let (dictionary, tags) = pipeline.write_recount_inputs(generator)?;
    let expected = recount(&write(pipeline, messages)?, &dictionary, &tags)?;
    ensure!(!expected.products.is_empty(), "nothing to compare");
    assert_eq!(marts(pipeline.pool()).await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusual_order_is_stored_as_it_came_and_counted_once() -> Result<()> {
    let (_services, pipeline, mut generator) = pipeline("unusual", 0).await?;
    let forms = ACCEPTED.iter().map(|(_, form)| next(&mut generator, *form));
    let orders: Vec<Value> = forms.collect::<Result<_>>()?;
    let messages: Vec<Message> = orders.iter().map(message).collect();
    // With a key and a header, which count for nothing, not even for the size of a record.
    let records = messages.iter().map(|message| Record {
        key: Some(b"any".to_vec()),
        value: message.value.clone(),
        headers: vec![("trace".to_owned(), Some(b"any".to_vec()))],
        ..Record::default()
    });
    let records: Vec<Record> = records.collect();
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;

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
        let known = order["payload"]["final_status"] == "CLOSED";
        assert_eq!(rank, [if known { 4 } else { 0 }], "{name}: rank of its status");
    }
    let dead: i64 = pipeline
        .query("SELECT count(*) FROM streamstage.dead_letter")
        .await?;
    assert_eq!(dead, 0);
    let metrics = metrics(&worker.address().await?).await?;
    let counted = "streamstage_unknown_status_total{stage=\"stg\"} 1\n";
    ensure!(metrics.contains(counted), "no {counted:?} in {metrics}");
    compare(&pipeline, &generator, &messages).await
}

/// What a worker shows at `/metrics`.
async fn metrics(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Over [`MOST_BYTES`] by one.
fn too_many_bytes(order: &mut Value) {
    set(order, "/payload", "extra", json!(""));
    let padding = "x".repeat(MOST_BYTES + 1 - order.to_string().len());
    set(order, "/payload", "extra", json!(padding));
}

/// So many lines that the enriched message is over 20,000 bytes.
fn many_lines(order: &mut Value) {
    let line = order["payload"]["order_items"][0].clone();
    set(order, "/payload", "order_items", json!(vec![line; 250]));
}

/// Under 20,000 bytes, and over 5,000 however it is compressed.
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
async fn what_exceeds_a_limit_comes_through_when_it_is_raised() -> Result<()> {
    let (_services, mut pipeline, mut generator) = pipeline("limits", 1).await?;
    pipeline
        .configure(pipeline.stg_topic(), "max.message.bytes", "20000")
        .await?;
    pipeline
        .configure(pipeline.dds_topic(), "max.message.bytes", "4000")
        .await?;
    let menu: Vec<Value> = generator.catalogue().restaurants[0]
        .menu
        .iter()
        .map(|dish| json!({"id": dish.id, "name": dish.name, "price": 1, "quantity": 1}))
        .collect();
    let restaurant = generator.catalogue().restaurants[0].id.clone();
    // Small orders enough for batches that the topics would not take in one piece.
    let mut messages: Vec<Message> = generator.history(1500).collect();
    messages.insert(700, message(&next(&mut generator, too_many_bytes)?));
    messages.insert(800, message(&next(&mut generator, many_lines)?));
    // Every dish of a menu: the fact is over 4,000 bytes, the enriched message under 20,000.
    let mut whole_menu = next(&mut generator, |_| ())?;
    set(&mut whole_menu, "/payload/restaurant", "id", json!(restaurant));
    set(&mut whole_menu, "/payload", "order_items", json!(menu));
    messages.insert(900, message(&whole_menu));
    // Stored, and found to be too large only when the dictionary learns the guest.
    let mut waiting = next(&mut generator, many_lines)?;
    let guest = generator.catalogue().guests.last().context("no guest")?;
    set(&mut waiting, "/payload/user", "id", json!(guest.id));
    messages.insert(1000, message(&waiting));
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.worker(&[])?;
    pipeline.read_to_the_end("stg", WITHIN).await?;
    pipeline.load_dictionary(&generator, 0).await?;
    pipeline.drained(WITHIN).await?;
    let limits = [
        ("dds", "OutputTooLarge"),
        ("stg", "OutputTooLarge"),
        ("stg", "OutputTooLarge"),
        ("stg", "TooLarge"),
    ];
    assert_eq!(
        dead(&pipeline).await?,
        limits.map(|(stage, code)| (stage.to_owned(), code.to_owned()))
    );

    // A limit that is lowered under a running worker: it is read again.
    pipeline
        .configure(pipeline.dds_topic(), "max.message.bytes", "1048588")
        .await?;
    pipeline
        .configure(pipeline.stg_topic(), "max.message.bytes", "5000")
        .await?;
    let lowered = next(&mut generator, incompressible)?;
    let small = next(&mut generator, |_| ())?;
    pipeline
        .produce(2, [message(&lowered), message(&small)].into_iter())
        .await?;
    messages.extend([message(&lowered), message(&small)]);
    pipeline.drained(WITHIN).await?;
    assert_eq!(dead(&pipeline).await?.len(), 5);
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    pipeline
        .configure(pipeline.stg_topic(), "max.message.bytes", "1048588")
        .await?;
    pipeline.edit("maxRecordBytes: 64Ki", "maxRecordBytes: 1Mi")?;
    let said = pipeline.command("redrive", &[], &[])?;
    assert!(
        said.contains("stg: 4 dead letters") && said.contains("dds: 1 dead letters"),
        "{said}"
    );
    let _worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    assert_eq!(dead(&pipeline).await?, []);
    compare(&pipeline, &generator, &messages).await
}

/// Stage and code of every dead letter that is not redriven.
async fn dead(pipeline: &Pipeline) -> Result<Vec<(String, String)>> {
    let dead = sqlx::query_as(
        "SELECT stage, code FROM streamstage.dead_letter WHERE redriven_at IS NULL ORDER BY stage, code",
    );
    Ok(dead.fetch_all(pipeline.pool()).await?)
}
