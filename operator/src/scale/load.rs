//! Lag of a stage at one moment, with arrival and processing rates. Data only.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Lag of every partition of a stage's topic, from one complete poll.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Time of the poll; `None` only in a default value.
    pub measurement_time: Option<Timestamp>,
    /// All partitions, by partition id.
    pub partitions: Vec<PartitionLoad>,
    /// Processing rate of the stage: committed records per second.
    pub processed_per_second: f64,
    /// Throughput per worker, in records per second, measured while there is a backlog; `None` until then.
    pub worker_rate: Option<f64>,
}

/// Lag of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartitionLoad {
    /// Partition id.
    pub partition: u32,
    /// Records between the committed offset and the end offset.
    pub lag: u64,
    /// Committed offset: the next offset that the group reads.
    pub committed_offset: u64,
    /// End offset: the offset after the last readable record.
    pub end_offset: u64,
    /// Arrival rate, in records per second.
    pub arrival_per_second: f64,
    /// True if the partition has lag and made no progress for `stuckAfter`.
    pub is_stuck: bool,
}

impl Load {
    /// Lag of all partitions, in records.
    #[must_use]
    pub fn total_lag(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lag).sum()
    }

    /// Arrival rate of all partitions, in records per second.
    #[must_use]
    pub fn arrival_per_second(&self) -> f64 {
        self.partitions
            .iter()
            .map(|partition| partition.arrival_per_second)
            .sum()
    }

    /// Drain time at the current rates, in seconds; `None` while the lag does not shrink.
    #[must_use]
    pub fn drain_seconds(&self) -> Option<f64> {
        let total = self.total_records();
        let shrink_rate = self.processed_per_second - self.arrival_per_second();
        if total == 0.0 {
            Some(0.0)
        } else {
            (shrink_rate > 0.0).then(|| total / shrink_rate)
        }
    }

    /// True if the arrival rate exceeds the processing rate and the lag exceeds the work of one poll `interval`. A
    /// smaller lag is only the records between two commits.
    #[must_use]
    pub fn is_growing(&self, interval: SignedDuration) -> bool {
        self.arrival_per_second() > self.processed_per_second
            && self.total_records() > self.processed_per_second * interval.as_secs_f64()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a lag beyond 2^53 records needs no exact seconds"
    )]
    fn total_records(&self) -> f64 {
        self.total_lag() as f64
    }
}
