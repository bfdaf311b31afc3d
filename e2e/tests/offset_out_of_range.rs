//! A position that the log does not hold stops the stage, with the numbers; it goes on by an instruction alone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Record, Worker, services};

const WITHIN: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// The partition whose log is cut.
const CUT: i32 = 1;

/// A pipeline, and a generator whose every message is an order of its own.
async fn pipeline(name: &str) -> Result<(e2e::services::Services, Pipeline, Generator)> {
    let services = services().await?;
    let pipeline = Pipeline::create(&services, name, PARTITIONS).await?;
    let generator = Generator::new(&Settings {
        seed: 8,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 0).await?;
    Ok((services, pipeline, generator))
}

/// Sends the next orders to every partition in turn, or to one.
async fn send(pipeline: &Pipeline, generator: &mut Generator, count: usize, to: Option<i32>) -> Result<()> {
    let partitions = (0..PARTITIONS).cycle().map(|partition| to.unwrap_or(partition));
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

/// The worker ends with the error, which names the place and the numbers, and has moved nothing.
async fn stops(pipeline: &Pipeline, worker: Worker, numbers: &[&str]) -> Result<()> {
    let before = pipeline.positions("stg").await?;
    let (_, line) = worker.logged("OffsetOutOfRange").await?;
    let (status, log) = worker.ended().await?;
    ensure!(status.code() == Some(1), "the worker ends with {status}");
    let place = format!("{}, partition {CUT}", pipeline.source_topic());
    for part in [place.as_str(), "worker reset-offsets"].iter().chain(numbers) {
        ensure!(log.contains(part), "nothing says {part}: {line}");
    }
    assert_eq!(pipeline.positions("stg").await?, before);
    Ok(())
}

async fn orders(pipeline: &Pipeline) -> Result<i64> {
    pipeline.query("SELECT count(*) FROM stg.order_events").await
}

/// Mends it, and shows that what the log still holds gets through.
async fn mend(pipeline: &Pipeline, from: i64, to: i64) -> Result<()> {
    let before = pipeline.positions("stg").await?;
    let moves = format!("stg: partition {CUT}: {from} -> {to}\n");
    let shown = pipeline.command("reset-offsets", &["stg"], &["--to", "earliest"])?;
    assert_eq!(
        shown,
        format!("{moves}nothing is changed yet: add --execute to do it\n")
    );
    assert_eq!(pipeline.positions("stg").await?, before);

    let done = pipeline.command("reset-offsets", &["stg"], &["--to", "earliest", "--execute"])?;
    assert_eq!(done, moves);
    let mut after = before;
    after.insert(CUT, to);
    assert_eq!(pipeline.positions("stg").await?, after);
    let worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_log_has_lost_stops_the_stage_until_it_is_reset() -> Result<()> {
    let (_services, pipeline, mut generator) = pipeline("out_of_range").await?;
    send(&pipeline, &mut generator, 60, None).await?;
    let worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    // Before its start: retention was faster than the stage. 15 records are lost, 5 are left.
    send(&pipeline, &mut generator, 60, None).await?;
    pipeline.delete_records(pipeline.source_topic(), CUT, 35).await?;
    for _ in 0..2 {
        let numbers = ["the position is 20", "the log holds 35 to 40"];
        stops(&pipeline, pipeline.worker(&["stg"])?, &numbers).await?;
    }
    mend(&pipeline, 20, 35).await?;
    assert_eq!(orders(&pipeline).await?, 120 - 15);

    // Past its end: the topic was made anew, or the log was cut.
    sqlx::query("UPDATE streamstage.position SET next_offset = 70 WHERE topic = $1 AND partition = $2")
        .bind(pipeline.source_topic())
        .bind(CUT)
        .execute(pipeline.pool())
        .await?;
    send(&pipeline, &mut generator, 9, None).await?;
    let numbers = ["the position is 70", "the log holds 35 to 43"];
    stops(&pipeline, pipeline.worker(&["stg"])?, &numbers).await?;
    mend(&pipeline, 70, 35).await?;
    assert_eq!(orders(&pipeline).await?, 129 - 15);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_before_a_running_worker_stops_it() -> Result<()> {
    let (_services, pipeline, mut generator) = pipeline("cut_while_running").await?;
    send(&pipeline, &mut generator, 30, None).await?;
    let worker = pipeline.worker(&["stg"])?;
    pipeline.stages_drained(&["stg"], WITHIN).await?;

    // The request that waits at the broker is answered with the first record; all that follows is lost.
    worker.signal("STOP")?;
    send(&pipeline, &mut generator, 1, Some(CUT)).await?;
    send(&pipeline, &mut generator, 20, Some(CUT)).await?;
    pipeline.delete_records(pipeline.source_topic(), CUT, 31).await?;
    worker.signal("CONT")?;
    let (_, line) = worker.logged("OffsetOutOfRange").await?;
    let (status, log) = worker.ended().await?;
    ensure!(status.code() == Some(1), "the worker ends with {status}: {line}");
    ensure!(
        log.contains(pipeline.source_topic()),
        "no word of the topic: {log}"
    );

    let positions = pipeline.positions("stg").await?;
    let position = *positions.get(&CUT).context("no position")?;
    ensure!((10..31).contains(&position), "the position moved to {position}");
    mend(&pipeline, position, 31).await?;
    assert_eq!(orders(&pipeline).await?, 30 + (position - 10));
    Ok(())
}
