//! Several workers of one stage: the CPU time of a record, and deadlocks.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::machine::{cpu_time, tree_cpu_time};
use super::measurement::{server_process, wait_beyond};
use super::report::{Goal, Report};
use super::throughput::create_pipeline;
use crate::pipeline::{Pipeline, Record, Worker, wait_until};
use crate::services::Services;

const TIMEOUT: Duration = Duration::from_mins(1);
/// Partitions and workers.
const CONFIGURATIONS: [(i32, usize); 3] = [(1, 1), (4, 2), (12, 4)];

/// Measures `stg` and `dds` with one, two and four workers, which read the same records.
///
/// # Errors
/// When a stage does not finish.
pub(super) async fn measure(services: &Services, orders: usize, report: &mut Report) -> Result<()> {
    let (source, messages) = create_pipeline(services, "bench_scale", orders).await?;
    source.produce(1, messages.iter().cloned()).await?;
    let worker = source.start_worker(&["stg"])?;
    source.wait_stages_drained(&["stg"], TIMEOUT * 2).await?;
    worker.stop().await?;
    let events = source.read_topic(source.source_topic())?;
    let enriched = source.read_topic(source.stg_topic())?;
    for (stage, records) in [("stg", &events), ("dds", &enriched)] {
        let mut first = None;
        for (partitions, workers) in CONFIGURATIONS {
            let (micros, deadlocks) = measure_workers(services, stage, records, partitions, workers).await?;
            let name = format!("{stage}, {workers} workers on {partitions} partitions");
            report.add_row(&format!("{name}, CPU us per record"), micros, Goal::default());
            report.add_row(&format!("{name}, deadlocks"), deadlocks, Goal::at_most(0.0));
            let alone = *first.get_or_insert(micros);
            if workers > 1 {
                let row = format!("{name}, CPU / one worker");
                report.add_row(&row, micros / alone, Goal::at_most(1.1));
            }
        }
    }
    Ok(())
}

/// CPU time of workers and PostgreSQL per record, in microseconds, and the number of deadlocks.
async fn measure_workers(
    services: &Services,
    stage: &str,
    records: &[Record],
    partitions: i32,
    workers: usize,
) -> Result<(f64, f64)> {
    let (pipeline, _) = create_pipeline(services, "bench_workers", 1).await?;
    let topic = pipeline.input_topic(stage)?.to_owned();
    pipeline.recreate_topic(&topic, partitions).await?;
    let workers: Vec<Worker> = (0..workers)
        .map(|_| pipeline.start_worker(&[stage]))
        .collect::<Result<_>>()?;
    wait_balanced(&workers, stage, partitions).await?;
    let start = cpu_of(&pipeline, &workers).await?;
    let dealt: Vec<Record> = records
        .iter()
        .zip((0..partitions).cycle())
        .map(|(record, partition)| Record {
            partition,
            ..record.clone()
        })
        .collect();
    for chunk in dealt.chunks(5000) {
        pipeline.send(&topic, chunk).await?;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 records")]
    let count = records.len() as f64;
    wait_beyond(&pipeline, stage, count - 1.0).await?;
    let cpu = cpu_of(&pipeline, &workers).await?.saturating_sub(start);
    let deadlocks: i64 = pipeline
        .query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .await?;
    for worker in workers {
        ensure!(worker.stop().await?.success(), "a worker of {stage} failed");
    }
    Ok((
        cpu.as_secs_f64() * 1e6 / count,
        f64::from(i32::try_from(deadlocks)?),
    ))
}

async fn cpu_of(pipeline: &Pipeline, workers: &[Worker]) -> Result<Duration> {
    let mut sum = tree_cpu_time(server_process(pipeline.pool()).await?)?;
    for worker in workers {
        sum += cpu_time(worker.pid())?;
    }
    Ok(sum)
}

/// Waits until the workers share the partitions evenly.
async fn wait_balanced(workers: &[Worker], stage: &str, partitions: i32) -> Result<()> {
    let share = i64::from(partitions) / i64::try_from(workers.len())?;
    wait_until("the workers share the partitions", TIMEOUT, async || {
        for worker in workers {
            let (_, body) = worker.http_get("/readyz").await?;
            let health: Value = serde_json::from_str(&body)?;
            if health[stage]["partitions"] != share {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}
