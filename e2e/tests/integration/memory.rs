//! Peak memory of the worker with the largest records that the stages accept, wherever the worker holds records: below
//! the memory limit of the chart.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::pipeline::{Pipeline, Record, Worker, start_services, wait_until};
use e2e::services::Services;
use serde_json::json;

/// Memory limit of a worker in the chart.
const MEMORY_LIMIT_BYTES: u64 = 256 << 20;
const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// Orders of the maximum size: together more than the limit.
const LARGE_ORDERS: i64 = 300;
/// Size of a large order. Its output is larger by the reference data, and must still fit into a record of the topic.
const LARGE_ORDER_BYTES: usize = 1_040_000;
/// Orders with many lines, and their number of lines; an order has at most 10,000.
const LONG_ORDERS: i64 = 40;
const LINES: usize = 9_900;
/// Records that are in the memory of the test at the same time.
const RECORDS_PER_SEND: usize = 20;
const PENDING: &str = "SELECT count(*) FROM stg.pending_enrichment";
const OPEN_DEAD_LETTERS: &str = "SELECT count(*) FROM streamstage.dead_letter WHERE redriven_at IS NULL";

/// Fails if the worker has used more memory than the limit at any time so far.
fn assert_peak(place: &str, bytes: u64) -> Result<()> {
    eprintln!("memory: {place}: {} MiB at most", bytes >> 20);
    ensure!(bytes < MEMORY_LIMIT_BYTES, "{place}: {bytes} bytes");
    Ok(())
}

/// An order of [`LARGE_ORDER_BYTES`], most of them in the names of its lines. Text that hardly compresses.
fn large_order(object_id: i64, user: &str) -> String {
    let mut state = u64::try_from(object_id).unwrap_or_default() + 1;
    let mut text = String::new();
    while text.len() < LARGE_ORDER_BYTES / 4 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        write!(text, "{state:016x}").expect("text");
    }
    let order = |names: [&str; 4]| {
        let line = |name: &str| json!({"id": "p", "name": name, "price": 180, "quantity": 2});
        json!({
            "object_id": object_id, "object_type": "order", "sent_dttm": "2024-02-24 12:00:05",
            "payload": {
                "restaurant": {"id": "r"}, "user": {"id": user}, "date": "2024-02-24 11:58:12",
                "order_items": names.map(line), "bonus_payment": 0, "cost": 360, "payment": 360, "bonus_grant": 18,
                "statuses": [], "final_status": "CLOSED", "update_ts": "2024-02-24 12:00:00",
            },
        })
        .to_string()
    };
    let length = (LARGE_ORDER_BYTES - order([""; 4]).len()) / 4;
    order([&text[..length]; 4])
}

/// An enriched order with many lines, each with a product of its own.
fn long_order(object_id: i64) -> String {
    let products = (0..LINES).map(|line| {
        let id = format!("{object_id}-{line}");
        json!({"id": id, "name": format!("n{line}"), "price": 1, "quantity": 1, "category": format!("c{}", line % 50)})
    });
    json!({
        "object_id": object_id, "object_type": "order",
        "payload": {
            "id": object_id, "date": "2024-02-24 11:58:12", "update_ts": "2024-02-24 12:00:00", "cost": 1, "payment": 1,
            "status": "CLOSED", "restaurant": {"id": "r", "name": "R"},
            "user": {"id": "u", "name": "U", "login": "u"}, "products": products.collect::<Vec<_>>(),
        },
    })
    .to_string()
}

async fn send(
    pipeline: &Pipeline,
    topic: &str,
    ids: std::ops::Range<i64>,
    order: impl Fn(i64) -> String,
) -> Result<()> {
    let ids: Vec<i64> = ids.collect();
    for chunk in ids.chunks(RECORDS_PER_SEND) {
        let records = chunk.iter().zip((0..PARTITIONS).cycle());
        let records = records.map(|(id, partition)| Record {
            partition,
            value: Some(order(*id).into_bytes()),
            ..Record::default()
        });
        pipeline.send(topic, &records.collect::<Vec<_>>()).await?;
    }
    Ok(())
}

async fn wait_count(pipeline: &Pipeline, query: &str, count: i64) -> Result<()> {
    wait_until(&format!("{query}: {count}"), DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(query).await? == count)
    })
    .await
}

/// Restaurant `r` with product `p`, and the user, if it is not empty.
async fn load_reference_data(pipeline: &Pipeline, user: &str) -> Result<()> {
    let menu = json!([{"_id": "p", "name": "P", "price": 1, "category": "C"}]);
    let restaurant = json!({"_id": "r", "name": "R", "menu": menu, "update_ts": "2024-02-24 12:00:00"});
    let entry = json!({"_id": user, "name": "U", "login": "u", "update_ts": "2024-02-24 12:00:00"});
    let entries = [("r", restaurant), (user, entry)];
    let entries = entries.into_iter().filter(|(id, _)| !id.is_empty());
    pipeline
        .load_entries(entries.map(|(id, entry)| (id, entry.to_string())))
        .await
}

/// Maximum memory of a command until its exit.
async fn peak_until_exit(command: Worker) -> Result<u64> {
    let peak = Cell::new(0);
    wait_until("the command exits", DEADLINE, || async {
        Ok(command.peak_rss_bytes().map(|bytes| peak.set(bytes)).is_err())
    })
    .await?;
    let (status, log) = command.wait_exit().await?;
    ensure!(status.success(), "{status}: {log}");
    Ok(peak.get())
}

async fn create_pipeline(name: &str) -> Result<(Services, Pipeline)> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, name, PARTITIONS).await?;
    load_reference_data(&pipeline, "").await?;
    Ok((services, pipeline))
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_orders_of_the_maximum_size_fit_into_memory_on_arrival_and_when_due() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    let (_services, pipeline) = create_pipeline("memory_pending").await?;
    let topic = pipeline.source_topic();
    send(&pipeline, topic, 0..LARGE_ORDERS, |id| large_order(id, "u")).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_count(&pipeline, PENDING, LARGE_ORDERS).await?;
    assert_peak("large pending orders on arrival", worker.peak_rss_bytes()?)?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    load_reference_data(&pipeline, "u").await?;
    sqlx::query("UPDATE stg.pending_enrichment SET next_attempt_at = now()")
        .execute(pipeline.pool())
        .await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_count(&pipeline, PENDING, 0).await?;
    assert_peak("large pending orders when due", worker.peak_rss_bytes()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_maximum_size_fit_into_memory_when_written_and_at_a_redrive() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    let (_services, mut pipeline) = create_pipeline("memory_redrive").await?;
    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 0s\n")?;
    let topic = pipeline.source_topic();
    send(&pipeline, topic, 0..LARGE_ORDERS, |id| large_order(id, "u")).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_count(&pipeline, OPEN_DEAD_LETTERS, LARGE_ORDERS).await?;
    assert_peak(
        "large pending orders that are dead-lettered",
        worker.peak_rss_bytes()?,
    )?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    let redrive = pipeline.start_command("dead-letters redrive", &["stg"], &["--execute"])?;
    assert_peak("redrive of large dead letters", peak_until_exit(redrive).await?)?;
    wait_count(&pipeline, PENDING, LARGE_ORDERS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_with_many_lines_fit_into_memory_in_dds_and_cdm() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    let (_services, pipeline) = create_pipeline("memory_lines").await?;
    send(&pipeline, pipeline.stg_topic(), 0..LONG_ORDERS, long_order).await?;
    for stage in ["dds", "cdm"] {
        let worker = pipeline.start_worker(&[stage])?;
        pipeline.wait_caught_up(stage, DEADLINE).await?;
        assert_peak(
            &format!("orders with many lines in {stage}"),
            worker.peak_rss_bytes()?,
        )?;
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    }
    let counted = "SELECT count(*) FROM cdm.product_order_count";
    let lines = i64::try_from(LINES)?;
    ensure!(
        pipeline.query_scalar::<i64>(counted).await? == LONG_ORDERS * lines,
        "not all products are counted"
    );
    Ok(())
}
