//! Measurement of one run: records per second, CPU time, WAL and memory.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the clock and PostgreSQL"
)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use sqlx::PgPool;

use super::machine;
use crate::pipeline::Pipeline;

/// Interval between two reads of the positions.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Time that a stage may take for its records.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Cost of the records of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Measurement {
    /// Number of records.
    pub records: f64,
    /// Seconds from the first commit to the last one.
    pub seconds: f64,
    /// CPU time of the worker, in microseconds per record.
    pub worker_micros: f64,
    /// CPU time of PostgreSQL, in microseconds per record.
    pub postgres_micros: f64,
    /// WAL bytes per record.
    pub wal_bytes: f64,
    /// Growth of the database, in bytes per record.
    pub table_bytes: f64,
    /// Maximum of the worker's resident memory, in bytes.
    pub peak_rss_bytes: f64,
}

impl Measurement {
    /// Records per second.
    pub(super) fn rate(&self) -> f64 {
        self.records / self.seconds
    }
}

/// Median of the rounds, by `rate`.
///
/// # Errors
/// When there is no round.
pub(super) fn median<T: Copy>(mut rounds: Vec<T>, rate: impl Fn(&T) -> f64) -> Result<T> {
    ensure!(!rounds.is_empty(), "no round");
    rounds.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    Ok(rounds[rounds.len() / 2])
}

/// Counters of PostgreSQL and of a worker at an instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    at: Instant,
    worker: Duration,
    postgres: Duration,
    wal_bytes: f64,
    database_bytes: f64,
}

impl Counters {
    /// Reads the counters; `worker` is the process id of a worker, if one runs.
    ///
    /// # Errors
    /// When PostgreSQL does not answer, or the worker has exited.
    pub(super) async fn read(pool: &PgPool, worker: Option<u32>) -> Result<Self> {
        let (wal_bytes, database_bytes): (f64, f64) = sqlx::query_as(
            "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, pg_database_size(current_database())::float8",
        )
        .fetch_one(pool)
        .await?;
        let postmaster = server_process(pool).await?;
        Ok(Self {
            at: Instant::now(),
            worker: worker.map(machine::cpu_time).transpose()?.unwrap_or_default(),
            postgres: machine::tree_cpu_time(postmaster)?,
            wal_bytes,
            database_bytes,
        })
    }

    /// Cost of `records` records since `self`.
    pub(super) fn cost_until(&self, end: &Self, records: f64, peak_rss_bytes: f64) -> Measurement {
        let micros = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / records;
        Measurement {
            records,
            seconds: (end.at - self.at).as_secs_f64(),
            worker_micros: micros(self.worker, end.worker),
            postgres_micros: micros(self.postgres, end.postgres),
            wal_bytes: (end.wal_bytes - self.wal_bytes) / records,
            table_bytes: (end.database_bytes - self.database_bytes) / records,
            peak_rss_bytes,
        }
    }
}

/// Process id of the server: the parent of each backend.
///
/// # Errors
/// When PostgreSQL does not answer, or runs on another machine.
pub(super) async fn server_process(pool: &PgPool) -> Result<u32> {
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(pool)
        .await?;
    machine::parent(backend.unsigned_abs())
}

/// Runs a stage until its topic is read, and measures it from its first commit to its last one. The start of the worker,
/// and its first batch, do not count.
///
/// # Errors
/// When the stage does not finish, or its worker fails.
pub(super) async fn measure_stage(pipeline: &Pipeline, stage: &str) -> Result<Measurement> {
    let end = end_of(pipeline, stage)?;
    let before = total(pipeline.positions(stage).await?.into_values());
    let worker = pipeline.start_worker(&[stage])?;
    let first = wait_beyond(pipeline, stage, before).await?;
    let start = Counters::read(pipeline.pool(), Some(worker.pid())).await?;
    wait_beyond(pipeline, stage, end - 1.0).await?;
    let finish = Counters::read(pipeline.pool(), Some(worker.pid())).await?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let peak_rss_bytes = worker.peak_rss_bytes()? as f64;
    let measured = start.cost_until(&finish, end - first, peak_rss_bytes);
    ensure!(worker.stop().await?.success(), "the worker of {stage} failed");
    Ok(measured)
}

/// Sum of the end offsets of the topic that a stage reads.
///
/// # Errors
/// When Kafka does not answer.
pub(super) fn end_of(pipeline: &Pipeline, stage: &str) -> Result<f64> {
    let ends = pipeline.end_offsets(pipeline.input_topic(stage)?)?;
    Ok(total(ends.into_values()))
}

/// Waits until the positions of a stage are beyond `position` in total, and returns them.
///
/// # Errors
/// When that takes longer than [`TIMEOUT`].
pub(super) async fn wait_beyond(pipeline: &Pipeline, stage: &str, position: f64) -> Result<f64> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let current = total(pipeline.positions(stage).await?.into_values());
        if current > position {
            return Ok(current);
        }
        ensure!(
            Instant::now() < deadline,
            "{stage} is at {current}, not beyond {position}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Sum of offsets.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52 records")]
fn total(offsets: impl Iterator<Item = i64>) -> f64 {
    offsets.sum::<i64>() as f64
}
