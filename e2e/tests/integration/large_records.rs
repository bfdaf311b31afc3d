//! Records and batches that are small while they are compressed, and would not fit into memory: the worker stays below the
//! memory limit of the chart, dead-letters what it may not hold, and stores everything else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pipeline::{Pipeline, Record, Worker, start_services, wait_until};
use e2e::services::Services;
use serde_json::json;

/// Memory limit of a worker in the chart.
const MEMORY_LIMIT_BYTES: u64 = 256 << 20;
const DEADLINE: Duration = Duration::from_mins(3);
/// Size of a record that a worker may not hold.
const HUGE_BYTES: usize = 90 << 20;
/// Legal orders of one batch, and their size: together more than the memory limit.
const PADDED_ORDERS: i64 = 300;
const PADDED_BYTES: usize = 1_000_000;
/// Size of an entry of the reference data that a worker may not hold.
const HUGE_ENTRY_BYTES: usize = 240 << 20;

/// An order with this text in a field that is not used.
fn order(object_id: i64, user: &str, padding: &str) -> Vec<u8> {
    json!({
        "object_id": object_id, "object_type": "order", "sent_dttm": "2024-02-24 12:00:05",
        "payload": {
            "restaurant": {"id": "r"}, "user": {"id": user}, "date": "2024-02-24 11:58:12",
            "order_items": [{"id": "p", "name": "P", "price": 180, "quantity": 2}],
            "bonus_payment": 0, "cost": 360, "payment": 360, "bonus_grant": 18, "padding": padding,
            "statuses": [], "final_status": "CLOSED", "update_ts": "2024-02-24 12:00:00",
        },
    })
    .to_string()
    .into_bytes()
}

fn record(value: Vec<u8>) -> Record {
    Record {
        value: Some(value),
        ..Record::default()
    }
}

async fn create_pipeline(services: &Services, name: &str) -> Result<Pipeline> {
    let pipeline = Pipeline::create(services, name, 1).await?;
    let menu = json!([{"_id": "p", "name": "P", "price": 1, "category": "C"}]);
    let restaurant = json!({"_id": "r", "name": "R", "menu": menu, "update_ts": "2024-02-24 12:00:00"});
    let user = json!({"_id": "u", "name": "U", "login": "u", "update_ts": "2024-02-24 12:00:00"});
    let entries = [("r", restaurant.to_string()), ("u", user.to_string())];
    pipeline.load_entries(entries.into_iter()).await?;
    Ok(pipeline)
}

/// Sends an order, a record that is too large, a batch of padded orders, and another order.
async fn send_all(pipeline: &Pipeline, codec: &str) -> Result<()> {
    let topic = pipeline.source_topic();
    // Snappy compresses to a twentieth at best.
    pipeline
        .set_topic_config(topic, "max.message.bytes", "33554432")
        .await?;
    pipeline.send(topic, &[record(order(1, "u", ""))]).await?;
    let huge = Record {
        key: Some(b"huge".to_vec()),
        ..record(vec![b'x'; HUGE_BYTES])
    };
    pipeline.send_as_batch(topic, codec, &[huge]).await?;
    let padding = "x".repeat(PADDED_BYTES);
    let padded = (2..2 + PADDED_ORDERS).map(|id| record(order(id, "u", &padding)));
    pipeline
        .send_as_batch(topic, codec, &padded.collect::<Vec<_>>())
        .await?;
    let last = record(order(2 + PADDED_ORDERS, "u", ""));
    pipeline.send(topic, &[last]).await
}

async fn wait_orders(pipeline: &Pipeline, worker: &Worker, count: i64) -> Result<()> {
    let query = "SELECT count(*) FROM stg.order_events";
    wait_until(&format!("{count} orders"), DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(query).await? >= count)
    })
    .await
    .with_context(|| worker.log())
}

fn assert_peak(place: &str, worker: &Worker) -> Result<()> {
    let bytes = worker.peak_rss_bytes()?;
    eprintln!("large records: {place}: {} MiB at most", bytes >> 20);
    ensure!(bytes < MEMORY_LIMIT_BYTES, "{place}: {bytes} bytes");
    Ok(())
}

async fn assert_codec(codec: &str) -> Result<()> {
    let services = start_services().await?;
    let pipeline = create_pipeline(&services, &format!("large_{codec}")).await?;
    send_all(&pipeline, codec).await?;

    let worker = pipeline.start_worker(&["stg"])?;
    wait_orders(&pipeline, &worker, 20).await?;
    assert_peak(&format!("{codec}, before a kill"), &worker)?;
    worker.kill();
    let worker = pipeline.start_worker(&["stg"])?;
    wait_orders(&pipeline, &worker, PADDED_ORDERS + 2).await?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    assert_peak(&format!("{codec}, after it"), &worker)?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    let positions = pipeline.positions("stg").await?;
    assert_eq!(positions.get(&0), Some(&(PADDED_ORDERS + 3)));
    let (code, detail, offset, key, value): (String, String, i64, Vec<u8>, Option<Vec<u8>>) =
        sqlx::query_as("SELECT code, detail, \"offset\", key, value FROM streamstage.dead_letter")
            .fetch_one(pipeline.pool())
            .await?;
    assert_eq!(
        (code.as_str(), offset, &key[..], value),
        ("TooLarge", 1, &b"huge"[..], None)
    );
    ensure!(
        detail.starts_with("943718") && detail.contains("bytes, more than a worker may hold"),
        "{detail}"
    );
    assert_redrive_fails(&pipeline)
}

/// A redrive reports that the dead letter has no value, and changes nothing.
fn assert_redrive_fails(pipeline: &Pipeline) -> Result<()> {
    let redriven = pipeline.run_command("dead-letters redrive", &["stg"], &["--execute"]);
    let error = redriven.err().context("the record was redriven")?.to_string();
    ensure!(
        error.contains("1 dead letters not redriven") && error.contains("dead-letters discard"),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_that_expands_beyond_the_memory_limit_is_processed_within_it() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    Box::pin(assert_codec("gzip")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn snappy_that_expands_beyond_the_memory_limit_is_processed_within_it() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    Box::pin(assert_codec("snappy")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lz4_that_expands_beyond_the_memory_limit_is_processed_within_it() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    Box::pin(assert_codec("lz4")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn zstd_that_expands_beyond_the_memory_limit_is_processed_within_it() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    Box::pin(assert_codec("zstd")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_reference_data_beyond_the_memory_limit_is_malformed() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    let services = start_services().await?;
    let mut pipeline = create_pipeline(&services, "large_entry").await?;
    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 0s\n")?;
    // Zeros up to the last byte, so that the test does not send as many.
    let last = (HUGE_ENTRY_BYTES - 1).to_string();
    pipeline
        .run_redis("SETRANGE", &[b"huge", last.as_bytes(), b"x"])
        .await?;
    let topic = pipeline.source_topic();
    let orders = (1..=20).map(|id| record(order(id, "u", "")));
    let orders = orders.chain([record(order(21, "huge", ""))]);
    pipeline.send(topic, &orders.collect::<Vec<_>>()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_orders(&pipeline, &worker, 21).await?;
    let letters =
        "SELECT coalesce(max(detail), '') FROM streamstage.dead_letter WHERE code = 'ReferenceDataMalformed'";
    wait_until("the dead letter", DEADLINE, || async {
        let detail = pipeline.query_scalar::<String>(letters).await?;
        Ok(detail.contains("251658240 bytes, the maximum is 4194304"))
    })
    .await
    .with_context(|| worker.log())?;
    assert_peak("an entry of 240 MiB", &worker)?;
    let check = pipeline.run_command("check", &["stg"], &[])?;
    ensure!(check.contains("reference data"), "{check}");
    Ok(())
}
