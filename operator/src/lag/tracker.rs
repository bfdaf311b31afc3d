//! Compares successive offset snapshots of one stage: lag, rates, stuck partitions, throughput per worker.
//!
//! Pure: snapshots and times are passed in. A new leader restores the worker rate and the stuck partitions from the
//! status, so a change of leader loses neither.

use std::collections::{BTreeMap, BTreeSet};

use crds::StreamStageStatus;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::offsets::{LagError, OffsetSnapshot, PartitionSnapshot};
use crate::scale::LagState;
use crate::scale::load::{Load, PartitionLoad};

/// Weight of the newest value in an exponentially smoothed rate.
const SMOOTHING_FACTOR: f64 = 0.5;
/// Consecutive samples needed before the rate per worker is used: the first batches of a worker are atypical.
const MIN_RATE_SAMPLES: u32 = 3;
/// Minimum time between two snapshots that a rate is computed from.
const MIN_SAMPLE_INTERVAL: SignedDuration = SignedDuration::from_millis(100);
/// Age after which a snapshot is stale, in poll intervals.
const STALE_AFTER_INTERVALS: i32 = 3;
/// Minimum age of a stale snapshot: one slow poll must not make the lag of a short interval unknown.
const MIN_STALE_AGE: SignedDuration = SignedDuration::from_secs(15);
/// Consecutive failures after which the status reports the error. Scaling holds from the first failure.
const REPORT_AFTER_FAILURES: u32 = 2;
/// Consecutive failures after which `onLagUnknown` applies, if the last snapshot is stale too.
const ACT_AFTER_FAILURES: u32 = 3;
/// Smoothed arrival rates below this become 0 once nothing arrives, in records per second. Halving never reaches 0.
const MIN_ARRIVAL_RATE: f64 = 0.1;

/// State of a stage that a snapshot is evaluated against.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotContext {
    /// Ready workers at the time of the snapshot.
    pub ready_replicas: u32,
    /// `spec.scaling.stuckAfter`: time without progress after which a partition with lag is stuck.
    pub stuck_after: SignedDuration,
}

/// Poll results of one stage, reduced to what the next poll and a scaling decision need.
#[derive(Clone, Debug, Default)]
pub struct LagTracker {
    previous: Option<PreviousSnapshot>,
    load: Option<Load>,
    /// Error of the last poll; `None` if it succeeded.
    last_error: Option<LagError>,
    consecutive_failures: u32,
    /// Progress of the partitions with lag, by partition id.
    progress: BTreeMap<u32, PartitionProgress>,
    /// Records per second per worker.
    worker_rate: Option<f64>,
    rate_samples: Vec<f64>,
    seconds_since_sample: f64,
}

/// The last snapshot, with the smoothed arrival rate of each partition in records per second.
#[derive(Clone, Debug)]
struct PreviousSnapshot {
    time: Timestamp,
    ready_replicas: u32,
    partitions: Vec<PartitionSnapshot>,
    /// Indexed by partition id; empty after the first snapshot.
    arrival_rates: Vec<f64>,
}

/// Position of a partition, and the time since which it is unchanged.
#[derive(Clone, Copy, Debug)]
struct PartitionProgress {
    position: u64,
    /// `Timestamp::MIN` if a predecessor reported the partition as stuck.
    unchanged_since: Timestamp,
}

impl LagTracker {
    /// Restores the worker rate and the stuck partitions from the status that the previous leader wrote.
    #[must_use]
    pub fn from_status(status: &StreamStageStatus) -> Self {
        let scaling = status.scaling.as_ref();
        let stuck = status
            .lagging_partitions
            .iter()
            .filter(|partition| partition.stuck);
        let progress = stuck.map(|partition| {
            let progress = PartitionProgress {
                position: partition.committed_offset,
                unchanged_since: Timestamp::MIN,
            };
            (partition.partition, progress)
        });
        Self {
            worker_rate: scaling.and_then(|scaling| scaling.records_per_second_per_worker),
            progress: progress.collect(),
            ..Self::default()
        }
    }

    /// Records a complete snapshot. The first one yields no rates, and so no load.
    pub fn record(&mut self, snapshot: &OffsetSnapshot, now: Timestamp, context: SnapshotContext) {
        self.consecutive_failures = 0;
        self.last_error = None;
        let stuck = self.update_progress(snapshot, now, context);
        let current = PreviousSnapshot {
            time: now,
            ready_replicas: context.ready_replicas,
            partitions: snapshot.partitions.clone(),
            arrival_rates: Vec::new(),
        };
        let Some(previous) = self.previous.take() else {
            self.previous = Some(current);
            return;
        };
        let elapsed = now.duration_since(previous.time);
        if elapsed < MIN_SAMPLE_INTERVAL {
            self.previous = Some(previous);
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let partitions = snapshot.partitions.iter();
        let arrival_rates: Vec<f64> = partitions
            .clone()
            .map(|partition| previous.arrival_rate(partition, seconds))
            .collect();
        let processed = previous.total_committed_since(snapshot);
        self.update_worker_rate(&previous, snapshot, seconds, context.ready_replicas);
        self.load = Some(Load {
            measurement_time: Some(now),
            partitions: std::iter::zip(partitions, &arrival_rates)
                .map(|(partition, arrival_rate)| PartitionLoad {
                    partition: partition.partition,
                    lag: partition.lag(),
                    committed_offset: partition.position(),
                    end_offset: partition.end,
                    arrival_per_second: *arrival_rate,
                    is_stuck: stuck.contains(&partition.partition),
                })
                .collect(),
            processed_per_second: to_f64(processed) / seconds,
            worker_rate: self.worker_rate,
        });
        self.previous = Some(PreviousSnapshot {
            arrival_rates,
            ..current
        });
    }

    /// Records a failed poll. The last load remains available, but scaling decisions no longer use it.
    pub fn record_failure(&mut self, error: LagError) {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.last_error = Some(error);
    }

    /// Returns true if position and end of the partition are the same as in the previous snapshot.
    #[must_use]
    pub fn is_unchanged(&self, partition: &PartitionSnapshot) -> bool {
        let snapshot = self.previous.as_ref();
        let previous = snapshot.and_then(|snapshot| snapshot.partition(partition.partition));
        previous.is_some_and(|previous| {
            (previous.position(), previous.end) == (partition.position(), partition.end)
        })
    }

    /// Failed polls since the last successful one.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    /// Error of the last poll; `None` if it succeeded.
    #[must_use]
    pub fn last_error(&self) -> Option<&LagError> {
        self.last_error.as_ref()
    }

    /// Error of the last poll, if the status should report it: after repeated failures, or if no load is known.
    #[must_use]
    pub fn lasting_error(&self) -> Option<&LagError> {
        let is_lasting = self.consecutive_failures >= REPORT_AFTER_FAILURES || self.load.is_none();
        self.last_error.as_ref().filter(|_| is_lasting)
    }

    /// Load of the last complete snapshot, however old.
    #[must_use]
    pub fn load(&self) -> Option<&Load> {
        self.load.as_ref()
    }

    /// Lag that a scaling decision at `now` may use.
    #[must_use]
    pub fn lag_state(&self, now: Timestamp, poll_interval: SignedDuration) -> LagState<'_> {
        let is_fresh = self.is_fresh(now, poll_interval);
        match (&self.last_error, &self.load) {
            (Some(error), _) if is_fresh || self.consecutive_failures < ACT_AFTER_FAILURES => {
                LagState::TransientError(&error.message)
            }
            (Some(error), _) => LagState::Unknown(&error.message),
            (None, Some(load)) if is_fresh => LagState::Fresh(load),
            (None, Some(_)) => LagState::Unknown("the last poll result is too old"),
            (None, None) => LagState::Pending,
        }
    }

    fn is_fresh(&self, now: Timestamp, poll_interval: SignedDuration) -> bool {
        let max_age = (poll_interval * STALE_AFTER_INTERVALS).max(MIN_STALE_AGE);
        let measurement_time = self.load.as_ref().and_then(|load| load.measurement_time);
        measurement_time.is_some_and(|time| now.duration_since(time) <= max_age)
    }

    /// Updates the progress of the partitions with lag and returns the stuck ones.
    ///
    /// Without ready workers no partition can make progress, so the time does not count.
    fn update_progress(
        &mut self,
        snapshot: &OffsetSnapshot,
        now: Timestamp,
        context: SnapshotContext,
    ) -> BTreeSet<u32> {
        let previous = std::mem::take(&mut self.progress);
        for partition in snapshot.partitions.iter().filter(|partition| partition.lag() > 0) {
            let position = partition.position();
            let unchanged = previous
                .get(&partition.partition)
                .filter(|previous| previous.position == position);
            // A partition that a predecessor reported as stuck stays stuck without workers too.
            let counts = context.ready_replicas > 0
                || unchanged.is_some_and(|progress| progress.unchanged_since == Timestamp::MIN);
            let unchanged_since = unchanged
                .filter(|_| counts)
                .map_or(now, |progress| progress.unchanged_since);
            let progress = PartitionProgress {
                position,
                unchanged_since,
            };
            self.progress.insert(partition.partition, progress);
        }
        let stuck = self
            .progress
            .iter()
            .filter(|(_, progress)| now.duration_since(progress.unchanged_since) >= context.stuck_after);
        stuck.map(|(partition, _)| *partition).collect()
    }

    /// Updates the rate per worker from an interval in which at least one worker had a backlog throughout.
    ///
    /// Two kinds of partitions say nothing about the capacity of a worker: those without progress, and those that were
    /// read to their end.
    fn update_worker_rate(
        &mut self,
        previous: &PreviousSnapshot,
        snapshot: &OffsetSnapshot,
        seconds: f64,
        ready_replicas: u32,
    ) {
        let commits = snapshot
            .partitions
            .iter()
            .filter_map(|partition| previous.committed_since(partition));
        let mut with_backlog = commits
            .clone()
            .filter(|(committed, previous_lag)| committed < previous_lag)
            .peekable();
        if ready_replicas == 0 || previous.ready_replicas != ready_replicas || with_backlog.peek().is_none() {
            self.rate_samples.clear();
            self.seconds_since_sample = 0.0;
            return;
        }
        let busy: Vec<u64> = with_backlog
            .map(|(committed, _)| committed)
            .filter(|committed| *committed > 0)
            .collect();
        self.seconds_since_sample += seconds;
        if busy.is_empty() {
            // A batch may take longer than a poll interval.
            return;
        }
        let processed: u64 = if ready_replicas == 1 {
            commits.map(|(committed, _)| committed).sum()
        } else {
            busy.iter().sum()
        };
        let workers = ready_replicas.min(u32::try_from(busy.len()).unwrap_or(u32::MAX));
        let elapsed = std::mem::take(&mut self.seconds_since_sample);
        self.rate_samples
            .push(to_f64(processed) / elapsed / f64::from(workers));
        let min_samples = usize::try_from(MIN_RATE_SAMPLES).unwrap_or(usize::MAX);
        if self.rate_samples.len() < min_samples {
            return;
        }
        let sample = self.rate_samples.drain(..).fold(0.0, f64::max);
        let rate = self.worker_rate.map_or(sample, |rate| smooth(rate, sample));
        self.worker_rate = Some(round_to_two_digits(rate));
    }
}

impl PreviousSnapshot {
    /// Offsets of a partition; `None` if it was added since. A complete snapshot is ordered by partition id.
    fn partition(&self, partition: u32) -> Option<&PartitionSnapshot> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }

    /// Smoothed arrival rate of a partition, in records per second.
    fn arrival_rate(&self, partition: &PartitionSnapshot, seconds: f64) -> f64 {
        let Some(previous) = self.partition(partition.partition) else {
            return 0.0;
        };
        let sample = to_f64(partition.end.saturating_sub(previous.end)) / seconds;
        let smoothed = usize::try_from(partition.partition)
            .ok()
            .and_then(|index| self.arrival_rates.get(index));
        let rate = smoothed.map_or(sample, |rate| smooth(*rate, sample));
        if sample == 0.0 && rate < MIN_ARRIVAL_RATE {
            0.0
        } else {
            rate
        }
    }

    /// Records of a partition committed since this snapshot, and the lag that the partition had in it.
    fn committed_since(&self, partition: &PartitionSnapshot) -> Option<(u64, u64)> {
        let previous = self.partition(partition.partition)?;
        let committed = partition.position().saturating_sub(previous.position());
        Some((committed, previous.lag()))
    }

    /// Records of all partitions committed since this snapshot.
    fn total_committed_since(&self, snapshot: &OffsetSnapshot) -> u64 {
        let commits = snapshot
            .partitions
            .iter()
            .filter_map(|partition| self.committed_since(partition));
        commits.map(|(committed, _)| committed).sum()
    }
}

fn smooth(rate: f64, sample: f64) -> f64 {
    rate + SMOOTHING_FACTOR * (sample - rate)
}

/// Rounds to two significant digits: enough for a decision, and fewer changes of the status.
fn round_to_two_digits(rate: f64) -> f64 {
    if rate <= 0.0 {
        return 0.0;
    }
    let unit = 10_f64.powf(rate.log10().floor() - 1.0);
    (rate / unit).round() * unit
}

#[expect(
    clippy::cast_precision_loss,
    reason = "records of one interval, far below 2^53"
)]
fn to_f64(records: u64) -> f64 {
    records as f64
}

#[cfg(test)]
pub(crate) mod tests;
