//! Waits until a stage has drained its topic, with a progress bar on a terminal.
#![expect(clippy::disallowed_methods, reason = "edge: measures time")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::pipeline::Pipeline;

/// Interval between two polls of the positions.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum time without progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_mins(1);

/// Measured progress of a stage.
pub(super) struct DrainMeasurement {
    /// Total records.
    pub records: i64,
    /// Time from the first observed position change to the last.
    elapsed: Duration,
    /// Records of the first position change; the batch started before the measurement.
    first_records: i64,
}

impl DrainMeasurement {
    /// Throughput without the records of the first position change.
    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    pub(super) fn records_per_second(&self) -> f64 {
        (self.records - self.first_records) as f64 / self.elapsed.as_secs_f64().max(0.001)
    }
}

/// Waits until the stage's positions reach the end offsets that its topic has now.
pub(super) async fn wait_drained(pipeline: &Pipeline, stage: &str) -> Result<DrainMeasurement> {
    let end: i64 = pipeline.end_offsets(pipeline.input_topic(stage)?)?.values().sum();
    let bar = ProgressBar::new(end.unsigned_abs());
    bar.set_style(ProgressStyle::with_template(
        "{prefix:<10} {bar:32} {human_pos}/{human_len}   {per_sec}",
    )?);
    bar.set_prefix(stage.to_owned());
    let (mut first_change, mut last_change) = (None, Instant::now());
    let (mut first_records, mut previous) = (0, 0);
    loop {
        let position: i64 = pipeline.positions(stage).await?.values().sum();
        if position != previous {
            last_change = Instant::now();
            first_change.get_or_insert(last_change);
            first_records = if first_records == 0 {
                position
            } else {
                first_records
            };
            previous = position;
            bar.set_position(position.unsigned_abs());
        }
        if position >= end {
            bar.finish_and_clear();
            let elapsed = first_change.map_or(Duration::ZERO, |first_change| last_change - first_change);
            return Ok(DrainMeasurement {
                records: position,
                elapsed,
                first_records,
            });
        }
        ensure!(
            last_change.elapsed() < PROGRESS_TIMEOUT,
            "stage {stage} makes no progress at {position} of {end}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
