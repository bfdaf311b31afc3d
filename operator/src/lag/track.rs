//! Follows the readings of one stage: lag, rates, progress, and what one worker commits.
//!
//! Pure: readings and times are passed in. What a successor must not forget is taken up again from the status.

use std::collections::{BTreeMap, BTreeSet};

use crds::StreamStageStatus;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{PartitionReading, Reading, Unknown};
use crate::scale::LagKnown;
use crate::scale::load::{Load, PartitionLoad};

/// How much a new rate counts against what was known.
const FRESH: f64 = 0.5;
/// A worker's rate is believed after so many samples in a row: its first batches tell little.
const SAMPLES: u32 = 3;
/// Readings closer together than this give no rates.
const SHORTEST: SignedDuration = SignedDuration::from_millis(100);
/// A reading older than so many intervals is no reading.
const STALE_AFTER: i32 = 3;
/// Failures in a row until the lag counts as not known to a person; decisions hold from the first.
const TOLD_AFTER: u32 = 2;
/// Failures in a row until a decision may act on them, once the reading before them is old.
const LASTING_AFTER: u32 = 3;

/// What a reading is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Workers that are ready.
    pub ready: u32,
    /// Without progress for this long, a partition with lag is stuck.
    pub stuck_after: SignedDuration,
}

/// Everything that is remembered of one stage's readings.
#[derive(Clone, Debug, Default)]
pub struct Track {
    last: Option<Last>,
    load: Option<Load>,
    unknown: Option<Unknown>,
    failures: u32,
    /// Of the partitions with lag.
    progress: BTreeMap<u32, Progress>,
    worker_rate: Option<f64>,
    samples: Vec<f64>,
    /// Seconds since the last sample.
    waited: f64,
}

/// The reading before this one, with the records per second that arrived in each partition.
#[derive(Clone, Debug)]
struct Last {
    at: Timestamp,
    ready: u32,
    partitions: Vec<PartitionReading>,
    arrivals: Vec<f64>,
}

/// Since when a partition has stood where it stands.
#[derive(Clone, Copy, Debug)]
struct Progress {
    committed: u64,
    since: Timestamp,
}

impl Track {
    /// Takes up what the status says of the time before: the worker's rate, and which partitions were stuck.
    #[must_use]
    pub fn resume(status: &StreamStageStatus) -> Self {
        let scaling = status.scaling.as_ref();
        let stuck = status.partitions.iter().filter(|partition| partition.stuck);
        let progress = stuck.map(|partition| {
            let progress = Progress {
                committed: partition.committed,
                since: Timestamp::MIN,
            };
            (partition.partition, progress)
        });
        Self {
            worker_rate: scaling.and_then(|scaling| scaling.records_per_second_of_a_worker),
            progress: progress.collect(),
            ..Self::default()
        }
    }

    /// Takes a complete reading; the first gives no rates, and so no load.
    pub fn read(&mut self, reading: &Reading, now: Timestamp, around: Surroundings) {
        self.failures = 0;
        self.unknown = None;
        let stuck = self.stuck(reading, now, around);
        let last = Last {
            at: now,
            ready: around.ready,
            partitions: reading.partitions.clone(),
            arrivals: Vec::new(),
        };
        let Some(before) = self.last.take() else {
            self.last = Some(last);
            return;
        };
        let elapsed = now.duration_since(before.at);
        if elapsed < SHORTEST {
            self.last = Some(before);
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let partitions = reading.partitions.iter();
        let arrivals: Vec<f64> = partitions
            .clone()
            .map(|partition| before.arrival(partition, seconds))
            .collect();
        let processed = before.processed(reading);
        self.learn(&before, reading, seconds, around.ready);
        self.load = Some(Load {
            measured_at: Some(now),
            partitions: std::iter::zip(partitions, &arrivals)
                .map(|(partition, arrival)| PartitionLoad {
                    partition: partition.partition,
                    lag: partition.lag(),
                    committed: partition.position(),
                    end: partition.end,
                    arrival_per_second: *arrival,
                    is_stuck: stuck.contains(&partition.partition),
                })
                .collect(),
            processed_per_second: count(processed) / seconds,
            worker_rate: self.worker_rate,
        });
        self.last = Some(Last { arrivals, ..last });
    }

    /// Notes that a reading failed; what was known stays, and is no longer decided by.
    pub fn failed(&mut self, unknown: Unknown) {
        self.failures = self.failures.saturating_add(1);
        self.unknown = Some(unknown);
    }

    /// Whether the reading before found this partition just so.
    #[must_use]
    pub fn stood_at(&self, partition: &PartitionReading) -> bool {
        let last = self.last.as_ref();
        let before = last.and_then(|last| last.partition(partition.partition));
        before.is_some_and(|before| (before.position(), before.end) == (partition.position(), partition.end))
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Why the last reading failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&Unknown> {
        self.unknown.as_ref()
    }

    /// Why the lag is not known, once a person should be told.
    #[must_use]
    pub fn unknown(&self) -> Option<&Unknown> {
        let lasting = self.failures >= TOLD_AFTER || self.load.is_none();
        self.unknown.as_ref().filter(|_| lasting)
    }

    /// The last load.
    #[must_use]
    pub fn load(&self) -> Option<&Load> {
        self.load.as_ref()
    }

    /// What a decision may rely on: a fresh and complete reading, or nothing.
    #[must_use]
    pub fn known(&self, now: Timestamp, poll_interval: SignedDuration) -> LagKnown<'_> {
        let is_fresh = self.is_fresh(now, poll_interval);
        match (&self.unknown, &self.load) {
            (Some(unknown), _) if is_fresh || self.failures < LASTING_AFTER => {
                LagKnown::Missed(&unknown.message)
            }
            (Some(unknown), _) => LagKnown::Unknown(&unknown.message),
            (None, Some(load)) if is_fresh => LagKnown::Read(load),
            (None, Some(_)) => LagKnown::Unknown("the last reading is too old"),
            (None, None) => LagKnown::Pending,
        }
    }

    /// Whether the last complete reading is young enough to be true still.
    fn is_fresh(&self, now: Timestamp, poll_interval: SignedDuration) -> bool {
        let oldest = (poll_interval * STALE_AFTER).max(SignedDuration::from_secs(15));
        let measured_at = self.load.as_ref().and_then(|load| load.measured_at);
        measured_at.is_some_and(|at| now.duration_since(at) <= oldest)
    }

    /// The partitions with lag that have stood still for too long. Without workers nothing can move, and no time counts.
    fn stuck(&mut self, reading: &Reading, now: Timestamp, around: Surroundings) -> BTreeSet<u32> {
        let before = std::mem::take(&mut self.progress);
        for partition in reading.partitions.iter().filter(|partition| partition.lag() > 0) {
            let committed = partition.position();
            let stood = before
                .get(&partition.partition)
                .filter(|before| before.committed == committed);
            // A time that was taken up from the status is that of a partition that was stuck already.
            let runs = around.ready > 0 || stood.is_some_and(|stood| stood.since == Timestamp::MIN);
            let since = stood.filter(|_| runs).map_or(now, |stood| stood.since);
            let progress = Progress { committed, since };
            self.progress.insert(partition.partition, progress);
        }
        let stuck = self
            .progress
            .iter()
            .filter(|(_, progress)| now.duration_since(progress.since) >= around.stuck_after);
        stuck.map(|(number, _)| *number).collect()
    }

    /// Learns what one worker commits, from an interval in which some worker had enough to do throughout.
    ///
    /// A partition that did not move tells nothing, and neither does one that was read to its end.
    fn learn(&mut self, last: &Last, reading: &Reading, seconds: f64, ready: u32) {
        let moves = reading
            .partitions
            .iter()
            .filter_map(|partition| last.moved(partition));
        let mut behind = moves.clone().filter(|(moved, lag)| moved < lag).peekable();
        if ready == 0 || last.ready != ready || behind.peek().is_none() {
            self.samples.clear();
            self.waited = 0.0;
            return;
        }
        let busy: Vec<u64> = behind
            .map(|(moved, _)| moved)
            .filter(|moved| *moved > 0)
            .collect();
        self.waited += seconds;
        if busy.is_empty() {
            // A batch may take longer than an interval.
            return;
        }
        let processed: u64 = if ready == 1 {
            moves.map(|(moved, _)| moved).sum()
        } else {
            busy.iter().sum()
        };
        let workers = ready.min(u32::try_from(busy.len()).unwrap_or(u32::MAX));
        let waited = std::mem::take(&mut self.waited);
        self.samples.push(count(processed) / waited / f64::from(workers));
        let enough = usize::try_from(SAMPLES).unwrap_or(usize::MAX);
        if self.samples.len() < enough {
            return;
        }
        let seen = self.samples.drain(..).fold(0.0, f64::max);
        let rate = self
            .worker_rate
            .map_or(seen, |known| known + FRESH * (seen - known));
        self.worker_rate = Some(rounded(rate));
    }
}

impl Last {
    /// A partition of the reading; none when it was added since. A complete reading is in the order of the numbers.
    fn partition(&self, number: u32) -> Option<&PartitionReading> {
        self.partitions.get(usize::try_from(number).ok()?)
    }

    /// Records per second that arrived in a partition, smoothed.
    fn arrival(&self, partition: &PartitionReading, seconds: f64) -> f64 {
        let Some(before) = self.partition(partition.partition) else {
            return 0.0;
        };
        let seen = count(partition.end.saturating_sub(before.end)) / seconds;
        let known = usize::try_from(partition.partition)
            .ok()
            .and_then(|number| self.arrivals.get(number));
        let rate = known.map_or(seen, |known| known + FRESH * (seen - known));
        // What has died away is nothing: a rate that is only halved would never be zero.
        if seen == 0.0 && rate < 0.1 { 0.0 } else { rate }
    }

    /// Records of a partition that were committed since, and the lag that it had before.
    fn moved(&self, partition: &PartitionReading) -> Option<(u64, u64)> {
        let before = self.partition(partition.partition)?;
        let moved = partition.position().saturating_sub(before.position());
        Some((moved, before.lag()))
    }

    /// Records that were committed since.
    fn processed(&self, reading: &Reading) -> u64 {
        let moved = reading
            .partitions
            .iter()
            .filter_map(|partition| self.moved(partition));
        moved.map(|(moved, _)| moved).sum()
    }
}

/// Two significant digits: what a decision needs, and no more writes of the status than that.
fn rounded(rate: f64) -> f64 {
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
fn count(records: u64) -> f64 {
    records as f64
}

#[cfg(test)]
pub(crate) mod tests;
