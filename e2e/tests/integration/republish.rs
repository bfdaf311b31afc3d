//! Messages that were lost between two layers are produced again from the stored versions, and the next layers have the
//! same rows as if nothing had been lost.
#![expect(clippy::disallowed_methods, reason = "edge: measures the rate of messages")]

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, start_services, wait_until};

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// Users without reference data at first: their orders are pending.
const WITHHELD: usize = 60;

fn generate_orders(count: usize) -> (Generator, Vec<Message>) {
    let mut generator = Generator::new(&Settings {
        seed: 16,
        bad: 0.02,
        ..Settings::default()
    });
    let messages = generator.history(count).collect();
    (generator, messages)
}

/// Runs the stages until they are drained.
async fn drain(pipeline: &Pipeline, stages: &[&str]) -> Result<()> {
    let worker = pipeline.start_worker(stages)?;
    pipeline.wait_stages_drained(stages, DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

fn messages_in(pipeline: &Pipeline, topic: &str) -> Result<i64> {
    Ok(pipeline.end_offsets(topic)?.values().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_after_the_topics_between_the_layers_were_recreated() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(400);
    let reference = Pipeline::create(&services, "lost_nothing", PARTITIONS).await?;
    reference.load_reference_data(&generator, 0).await?;
    reference.produce(1, messages.iter().cloned()).await?;
    drain(&reference, &["stg", "dds", "cdm"]).await?;
    reference.wait_drained(DEADLINE).await?;

    let pipeline = Pipeline::create(&services, "lost_all", PARTITIONS).await?;
    pipeline.load_reference_data(&generator, WITHHELD).await?;
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    let stored: i64 = pipeline
        .query_scalar(
            "SELECT (SELECT count(*) FROM stg.order_events) + (SELECT count(*) FROM stg.order_event_history)",
        )
        .await?;
    let pending: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.pending_enrichment")
        .await?;
    ensure!(pending > 0, "no order is pending");
    worker.stop().await?;
    pipeline.recreate_topic(pipeline.stg_topic(), PARTITIONS).await?;

    let counted = pipeline.run_command("republish", &["stg"], &["--all"])?;
    let to_produce = format!(
        "stg: {} versions to produce to {}\n",
        stored - pending,
        pipeline.stg_topic()
    );
    ensure!(
        counted.contains(&to_produce) && counted.contains("dry run"),
        "{counted}"
    );
    ensure!(
        counted.contains(&format!("{pending} versions pending")),
        "{counted}"
    );
    assert_eq!(
        messages_in(&pipeline, pipeline.stg_topic())?,
        0,
        "the dry run produced messages"
    );

    // The other layers run meanwhile, and the retry of the pending orders.
    let worker = pipeline.start_worker(&["stg", "dds"])?;
    let produced = pipeline.run_command("republish", &["stg"], &["--all", "--execute"])?;
    ensure!(produced.contains(" versions produced to "), "{produced}");
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_stages_drained(&["stg", "dds"], DEADLINE).await?;
    worker.stop().await?;

    pipeline.recreate_topic(pipeline.dds_topic(), PARTITIONS).await?;
    let produced = pipeline.run_command("republish", &["dds"], &["--all", "--execute"])?;
    ensure!(
        produced.contains(&format!("dds: {stored} versions produced")),
        "{produced}"
    );
    drain(&pipeline, &["cdm"]).await?;
    assert_eq!(pipeline.row_digests().await?, reference.row_digests().await?);

    // Everything is produced once more, and changes nothing.
    let worker = pipeline.start_worker(&[])?;
    pipeline.run_command("republish", &[], &["--all", "--execute"])?;
    ensure!(
        messages_in(&pipeline, pipeline.dds_topic())? > stored,
        "nothing was produced"
    );
    pipeline.wait_drained(DEADLINE).await?;
    worker.stop().await?;
    assert_eq!(pipeline.row_digests().await?, reference.row_digests().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_selected_by_id_and_time_and_produced_at_the_rate() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(60);
    let pipeline = Pipeline::create(&services, "selected", PARTITIONS).await?;
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.produce(1, messages.into_iter()).await?;
    drain(&pipeline, &["stg"]).await?;
    let (order, versions): (i64, i64) = sqlx::query_as(
        "SELECT object_id, count(*) FROM (
            SELECT object_id FROM stg.order_events UNION ALL SELECT object_id FROM stg.order_event_history
        ) AS stored GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1",
    )
    .fetch_one(pipeline.pool())
    .await?;
    let topic = pipeline.stg_topic();
    let before = messages_in(&pipeline, topic)?;
    let id = order.to_string();
    pipeline.run_command("republish", &["stg"], &["--id", &id, "--execute"])?;
    assert_eq!(messages_in(&pipeline, topic)?, before + versions);

    // The load dates of all versions are moved into the past, except for those of the order.
    for table in ["order_events", "order_event_history"] {
        let statement = format!("UPDATE stg.{table} SET load_dt = '2020-02-01' WHERE object_id <> {order}");
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(pipeline.pool())
            .await?;
    }
    for (flags, expected) in [
        (["--since", "2020-02-02T00:00:00Z"], versions),
        (["--until", "2020-02-02T00:00:00Z"], before - versions),
        (["--since", "2999-01-01T00:00:00Z"], 0),
    ] {
        let counted = pipeline.run_command("republish", &["stg"], &flags)?;
        ensure!(
            counted.contains(&format!("stg: {expected} versions to produce")),
            "{flags:?}: {counted}"
        );
    }

    // At one message per second, the others are not produced at once.
    let flags = ["--until", "2020-02-02T00:00:00Z", "--rate", "20", "--execute"];
    let start = std::time::Instant::now();
    pipeline.run_command("republish", &["stg"], &flags)?;
    let shortest = Duration::from_secs((before - versions).unsigned_abs() / 20);
    ensure!(
        start.elapsed() >= shortest,
        "{:?}, the rate needs {shortest:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_be_enriched_is_named_and_the_others_are_produced() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(60);
    let mut pipeline = Pipeline::create(&services, "not_enriched", PARTITIONS).await?;
    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 1s\n")?;
    pipeline.load_reference_data(&generator, WITHHELD).await?;
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_until(
        "the orders of unknown users are dead letters",
        DEADLINE,
        || async {
            pipeline.wait_caught_up("stg", DEADLINE).await?;
            Ok(pipeline
                .query_scalar::<i64>("SELECT count(*) FROM stg.pending_enrichment")
                .await?
                == 0)
        },
    )
    .await?;
    worker.stop().await?;
    let missing = "SELECT count(*) FROM streamstage.dead_letter WHERE code = 'ReferenceDataMissing'";
    let dead_letters: i64 = pipeline.query_scalar(missing).await?;
    ensure!(dead_letters > 0, "no user is unknown");
    let counted = pipeline.run_command("republish", &["stg"], &["--all", "--execute"])?;
    ensure!(
        counted.contains(&format!("{dead_letters} versions dead-lettered, left to redrive")),
        "{counted}"
    );

    sqlx::query("DELETE FROM streamstage.dead_letter")
        .execute(pipeline.pool())
        .await?;
    let before = messages_in(&pipeline, pipeline.stg_topic())?;
    let error = pipeline
        .run_command("republish", &["stg"], &["--all", "--execute"])
        .expect_err("reference data is missing");
    let output = format!("{error:#}");
    ensure!(output.contains("exit status: 1"), "{output}");
    for part in [
        "stg: order ",
        ": user ",
        &format!("{dead_letters} versions not produced: reference data missing"),
    ] {
        ensure!(output.contains(part), "{part}: {output}");
    }
    ensure!(
        messages_in(&pipeline, pipeline.stg_topic())? > before,
        "the others were not produced"
    );
    Ok(())
}
