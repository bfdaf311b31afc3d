//! Start offsets: `startFrom` decides the first start of a group, and a partition that appears later is read from its
//! beginning.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Record, start_services, wait_until};
use e2e::services::Services;

const DEADLINE: Duration = Duration::from_mins(2);

/// Creates a pipeline whose stage `stg` starts at `start_from`.
async fn create_pipeline(
    name: &str,
    partitions: i32,
    start_from: &str,
) -> Result<(Services, Pipeline, Generator)> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, name, partitions).await?;
    let topic = format!("topic: {}\n", pipeline.source_topic());
    pipeline.edit(&topic, &format!("{topic}    startFrom: {start_from}\n"))?;
    let generator = Generator::new(&Settings {
        seed: 17,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    Ok((services, pipeline, generator))
}

async fn send_orders(
    pipeline: &Pipeline,
    generator: &mut Generator,
    partition: i32,
    count: usize,
) -> Result<()> {
    let messages: Vec<Message> = generator.live().take(count).collect();
    let records = messages.into_iter().map(|message| Record {
        partition,
        value: message.value,
        ..Record::default()
    });
    pipeline
        .send(pipeline.source_topic(), &records.collect::<Vec<_>>())
        .await
}

async fn wait_positions(pipeline: &Pipeline, count: usize) -> Result<BTreeMap<i32, i64>> {
    wait_until("every partition has a position", DEADLINE, || async {
        Ok(pipeline.positions("stg").await?.len() == count)
    })
    .await?;
    pipeline.positions("stg").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_added_later_is_read_from_its_beginning() -> Result<()> {
    for start_from in ["Latest", "2999-01-01T00:00:00Z"] {
        let (_services, pipeline, mut generator) = create_pipeline("added", 1, start_from).await?;
        send_orders(&pipeline, &mut generator, 0, 5).await?;
        let worker = pipeline.start_worker(&["stg"])?;
        assert_eq!(wait_positions(&pipeline, 1).await?, BTreeMap::from([(0, 5)]));
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");

        pipeline.add_partitions(pipeline.source_topic(), 2).await?;
        send_orders(&pipeline, &mut generator, 1, 4).await?;
        let worker = pipeline.start_worker(&["stg"])?;
        pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");
        let orders: i64 = pipeline
            .query_scalar("SELECT count(*) FROM stg.order_events")
            .await?;
        assert_eq!(orders, 4, "{start_from}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_start_a_group_at_once_start_every_partition_at_start_from() -> Result<()> {
    const PARTITIONS: i32 = 6;
    let (_services, pipeline, mut generator) = create_pipeline("at_once", PARTITIONS, "Latest").await?;
    for partition in 0..PARTITIONS {
        send_orders(&pipeline, &mut generator, partition, 3).await?;
    }
    let workers = [pipeline.start_worker(&["stg"])?, pipeline.start_worker(&["stg"])?];
    let positions = wait_positions(&pipeline, usize::try_from(PARTITIONS)?).await?;
    // Both are members of the group, so each partition was assigned once more.
    for worker in &workers {
        worker.wait_for_log("partitions assigned").await?;
    }
    assert_eq!(
        positions,
        (0..PARTITIONS).map(|partition| (partition, 3)).collect()
    );
    let orders: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.order_events")
        .await?;
    assert_eq!(orders, 0);
    for worker in workers {
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    }
    Ok(())
}
