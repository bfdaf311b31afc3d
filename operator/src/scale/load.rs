//! Lag of a stage at one moment, with the rates of its partitions and workers. Data only.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Lag of every partition of a stage's topic, from one complete poll.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Time of the poll; `None` only in a default value.
    pub measurement_time: Option<Timestamp>,
    /// All partitions, by partition id.
    pub partitions: Vec<PartitionLoad>,
    /// Processing rate of the stage since the previous poll: committed records per second.
    pub processed_per_second: f64,
    /// Processing rate of the stage over the last 30 s, in records per second.
    pub sustained_per_second: f64,
    /// True if nothing has arrived since the previous poll.
    pub is_idle: bool,
    /// Workers that consume the topic.
    pub group: GroupLoad,
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

/// Workers of a stage as members of its consumer group, and what they commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupLoad {
    /// Number of workers; 0 while the group assigns its partitions.
    pub worker_count: u32,
    /// Members with their partitions, by name; empty while they are unknown.
    pub members: Vec<MemberLoad>,
    /// Time since which members and assignment are the same.
    pub unchanged_since: Option<Timestamp>,
    /// Time since which the group assigns its partitions; `None` if it is stable or if its state is unknown.
    pub assigning_since: Option<Timestamp>,
    /// Time since which most members are behind; `None` if most of them keep up.
    pub mostly_behind_since: Option<Timestamp>,
    /// Time since which every member keeps up.
    pub quiet_since: Option<Timestamp>,
    /// True if every member that is behind has committed since the members are the same.
    pub has_committed: bool,
    /// Throughput of a worker, if this poll completed a sample of it.
    pub measure: Option<Measure>,
}

/// Member of the consumer group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberLoad {
    /// Name of the pod, or the client id.
    pub name: String,
    /// Assigned partitions.
    pub partitions: Vec<u32>,
    /// Last sample; `None` without a recent one.
    pub sample: Option<RateSample>,
    /// True if the member is behind and commits less than half of what another one does.
    pub is_slow: bool,
}

/// Throughput of one worker over at least 15 s.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateSample {
    /// Committed records per second.
    pub records_per_second: f64,
    /// True if the worker was behind throughout, false if it kept up.
    pub is_behind: bool,
}

/// Evidence of the capacity of one worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Rate of the busiest workers that are behind, and that of the measure before.
    Behind {
        /// Records per second.
        rate: f64,
        /// Records per second of the measure before; `None` if this is the first one.
        before: Option<f64>,
    },
    /// Rate of the busiest worker that is not behind: the capacity is at least this.
    KeepsUp(f64),
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

    /// Members that are behind and commit less than half of what another one does.
    pub fn slow_members(&self) -> impl Iterator<Item = &MemberLoad> {
        self.group.members.iter().filter(|member| member.is_slow)
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

    fn total_records(&self) -> f64 {
        to_f64(self.total_lag())
    }
}

/// Converts a number of records.
#[expect(
    clippy::cast_precision_loss,
    reason = "a lag beyond 2^53 records needs no exact rate"
)]
#[must_use]
pub fn to_f64(records: u64) -> f64 {
    records as f64
}
