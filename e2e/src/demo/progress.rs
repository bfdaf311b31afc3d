//! Watches a stage until it has drained its topic, with a bar when somebody looks.
#![expect(clippy::disallowed_methods, reason = "edge: measures time")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::pipeline::Pipeline;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A stage that does not move for so long does not work.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a stage has drained.
pub(super) struct Drained {
    /// Records.
    pub records: i64,
    /// Time from the first commit that was seen to the last.
    took: Duration,
    /// Records of the first commit, which began before it was seen.
    first: i64,
}

impl Drained {
    /// Records per second, those of the first commit left out.
    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
    pub(super) fn per_second(&self) -> f64 {
        (self.records - self.first) as f64 / self.took.as_secs_f64().max(0.001)
    }
}

/// Waits until the stage's positions are at the ends that its topic has now.
pub(super) async fn watch(pipeline: &Pipeline, stage: &str) -> Result<Drained> {
    let end: i64 = pipeline.ends(pipeline.topic_of(stage)?)?.values().sum();
    let bar = ProgressBar::new(end.unsigned_abs());
    bar.set_style(ProgressStyle::with_template(
        "{prefix:<10} {bar:32} {human_pos}/{human_len}   {per_sec}",
    )?);
    bar.set_prefix(stage.to_owned());
    let (mut begun, mut moved, mut first, mut last) = (None, Instant::now(), 0, 0);
    loop {
        let now: i64 = pipeline.positions(stage).await?.values().sum();
        if now != last {
            moved = Instant::now();
            begun.get_or_insert(moved);
            first = if first == 0 { now } else { first };
            last = now;
            bar.set_position(now.unsigned_abs());
        }
        if now >= end {
            bar.finish_and_clear();
            let took = begun.map_or(Duration::ZERO, |begun| moved - begun);
            return Ok(Drained {
                records: now,
                took,
                first,
            });
        }
        ensure!(
            moved.elapsed() < PATIENCE,
            "stage {stage} stands still at {now} of {end}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
