//! A position out of the log's range stops the stage with an error that has the offsets; it continues only after
//! `worker reset-offsets`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Record, Worker, start_services};

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// Partition whose records are deleted.
const TRUNCATED: i32 = 1;

/// Creates a pipeline, and a generator with one message per order.
async fn create_pipeline(name: &str) -> Result<(e2e::services::Services, Pipeline, Generator)> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, name, PARTITIONS).await?;
    let generator = Generator::new(&Settings {
        seed: 8,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    Ok((services, pipeline, generator))
}

/// Sends the next orders to all partitions in turn, or to the given one.
async fn send_orders(
    pipeline: &Pipeline,
    generator: &mut Generator,
    count: usize,
    only: Option<i32>,
) -> Result<()> {
    let partitions = (0..PARTITIONS).cycle().map(|partition| only.unwrap_or(partition));
    let messages: Vec<Message> = generator.live().take(count).collect();
    let records: Vec<Record> = messages
        .into_iter()
        .zip(partitions)
        .map(|(message, partition)| Record {
            partition,
            value: message.value,
            ..Record::default()
        })
        .collect();
    pipeline.send(pipeline.source_topic(), &records).await
}

/// The worker exits with an error that names the partition and the offsets, and leaves all positions unchanged.
async fn assert_stops(pipeline: &Pipeline, worker: Worker, offsets: &[&str]) -> Result<()> {
    let before = pipeline.positions("stg").await?;
    let (_, line) = worker.wait_for_log("OffsetOutOfRange").await?;
    let (status, log) = worker.wait_exit().await?;
    ensure!(status.code() == Some(1), "the worker exited with {status}");
    let location = format!("{}, partition {TRUNCATED}", pipeline.source_topic());
    for part in [location.as_str(), "worker reset-offsets"].iter().chain(offsets) {
        ensure!(log.contains(part), "the error does not contain {part}: {line}");
    }
    assert_eq!(pipeline.positions("stg").await?, before);
    Ok(())
}

async fn count_orders(pipeline: &Pipeline) -> Result<i64> {
    pipeline
        .query_scalar("SELECT count(*) FROM stg.order_events")
        .await
}

/// Resets the position, and drains the records that the log still has.
async fn reset_and_drain(pipeline: &Pipeline, from: i64, to: i64) -> Result<()> {
    let before = pipeline.positions("stg").await?;
    let changes = format!("stg: partition {TRUNCATED}: {from} -> {to}\n");
    let dry_run = pipeline.run_command("reset-offsets", &["stg"], &["--to", "earliest"])?;
    assert_eq!(dry_run, format!("{changes}dry run: add --execute to apply\n"));
    assert_eq!(pipeline.positions("stg").await?, before);

    let done = pipeline.run_command("reset-offsets", &["stg"], &["--to", "earliest", "--execute"])?;
    assert_eq!(done, changes);
    let mut after = before;
    after.insert(TRUNCATED, to);
    assert_eq!(pipeline.positions("stg").await?, after);
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_out_of_the_log_range_stops_the_stage_until_it_is_reset() -> Result<()> {
    let (_services, pipeline, mut generator) = create_pipeline("out_of_range").await?;
    send_orders(&pipeline, &mut generator, 60, None).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    // Before the log start: retention was faster than the stage. 15 records are lost, 5 remain.
    send_orders(&pipeline, &mut generator, 60, None).await?;
    pipeline
        .delete_records(pipeline.source_topic(), TRUNCATED, 35)
        .await?;
    for _ in 0..2 {
        let offsets = ["the position is 20", "the log holds 35 to 40"];
        assert_stops(&pipeline, pipeline.start_worker(&["stg"])?, &offsets).await?;
    }
    reset_and_drain(&pipeline, 20, 35).await?;
    assert_eq!(count_orders(&pipeline).await?, 120 - 15);

    // After the log end: the topic was recreated, or the log was truncated.
    sqlx::query("UPDATE streamstage.position SET next_offset = 70 WHERE topic = $1 AND partition = $2")
        .bind(pipeline.source_topic())
        .bind(TRUNCATED)
        .execute(pipeline.pool())
        .await?;
    send_orders(&pipeline, &mut generator, 9, None).await?;
    let offsets = ["the position is 70", "the log holds 35 to 43"];
    assert_stops(&pipeline, pipeline.start_worker(&["stg"])?, &offsets).await?;
    // The log grows past the position. The records between 43 and 70 must not be skipped.
    send_orders(&pipeline, &mut generator, 40, Some(TRUNCATED)).await?;
    assert_stops(&pipeline, pipeline.start_worker(&["stg"])?, &offsets).await?;
    reset_and_drain(&pipeline, 70, 35).await?;
    assert_eq!(count_orders(&pipeline).await?, 169 - 15);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_records_ahead_of_a_running_worker_stops_it() -> Result<()> {
    let (_services, pipeline, mut generator) = create_pipeline("truncated_while_running").await?;
    send_orders(&pipeline, &mut generator, 30, None).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;

    // The pending fetch request is answered with the first record; all later ones are deleted.
    worker.signal("STOP")?;
    send_orders(&pipeline, &mut generator, 1, Some(TRUNCATED)).await?;
    send_orders(&pipeline, &mut generator, 20, Some(TRUNCATED)).await?;
    pipeline
        .delete_records(pipeline.source_topic(), TRUNCATED, 31)
        .await?;
    worker.signal("CONT")?;
    let (_, line) = worker.wait_for_log("OffsetOutOfRange").await?;
    let (status, log) = worker.wait_exit().await?;
    ensure!(
        status.code() == Some(1),
        "the worker exited with {status}: {line}"
    );
    ensure!(
        log.contains(pipeline.source_topic()),
        "the error does not name the topic: {log}"
    );

    let positions = pipeline.positions("stg").await?;
    let position = *positions.get(&TRUNCATED).context("no position")?;
    ensure!((10..31).contains(&position), "the position changed to {position}");
    reset_and_drain(&pipeline, position, 31).await?;
    assert_eq!(count_orders(&pipeline).await?, 30 + (position - 10));
    Ok(())
}
