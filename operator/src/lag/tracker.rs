//! Compares successive offset snapshots of one stage: lag, rates, stuck partitions, throughput of the workers.
//!
//! Pure: snapshots and times are passed in. A new leader restores the stuck partitions from the status, so a change of
//! leader does not lose them; it measures the rest again.

mod group;
mod progress;

use std::collections::VecDeque;

use crds::StreamStageStatus;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::group::{GroupTracker, Interval, PartitionInterval};
use self::progress::ProgressTracker;
use super::members::GroupMembers;
use super::offsets::{LagError, OffsetSnapshot, PartitionSnapshot};
use crate::scale::LagState;
use crate::scale::load::{Load, PartitionLoad, to_f64};

/// Time constant of the smoothed arrival rates, in seconds.
const ARRIVAL_SMOOTHING_SECONDS: f64 = 20.0;
/// Minimum time between two snapshots that a rate is computed from.
const MIN_SAMPLE_INTERVAL: SignedDuration = SignedDuration::from_millis(100);
/// A partition is late when the group has not committed what had arrived this long ago, or two poll intervals ago if
/// that is longer: commits every 8 s at a poll interval of 5 s cause no delay.
const LATE_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// Age after which a snapshot is stale, in poll intervals.
const STALE_AFTER_INTERVALS: i32 = 3;
/// Minimum age of a stale snapshot: one slow poll must not make the lag of a short interval unknown.
const MIN_STALE_AGE: SignedDuration = SignedDuration::from_secs(15);
/// Consecutive failures after which the status reports the error. Scaling holds from the first failure.
const REPORT_AFTER_FAILURES: u32 = 2;
/// Consecutive failures after which `onLagUnknown` applies, if the last snapshot is stale too.
const ACT_AFTER_FAILURES: u32 = 3;
/// Smoothed arrival rates below this become 0 once nothing arrives, in records per second. Smoothing never reaches 0.
const MIN_ARRIVAL_RATE: f64 = 0.01;

/// State of a stage that a snapshot is evaluated against.
#[derive(Clone, Debug)]
pub struct SnapshotContext {
    /// Ready workers at the time of the snapshot.
    pub ready_replicas: u32,
    /// Members of the consumer group.
    pub members: GroupMembers,
    /// `spec.scaling.stuckAfter`: time without progress after which a partition with lag is stuck.
    pub stuck_after: SignedDuration,
}

impl SnapshotContext {
    /// Context of a group whose members may not be seen.
    #[must_use]
    pub fn with_hidden_members(ready_replicas: u32, stuck_after: SignedDuration) -> Self {
        Self {
            ready_replicas,
            members: GroupMembers::Hidden(ready_replicas),
            stuck_after,
        }
    }
}

/// Poll results of one stage, reduced to what the next poll and a scaling decision need.
#[derive(Clone, Debug, Default)]
pub struct LagTracker {
    previous: Option<PreviousSnapshot>,
    load: Option<Load>,
    /// Error of the last poll; `None` if it succeeded.
    last_error: Option<LagError>,
    consecutive_failures: u32,
    progress: ProgressTracker,
    group: GroupTracker,
    /// End offsets of the last snapshots, oldest first, by partition id.
    ends: VecDeque<(Timestamp, Vec<u64>)>,
}

/// The last snapshot, with the smoothed arrival rate of each partition in records per second.
#[derive(Clone, Debug)]
struct PreviousSnapshot {
    time: Timestamp,
    partitions: Vec<PartitionSnapshot>,
    /// Indexed by partition id; empty after the first snapshot.
    arrival_rates: Vec<f64>,
}

impl LagTracker {
    /// Restores the stuck partitions from the status that the previous leader wrote.
    #[must_use]
    pub fn from_status(status: &StreamStageStatus) -> Self {
        let stuck = status
            .lagging_partitions
            .iter()
            .filter(|partition| partition.stuck);
        Self {
            progress: ProgressTracker::from_stuck(stuck),
            ..Self::default()
        }
    }

    /// Records a complete snapshot. The first one yields no rates, and so no load.
    pub fn record(&mut self, snapshot: &OffsetSnapshot, now: Timestamp, context: &SnapshotContext) {
        self.consecutive_failures = 0;
        self.last_error = None;
        let stuck = self
            .progress
            .update(snapshot, now, (context.ready_replicas, context.stuck_after));
        let current = PreviousSnapshot {
            time: now,
            partitions: snapshot.partitions.clone(),
            arrival_rates: Vec::new(),
        };
        // After a step back of the clock no interval has a known duration.
        let Some(previous) = self.previous.take().filter(|previous| previous.time <= now) else {
            self.restart(current, &context.members);
            return;
        };
        let elapsed = now.duration_since(previous.time);
        if elapsed < MIN_SAMPLE_INTERVAL {
            self.previous = Some(previous);
            return;
        }
        let arrival_rates: Vec<f64> = snapshot
            .partitions
            .iter()
            .map(|partition| previous.arrival_rate(partition, elapsed.as_secs_f64()))
            .collect();
        let partitions = snapshot.partitions.iter().zip(&arrival_rates);
        let partitions = partitions
            .map(|(partition, arrival_rate)| PartitionLoad {
                partition: partition.partition,
                lag: partition.lag(),
                committed_offset: partition.position(),
                end_offset: partition.end,
                arrival_per_second: *arrival_rate,
                is_stuck: stuck.contains(&partition.partition),
            })
            .collect();
        self.load = Some(self.measure(&previous, snapshot, partitions, (now, elapsed), &context.members));
        self.previous = Some(PreviousSnapshot {
            arrival_rates,
            ..current
        });
    }

    /// Measures what was committed since `previous`, and returns the load of `partitions`.
    fn measure(
        &mut self,
        previous: &PreviousSnapshot,
        snapshot: &OffsetSnapshot,
        partitions: Vec<PartitionLoad>,
        (now, elapsed): (Timestamp, SignedDuration),
        members: &GroupMembers,
    ) -> Load {
        let seconds = elapsed.as_secs_f64();
        let late = self.late_partitions(snapshot, (elapsed * 2).max(LATE_AFTER), now);
        let intervals: Vec<PartitionInterval> = snapshot
            .partitions
            .iter()
            .zip(late)
            .zip(&partitions)
            .map(|((partition, is_late), load)| PartitionInterval {
                committed: previous.committed_since(partition),
                is_late: is_late && !load.is_stuck,
            })
            .collect();
        let committed = intervals.iter().map(|partition| partition.committed).sum();
        let interval = Interval {
            now,
            seconds,
            partitions: &intervals,
        };
        let group = self.group.update(members, interval);
        Load {
            measurement_time: Some(now),
            partitions,
            processed_per_second: to_f64(committed) / seconds,
            sustained_per_second: self.group.sustained_per_second(),
            is_idle: previous.has_same_ends(snapshot),
            group,
        }
    }

    /// Begins with a first snapshot; the load of an earlier one remains.
    fn restart(&mut self, first: PreviousSnapshot, members: &GroupMembers) {
        self.group = GroupTracker::default();
        self.group.start(members, first.time);
        let ends = first.partitions.iter().map(|partition| partition.end).collect();
        self.ends = VecDeque::from([(first.time, ends)]);
        self.previous = Some(first);
    }

    /// Returns for each partition whether the group has not committed what had arrived `age` ago.
    fn late_partitions(
        &mut self,
        snapshot: &OffsetSnapshot,
        age: SignedDuration,
        now: Timestamp,
    ) -> Vec<bool> {
        let mut earlier = self.ends.iter().rev();
        let earlier = earlier.find(|(time, _)| now.duration_since(*time) >= age);
        let late = snapshot.partitions.iter().enumerate().map(|(index, partition)| {
            let end = earlier.and_then(|(_, ends)| ends.get(index));
            end.is_some_and(|end| partition.position() < *end)
        });
        let late = late.collect();
        // One entry of at least this age remains for the next snapshot.
        while self
            .ends
            .get(1)
            .is_some_and(|(time, _)| now.duration_since(*time) >= age)
        {
            self.ends.pop_front();
        }
        let ends = snapshot
            .partitions
            .iter()
            .map(|partition| partition.end)
            .collect();
        self.ends.push_back((now, ends));
        late
    }

    /// Records a failed poll. The last load remains available, but scaling decisions no longer use it.
    pub fn record_failure(&mut self, error: LagError) {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.last_error = Some(error);
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
        // A clock that stepped back makes the age negative: the load is then as old as that step.
        measurement_time.is_some_and(|time| now.duration_since(time).abs() <= max_age)
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
        let weight = 1.0 - (-seconds / ARRIVAL_SMOOTHING_SECONDS).exp();
        let rate = smoothed.map_or(sample, |rate| rate + weight * (sample - rate));
        if sample == 0.0 && rate < MIN_ARRIVAL_RATE {
            0.0
        } else {
            rate
        }
    }

    /// Records of a partition committed since this snapshot. What retention took does not count.
    fn committed_since(&self, partition: &PartitionSnapshot) -> u64 {
        let Some(previous) = self.partition(partition.partition) else {
            return 0;
        };
        // The log start is unknown if the group has read the whole partition.
        let is_start_known = partition.committed != Some(partition.end);
        let start = if is_start_known { partition.start } else { 0 };
        let committed = partition.committed.unwrap_or(0);
        committed.saturating_sub(previous.position().max(start))
    }

    fn has_same_ends(&self, snapshot: &OffsetSnapshot) -> bool {
        let sum =
            |partitions: &[PartitionSnapshot]| partitions.iter().map(|partition| partition.end).sum::<u64>();
        sum(&self.partitions) == sum(&snapshot.partitions)
    }
}

#[cfg(test)]
pub(crate) mod tests;
