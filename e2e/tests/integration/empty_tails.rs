//! Empty tails: transaction markers and records of aborted transactions are not records, so a position may be after them,
//! and their deletion loses nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Record, start_services, wait_until};
use e2e::services::Services;

const DEADLINE: Duration = Duration::from_mins(2);

async fn create_pipeline(name: &str) -> Result<(Services, Pipeline, Vec<Vec<u8>>)> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, name, 1).await?;
    let mut generator = Generator::new(&Settings {
        seed: 18,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.live().take(30).collect();
    let values = messages
        .into_iter()
        .map(|message| message.value.context("a value"));
    Ok((services, pipeline, values.collect::<Result<_>>()?))
}

async fn wait_orders(pipeline: &Pipeline, count: i64) -> Result<()> {
    let orders = "SELECT count(*) FROM stg.order_events";
    wait_until(&format!("{count} orders are stored"), DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(orders).await? == count)
    })
    .await
}

async fn wait_position(pipeline: &Pipeline, position: i64) -> Result<()> {
    wait_until(&format!("the position is {position}"), DEADLINE, || async {
        Ok(pipeline.positions("stg").await?.get(&0) == Some(&position))
    })
    .await?;
    // The operator scales by the committed offsets: a marker at the end must not count as lag.
    wait_until(
        &format!("the offset {position} is committed"),
        DEADLINE,
        || async { Ok(pipeline.committed_offsets("stg")?.get(&0) == Some(&position)) },
    )
    .await
}

/// Deletes the whole log, and sends an order after it, which must be read.
async fn assert_continues(pipeline: &Pipeline, end: i64, order: &[u8], orders: i64) -> Result<()> {
    pipeline.delete_records(pipeline.source_topic(), 0, end).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    let record = Record {
        value: Some(order.to_vec()),
        ..Record::default()
    };
    pipeline.send(pipeline.source_topic(), &[record]).await?;
    wait_orders(pipeline, orders).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_advances_over_markers_and_aborted_records_and_not_over_open_transactions() -> Result<()> {
    let (_services, pipeline, orders) = create_pipeline("markers").await?;
    let topic = pipeline.source_topic();
    let worker = pipeline.start_worker(&["stg"])?;
    // Three records and a marker.
    pipeline.send_in_transaction(topic, 0, &orders[..3], true)?;
    wait_position(&pipeline, 4).await?;
    // Two records and a marker, which no consumer reads.
    pipeline.send_in_transaction(topic, 0, &orders[3..5], false)?;
    wait_position(&pipeline, 7).await?;
    // A record after a tail that was skipped.
    pipeline.send_in_transaction(topic, 0, &orders[5..6], true)?;
    wait_position(&pipeline, 9).await?;
    wait_orders(&pipeline, 4).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    assert_continues(&pipeline, 9, &orders[6], 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_right_after_its_last_record_advances_over_the_marker() -> Result<()> {
    let (_services, pipeline, orders) = create_pipeline("marker_at_stop").await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.send_in_transaction(pipeline.source_topic(), 0, &orders[..3], true)?;
    wait_orders(&pipeline, 3).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    assert_eq!(pipeline.positions("stg").await?.get(&0), Some(&4));
    assert_continues(&pipeline, 4, &orders[3], 4).await
}
