//! A topic that was deleted and created again stops its stage, which continues only after `worker reset-offsets`.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Record, Worker, start_services, wait_until};
use e2e::services::Services;

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 2;
/// Records per partition before the topic is recreated.
const BEFORE: usize = 5;

async fn create_pipeline(name: &str) -> Result<(Services, Pipeline, Generator)> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, name, PARTITIONS).await?;
    let generator = Generator::new(&Settings {
        seed: 16,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    Ok((services, pipeline, generator))
}

/// Sends this number of orders to each partition.
async fn send_orders(pipeline: &Pipeline, generator: &mut Generator, per_partition: usize) -> Result<()> {
    let partitions = (0..PARTITIONS).cycle();
    let count = per_partition * usize::try_from(PARTITIONS)?;
    let messages: Vec<Message> = generator.live().take(count).collect();
    let records = messages.into_iter().zip(partitions);
    let records: Vec<Record> = records
        .map(|(message, partition)| Record {
            partition,
            value: message.value,
            ..Record::default()
        })
        .collect();
    pipeline.send(pipeline.source_topic(), &records).await
}

/// The stage stops: `/readyz` and the log have the reason, and the positions are unchanged.
async fn assert_stops(pipeline: &Pipeline, worker: Worker) -> Result<()> {
    let before = pipeline.positions("stg").await?;
    worker.wait_for_log("stage stopped").await?;
    let (status, body) = worker.http_get("/readyz").await?;
    ensure!(status == 503, "{status}: {body}");
    let (exit, log) = worker.wait_exit().await?;
    ensure!(exit.code() == Some(1), "the worker exited with {exit}: {log}");
    for text in [body, log] {
        let location = format!("TopicRecreated: {}", pipeline.source_topic());
        for part in [location.as_str(), "worker reset-offsets"] {
            ensure!(text.contains(part), "the reason does not contain {part}: {text}");
        }
    }
    assert_eq!(pipeline.positions("stg").await?, before);
    Ok(())
}

async fn count_orders(pipeline: &Pipeline) -> Result<i64> {
    pipeline
        .query_scalar("SELECT count(*) FROM stg.order_events")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_recreated_while_no_worker_ran_stops_the_stage_until_a_reset() -> Result<()> {
    let (_services, pipeline, mut generator) = create_pipeline("recreated").await?;
    send_orders(&pipeline, &mut generator, BEFORE).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    // More records than the position: the position is in the new log.
    pipeline
        .recreate_topic(pipeline.source_topic(), PARTITIONS)
        .await?;
    send_orders(&pipeline, &mut generator, 2 * BEFORE).await?;
    for _ in 0..2 {
        assert_stops(&pipeline, pipeline.start_worker(&["stg"])?).await?;
    }
    let stopped = "SELECT count(*) FROM streamstage.position WHERE stop_reason = 'TopicRecreated'";
    assert_eq!(
        pipeline.query_scalar::<i64>(stopped).await?,
        i64::from(PARTITIONS)
    );

    let changes = format!("stg: partition 0: {BEFORE} -> 0\nstg: partition 1: {BEFORE} -> 0\n");
    let reset = pipeline.run_command("reset-offsets", &["stg"], &["--to", "earliest", "--execute"])?;
    assert_eq!(reset, changes);
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    assert_eq!(
        count_orders(&pipeline).await?,
        i64::try_from(3 * BEFORE)? * i64::from(PARTITIONS)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_recreated_under_a_running_worker_stops_it_before_a_batch_is_stored() -> Result<()> {
    // With no record after the position, the worker would wait at the end of the new log.
    for after in [BEFORE, 2 * BEFORE] {
        let (_services, pipeline, mut generator) = create_pipeline("recreated_running").await?;
        send_orders(&pipeline, &mut generator, BEFORE).await?;
        let worker = pipeline.start_worker(&["stg"])?;
        pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
        let stored = count_orders(&pipeline).await?;
        // The worker does not notice that the topic is missing meanwhile.
        worker.signal("STOP")?;
        pipeline
            .recreate_topic(pipeline.source_topic(), PARTITIONS)
            .await?;
        send_orders(&pipeline, &mut generator, after).await?;
        worker.signal("CONT")?;
        assert_stops(&pipeline, worker).await?;
        assert_eq!(
            count_orders(&pipeline).await?,
            stored,
            "{after} records per partition"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_never_stores_a_position_in_another_log() -> Result<()> {
    let (_services, pipeline, mut generator) = create_pipeline("fenced").await?;
    send_orders(&pipeline, &mut generator, BEFORE).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    let stored = count_orders(&pipeline).await?;
    // As a reset by another worker's command, after the topic was recreated.
    sqlx::query("UPDATE streamstage.position SET topic_id = gen_random_uuid()")
        .execute(pipeline.pool())
        .await?;
    send_orders(&pipeline, &mut generator, BEFORE).await?;
    assert_stops(&pipeline, worker).await?;
    assert_eq!(count_orders(&pipeline).await?, stored);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_of_a_previous_version_get_the_topic_id_at_the_next_start() -> Result<()> {
    let (_services, pipeline, mut generator) = create_pipeline("adopted").await?;
    send_orders(&pipeline, &mut generator, BEFORE).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    let unknown = "'00000000-0000-0000-0000-000000000000'";
    let forget = format!("UPDATE streamstage.position SET topic_id = {unknown}");
    sqlx::query(sqlx::AssertSqlSafe(forget))
        .execute(pipeline.pool())
        .await?;

    let worker = pipeline.start_worker(&["stg"])?;
    let count = format!("SELECT count(*) FROM streamstage.position WHERE topic_id <> {unknown}");
    wait_until("the positions have a topic ID", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(&count).await? == i64::from(PARTITIONS))
    })
    .await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    pipeline
        .recreate_topic(pipeline.source_topic(), PARTITIONS)
        .await?;
    send_orders(&pipeline, &mut generator, BEFORE).await?;
    assert_stops(&pipeline, pipeline.start_worker(&["stg"])?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_one_offset_in_two_logs_are_both_stored() -> Result<()> {
    let (_services, pipeline, _) = create_pipeline("two_logs").await?;
    let send_bad = async |value: &str| {
        let record = Record {
            value: Some(value.as_bytes().to_vec()),
            ..Record::default()
        };
        pipeline.send(pipeline.source_topic(), &[record]).await
    };
    for value in ["first", "second"] {
        send_bad(value).await?;
        let worker = pipeline.start_worker(&["stg"])?;
        if value == "second" {
            assert_stops(&pipeline, worker).await?;
            pipeline.run_command("reset-offsets", &["stg"], &["--to", "earliest", "--execute"])?;
            let worker = pipeline.start_worker(&["stg"])?;
            pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
            ensure!(worker.stop().await?.success(), "the worker did not stop properly");
        } else {
            pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
            ensure!(worker.stop().await?.success(), "the worker did not stop properly");
            pipeline
                .recreate_topic(pipeline.source_topic(), PARTITIONS)
                .await?;
        }
    }
    let stored = "SELECT string_agg(convert_from(value, 'UTF8'), ',' ORDER BY dead_lettered_at) || ' '
                  || count(DISTINCT topic_id) || ' ' || count(DISTINCT \"offset\")
                  FROM streamstage.dead_letter
                  WHERE topic_id <> '00000000-0000-0000-0000-000000000000'";
    assert_eq!(pipeline.query_scalar::<String>(stored).await?, "first,second 2 1");
    Ok(())
}
