//! Copies on the dead letter topic: a copy that cannot be produced delays no record, is reported, and is produced later.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pipeline::{Pipeline, Record, Worker, start_services, wait_until};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_mins(2);

/// A malformed record.
fn malformed(key: Option<&[u8]>, value: &[u8]) -> Record {
    Record {
        key: key.map(<[u8]>::to_vec),
        value: Some(value.to_vec()),
        ..Record::default()
    }
}

/// Waits until `/readyz` reports a copy that cannot be produced, and returns its entry. The stage is ready nevertheless.
async fn wait_copy_error(worker: &Worker) -> Result<Value> {
    let copies = || async {
        let (status, body) = worker.http_get("/readyz").await?;
        let body: Value = serde_json::from_str(&body)?;
        anyhow::Ok((status, body["stg"]["dead_letter_copies"].clone()))
    };
    wait_until("a copy fails", DEADLINE, || async {
        Ok(copies().await?.1["error"].is_string())
    })
    .await?;
    let (status, reported) = copies().await?;
    ensure!(status == 200, "not ready: {reported}");
    Ok(reported)
}

/// Values of the dead letter topic, sorted.
fn copied_values(pipeline: &Pipeline, topic: &str) -> Result<Vec<Vec<u8>>> {
    let copies = pipeline.read_topic(topic)?.into_iter();
    let mut values: Vec<Vec<u8>> = copies.filter_map(|copy| copy.value).collect();
    values.sort();
    Ok(values)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_dead_letter_topic_delays_no_record_and_gets_its_copies_later() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "no_dlq", 1).await?;
    let missing = format!("{}.missing", pipeline.source_topic());
    let topic = format!("{missing:?}");
    pipeline.edit(
        "layer: stg\n",
        &format!("layer: stg\n  deadLetter: {{topic: {topic}}}\n"),
    )?;
    let worker = pipeline.start_worker(&["stg"])?;
    let records = [malformed(None, b"1"), malformed(None, b"2")];
    pipeline.send(pipeline.source_topic(), &records).await?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;

    let reported = wait_copy_error(&worker).await?;
    assert_eq!(reported["pending"], 2, "{reported}");
    ensure!(
        reported["error"]
            .as_str()
            .is_some_and(|error| error.contains(&missing)),
        "{reported}"
    );
    let (_, metrics) = worker.http_get("/metrics").await?;
    for expected in [
        "streamstage_worker_pending_dead_letter_copies{stage=\"stg\"} 2\n",
        "streamstage_worker_dead_letter_copy_failures_total{stage=\"stg\"} ",
    ] {
        ensure!(metrics.contains(expected), "no {expected:?} in {metrics}");
    }
    // Other records are processed meanwhile.
    pipeline
        .send(pipeline.source_topic(), &[malformed(None, b"3")])
        .await?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;

    services.create_topic(&missing, 1).await?;
    pipeline.wait_dead_letters_copied(DEADLINE).await?;
    assert_eq!(copied_values(&pipeline, &missing)?, [b"1", b"2", b"3"]);
    wait_until("nothing is reported any more", DEADLINE, || async {
        Ok(worker
            .http_get("/readyz")
            .await?
            .1
            .contains("\"dead_letter_copies\":{\"pending\":0,\"error\":null}"))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_its_topic_rejects_delays_no_other_copy() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "bad_dlq", 1).await?;
    let topic = format!("{}.dlq", pipeline.source_topic());
    pipeline
        .set_topic_config(&topic, "cleanup.policy", "compact")
        .await?;
    let records = [
        malformed(None, b"without a key"),
        malformed(Some(b"a"), b"with a key"),
    ];
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    let copies = async |expected: &[&[u8]]| {
        wait_until("the other copy is produced", DEADLINE, || async {
            Ok(copied_values(&pipeline, &topic)? == expected)
        })
        .await
    };
    copies(&[b"with a key"]).await?;
    let reported = wait_copy_error(&worker).await?;
    assert_eq!(reported["pending"], 1, "{reported}");

    pipeline
        .set_topic_config(&topic, "cleanup.policy", "delete")
        .await?;
    copies(&[b"with a key", b"without a key"]).await?;

    pipeline
        .set_topic_config(&topic, "max.message.bytes", "2000")
        .await?;
    let random: Vec<u8> = std::iter::repeat_with(rand::random).take(4000).collect();
    let records = [malformed(None, &random), malformed(None, b"small")];
    pipeline.send(pipeline.source_topic(), &records).await?;
    copies(&[b"small", b"with a key", b"without a key"]).await?;
    wait_copy_error(&worker).await?;
    let error: String = pipeline
        .query_scalar("SELECT copy_error FROM streamstage.dead_letter WHERE copied_at IS NULL")
        .await?;
    ensure!(error.contains("too large"), "{error}");

    pipeline
        .set_topic_config(&topic, "max.message.bytes", "1048588")
        .await?;
    pipeline.wait_dead_letters_copied(DEADLINE).await?;
    assert_eq!(copied_values(&pipeline, &topic)?.len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_cannot_be_stored_blocks_its_partition_only() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "no_row", 2).await?;
    let statements = [
        "CREATE FUNCTION streamstage.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'unknown'; END $$",
        "CREATE TRIGGER fails BEFORE INSERT ON streamstage.dead_letter FOR EACH ROW
         WHEN (NEW.partition = 0 AND NEW.\"offset\" = 1) EXECUTE FUNCTION streamstage.fails()",
    ];
    for statement in statements {
        sqlx::query(statement).execute(pipeline.pool()).await?;
    }
    let records: Vec<Record> = (0..8)
        .map(|number| Record {
            partition: number % 2,
            ..malformed(None, b"{")
        })
        .collect();
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_until(
        "partition 1 is processed, partition 0 to the record",
        DEADLINE,
        || async { Ok(pipeline.positions("stg").await? == [(0, 1), (1, 4)].into()) },
    )
    .await?;
    let (_, line) = worker.wait_for_log("partition blocked").await?;
    ensure!(line.contains("the dead letter cannot be stored"), "{line}");
    sqlx::query("DROP TRIGGER fails ON streamstage.dead_letter")
        .execute(pipeline.pool())
        .await?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    let letters: i64 = pipeline
        .query_scalar("SELECT count(*) FROM streamstage.dead_letter")
        .await?;
    assert_eq!(letters, 8);
    worker.stop().await.context("stop").map(drop)
}
