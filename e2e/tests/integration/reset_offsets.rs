//! `worker reset-offsets`: targets, selected partitions, and running workers.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Record, start_services};

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 2;
/// Timestamp of the first record of each partition; the next ones are a second later each.
const FIRST_TIMESTAMP_MS: i64 = 1_708_732_800_000;

#[tokio::test(flavor = "multi_thread")]
async fn positions_are_reset_to_an_offset_or_a_time_while_no_worker_runs() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "reset", PARTITIONS).await?;
    let mut generator = Generator::new(&Settings {
        seed: 19,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.live().take(20).collect();
    let records = messages.into_iter().zip(0_i64..).map(|(message, number)| Record {
        partition: i32::from(number % 2 == 1),
        timestamp: Some(FIRST_TIMESTAMP_MS + number / 2 * 1000),
        value: message.value,
        ..Record::default()
    });
    let records: Vec<Record> = records.collect();
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;

    let reset = |flags: &[&str]| pipeline.run_command("reset-offsets", &["stg"], flags);
    let running = reset(&["--to", "4", "--partition", "1", "--execute"]);
    let error = running.expect_err("a worker runs").to_string();
    ensure!(error.contains("1 workers of the consumer group"), "{error}");
    let dry_run = reset(&["--to", "4", "--partition", "1"])?;
    assert_eq!(
        dry_run,
        "stg: partition 1: 10 -> 4\ndry run: add --execute to apply\n"
    );
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    assert_eq!(pipeline.positions("stg").await?, [(0, 10), (1, 10)].into());

    let in_range = reset(&["--to", "earliest", "--execute"])?;
    ensure!(in_range.contains("every position is in range"), "{in_range}");
    reset(&["--to", "4", "--partition", "1", "--execute"])?;
    assert_eq!(pipeline.positions("stg").await?, [(0, 10), (1, 4)].into());
    reset(&["--to", "2024-02-24T00:00:07Z", "--all", "--execute"])?;
    assert_eq!(pipeline.positions("stg").await?, [(0, 7), (1, 7)].into());
    reset(&["--to", "2999-01-01T00:00:00Z", "--partition", "0,1", "--execute"])?;
    assert_eq!(pipeline.positions("stg").await?, [(0, 10), (1, 10)].into());
    for (target, partition, part) in [("11", "0", "0 to 10"), ("4", "7", "partition 7")] {
        let rejected = reset(&["--to", target, "--partition", partition, "--execute"]);
        let error = rejected.expect_err("not in the log").to_string();
        ensure!(error.contains(part), "{error}");
    }
    assert_eq!(pipeline.positions("stg").await?, [(0, 10), (1, 10)].into());

    // The records that are read again change nothing.
    reset(&["--to", "earliest", "--all", "--execute"])?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    let orders = "SELECT count(*) FROM stg.order_events";
    assert_eq!(pipeline.query_scalar::<i64>(orders).await?, 20);
    Ok(())
}
