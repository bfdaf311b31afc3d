//! What the lag of a stage was at a moment, with the rates that led there. Data alone.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The lag of every partition of a stage's topic, completely read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// When it was read; none only before the first reading.
    pub measured_at: Option<Timestamp>,
    /// Every partition, by number.
    pub partitions: Vec<PartitionLoad>,
    /// Records that the stage commits per second.
    pub processed_per_second: f64,
    /// Records per second that one worker commits while it is behind; none until it was seen.
    pub worker_rate: Option<f64>,
}

/// The lag of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartitionLoad {
    /// Its number.
    pub partition: u32,
    /// Records that are not committed yet.
    pub lag: u64,
    /// The offset after the last committed record.
    pub committed: u64,
    /// The offset after the last record.
    pub end: u64,
    /// Records that arrive per second.
    pub arrival_per_second: f64,
    /// Whether it has lag and has made no progress for `stuckAfter`.
    pub is_stuck: bool,
}

impl Load {
    /// Records that are not committed yet.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lag).sum()
    }

    /// Records that arrive per second.
    #[must_use]
    pub fn arrival_per_second(&self) -> f64 {
        self.partitions
            .iter()
            .map(|partition| partition.arrival_per_second)
            .sum()
    }

    /// Seconds until the lag is gone at the present rates; none while it does not shrink.
    #[must_use]
    pub fn drain_seconds(&self) -> Option<f64> {
        let total = self.records();
        let shrinks_by = self.processed_per_second - self.arrival_per_second();
        if total == 0.0 {
            Some(0.0)
        } else {
            (shrinks_by > 0.0).then(|| total / shrinks_by)
        }
    }

    /// Whether more arrives than is processed, and more waits than is processed in `interval`: less is on its way.
    #[must_use]
    pub fn is_growing(&self, interval: SignedDuration) -> bool {
        self.arrival_per_second() > self.processed_per_second
            && self.records() > self.processed_per_second * interval.as_secs_f64()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a lag beyond 2^53 records needs no exact seconds"
    )]
    fn records(&self) -> f64 {
        self.total() as f64
    }
}
