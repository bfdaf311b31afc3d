//! Pending orders and dead letters belong to the topic and the warehouse: a stage with another consumer group takes over
//! those of the stage that it replaces.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, start_services, wait_until};
use e2e::services::Services;

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
const WITHHELD: usize = 60;
const PENDING: &str = "SELECT count(*) FROM stg.pending_enrichment";

fn generate_orders(count: usize) -> (Generator, Vec<Message>) {
    let mut generator = Generator::new(&Settings {
        seed: 17,
        bad: 0.05,
        ..Settings::default()
    });
    let messages = generator.history(count).collect();
    (generator, messages)
}

/// Pipeline with pending orders, and the rows that it should have in the end.
async fn create_pipeline(
    services: &Services,
    name: &str,
    settings: &str,
) -> Result<(Pipeline, Generator, Pipeline)> {
    let (generator, messages) = generate_orders(150);
    let reference = Pipeline::create(services, &format!("{name}_kept"), PARTITIONS).await?;
    reference.load_reference_data(&generator, 0).await?;
    reference.produce(1, messages.iter().cloned()).await?;
    let worker = reference.start_worker(&[])?;
    reference.wait_drained(DEADLINE).await?;
    worker.stop().await?;

    let mut pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.edit("  referenceData:\n", &format!("  referenceData:\n{settings}"))?;
    pipeline.load_reference_data(&generator, WITHHELD).await?;
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    if !settings.is_empty() {
        pipeline.wait_drained(DEADLINE).await?;
    }
    worker.stop().await?;
    Ok((pipeline, generator, reference))
}

/// Creates the stages again in another namespace, so that every consumer group has another name.
fn move_to_another_namespace(pipeline: &mut Pipeline) -> Result<()> {
    let namespace = format!("namespace: {}", pipeline.name());
    pipeline.edit(&namespace, &format!("{namespace}-moved"))
}

/// Tables with rows by group: each group has its own tag rules.
const BY_GROUP: [&str; 2] = ["streamstage.dead_letter", "cdm.category_thresholds"];

async fn wait_same_rows(pipeline: &Pipeline, reference: &Pipeline) -> Result<()> {
    let mut expected = reference.row_digests().await?;
    expected.retain(|table, _| !BY_GROUP.contains(&table.as_str()));
    wait_until(
        "the rows are those of the undisturbed pipeline",
        DEADLINE,
        || async {
            let mut rows = pipeline.row_digests().await?;
            rows.retain(|table, _| !BY_GROUP.contains(&table.as_str()));
            Ok(rows == expected)
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_group_takes_over_pending_orders() -> Result<()> {
    let services = start_services().await?;
    let (mut pipeline, generator, reference) = Box::pin(create_pipeline(&services, "moved", "")).await?;
    let pending: i64 = pipeline.query_scalar(PENDING).await?;
    ensure!(pending > 0, "no order is pending");
    let dead_letters: i64 = pipeline
        .query_scalar("SELECT count(*) FROM streamstage.dead_letter")
        .await?;
    ensure!(dead_letters > 0, "no record is a dead letter");

    move_to_another_namespace(&mut pipeline)?;
    pipeline.load_reference_data(&generator, 0).await?;
    // Two groups at once must not produce an order twice.
    let namespace = format!("namespace: {}-moved", pipeline.name());
    let first = pipeline.start_worker(&[])?;
    // The first worker has read the file before it is edited.
    first.wait_for_log("stage started").await?;
    pipeline.edit(&namespace, &format!("{namespace}-again"))?;
    let second = pipeline.start_worker(&[])?;
    wait_same_rows(&pipeline, &reference).await?;
    for worker in [first, second] {
        ensure!(worker.stop().await?.success(), "a worker did not stop properly");
    }
    assert_eq!(pipeline.query_scalar::<i64>(PENDING).await?, 0);
    // The moved groups have read the malformed records again.
    let again: i64 = pipeline
        .query_scalar("SELECT count(*) FROM streamstage.dead_letter")
        .await?;
    assert_eq!(again, dead_letters, "a record has more than one dead letter");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_group_redrives_dead_letters() -> Result<()> {
    let services = start_services().await?;
    let (mut pipeline, generator, reference) =
        Box::pin(create_pipeline(&services, "moved_dead", "    maxWait: 1s\n")).await?;
    let waiting = "SELECT count(*) FROM streamstage.dead_letter
        WHERE code = 'ReferenceDataMissing' AND redriven_at IS NULL";
    let missing: i64 = pipeline.query_scalar(waiting).await?;
    ensure!(missing > 0, "no order has a dead letter");

    move_to_another_namespace(&mut pipeline)?;
    pipeline.load_reference_data(&generator, 0).await?;
    let worker = pipeline.start_worker(&[])?;
    let flags = ["--code", "ReferenceDataMissing", "--execute"];
    pipeline.run_command("dead-letters redrive", &["stg"], &flags)?;
    assert_eq!(pipeline.query_scalar::<i64>(waiting).await?, 0);
    wait_same_rows(&pipeline, &reference).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}
