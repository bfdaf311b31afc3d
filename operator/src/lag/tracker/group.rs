//! What each member of the consumer group commits, and whether it keeps up.
//!
//! A member is behind when one of its partitions is late. It is measured while neither its assignment nor that state
//! changes, so the pause of a rebalance is in no sample.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::lag::members::GroupMembers;
use crate::scale::load::{GroupLoad, Measure, MemberLoad, RateSample, to_f64};

/// Time over which a worker is measured.
const SAMPLE_TIME: SignedDuration = SignedDuration::from_secs(15);
/// Time for which a sample counts.
const SAMPLE_MAX_AGE: SignedDuration = SignedDuration::from_secs(30);
/// Records that a sample of a worker that is behind needs.
const MIN_SAMPLE_RECORDS: u64 = 20;
/// Time over which the throughput of the whole stage is averaged.
const SUSTAINED_TIME: SignedDuration = SignedDuration::from_secs(30);
/// Share of the best rate below which a worker that is behind is slow.
const SLOW_SHARE: f64 = 0.5;

/// Rates of the members, from poll to poll.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupTracker {
    /// Members of the last poll; `None` before the first one.
    members: Option<GroupMembers>,
    unchanged_since: Option<Timestamp>,
    runs: BTreeMap<String, Run>,
    samples: BTreeMap<String, (Timestamp, RateSample)>,
    /// Members that have committed since the members are the same.
    committed: BTreeSet<String>,
    mostly_behind_since: Option<Timestamp>,
    quiet_since: Option<Timestamp>,
    has_committed: bool,
    /// Rate of the last measure of a worker that was behind.
    last_measure: Option<f64>,
    /// Committed records and duration of the last intervals, with the time of their end.
    intervals: VecDeque<(Timestamp, u64, f64)>,
}

/// Sample that is being taken.
#[derive(Clone, Copy, Debug)]
struct Run {
    seconds: f64,
    records: u64,
    is_behind: bool,
}

/// Interval between two polls, with the positions of the partitions at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval<'p> {
    pub(super) now: Timestamp,
    pub(super) seconds: f64,
    /// Partitions at the end of the interval, by partition id.
    pub(super) partitions: &'p [PartitionInterval],
}

/// Partition in an [`Interval`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PartitionInterval {
    /// Records committed in the interval. Those that retention took do not count.
    pub(super) committed: u64,
    /// True if the group has not committed what had arrived some time ago, unless the partition is stuck.
    pub(super) is_late: bool,
}

impl GroupTracker {
    /// Notes the members of the first poll.
    pub(super) fn start(&mut self, members: &GroupMembers, now: Timestamp) {
        self.replace_members(members, now);
        self.quiet_since = Some(now);
    }

    /// Processing rate of the last [`SUSTAINED_TIME`], in records per second.
    pub(super) fn sustained_per_second(&self) -> f64 {
        let seconds: f64 = self.intervals.iter().map(|(_, _, seconds)| seconds).sum();
        let records: u64 = self.intervals.iter().map(|(_, records, _)| records).sum();
        if seconds > 0.0 {
            to_f64(records) / seconds
        } else {
            0.0
        }
    }

    /// Updates the rates with one interval, and returns the group as a decision sees it.
    pub(super) fn update(&mut self, members: &GroupMembers, interval: Interval<'_>) -> GroupLoad {
        let now = interval.now;
        self.intervals
            .retain(|(end, ..)| now.duration_since(*end) <= SUSTAINED_TIME);
        let committed = interval
            .partitions
            .iter()
            .map(|partition| partition.committed)
            .sum();
        self.intervals.push_back((now, committed, interval.seconds));
        let is_unchanged = self.members.as_ref() == Some(members);
        if !is_unchanged {
            self.replace_members(members, now);
        }
        let mut measure = None;
        if is_unchanged && *members != GroupMembers::Assigning {
            let readers = readers(members, interval.partitions.len());
            let behind = members_behind(&readers, members, interval);
            self.update_states(readers.len(), &behind, now);
            if self.update_samples(&readers, &behind, (members, interval)) {
                measure = self.measure(now);
            }
        }
        self.group_load(members, measure, now)
    }

    fn replace_members(&mut self, members: &GroupMembers, now: Timestamp) {
        *self = Self {
            members: Some(members.clone()),
            unchanged_since: Some(now),
            quiet_since: self.quiet_since,
            last_measure: self.last_measure,
            intervals: std::mem::take(&mut self.intervals),
            ..Self::default()
        };
    }

    fn update_states(&mut self, reader_count: usize, behind: &BTreeSet<&str>, now: Timestamp) {
        let is_mostly_behind = reader_count > 0 && 2 * behind.len() >= reader_count;
        self.mostly_behind_since = is_mostly_behind.then(|| self.mostly_behind_since.unwrap_or(now));
        self.quiet_since = behind.is_empty().then(|| self.quiet_since.unwrap_or(now));
    }

    /// Adds the interval to the samples. Returns true if one was completed.
    fn update_samples(
        &mut self,
        readers: &[Reader],
        behind: &BTreeSet<&str>,
        (members, interval): (&GroupMembers, Interval<'_>),
    ) -> bool {
        let mut is_completed = false;
        for reader in readers {
            let is_behind = behind.contains(reader.name.as_str());
            let new = Run {
                seconds: 0.0,
                records: 0,
                is_behind,
            };
            let run = self.runs.entry(reader.name.clone()).or_insert(new);
            if run.is_behind != is_behind {
                *run = new;
                if !is_behind {
                    self.samples.remove(&reader.name);
                }
            }
            let records: u64 = reader
                .partitions
                .iter()
                .filter_map(|partition| Some(interval.partitions.get(*partition)?.committed))
                .sum();
            run.seconds += interval.seconds;
            run.records += records;
            if records > 0 {
                self.committed.insert(reader.name.clone());
            }
            let has_records = !is_behind || run.records >= MIN_SAMPLE_RECORDS;
            if run.seconds >= SAMPLE_TIME.as_secs_f64() && has_records {
                let workers = match members {
                    GroupMembers::Hidden(workers) => f64::from(*workers),
                    _ => 1.0,
                };
                let records_per_second = to_f64(run.records) / run.seconds / workers;
                let sample = RateSample {
                    records_per_second,
                    is_behind,
                };
                self.samples.insert(reader.name.clone(), (interval.now, sample));
                *run = new;
                is_completed = true;
            }
        }
        self.has_committed = behind.iter().all(|name| self.committed.contains(*name));
        is_completed
    }

    fn recent_samples(&self, now: Timestamp) -> impl Iterator<Item = (&str, RateSample)> {
        self.samples
            .iter()
            .filter(move |(_, (time, _))| now.duration_since(*time) <= SAMPLE_MAX_AGE)
            .map(|(name, (_, sample))| (name.as_str(), *sample))
    }

    /// Evidence of the capacity of a worker: the upper quartile of those that are behind, unless one that keeps up does
    /// more.
    fn measure(&mut self, now: Timestamp) -> Option<Measure> {
        let (behind, keeps_up): (Vec<_>, Vec<_>) = self
            .recent_samples(now)
            .map(|(_, sample)| sample)
            .partition(|sample| sample.is_behind);
        let rates = |samples: Vec<RateSample>| {
            let mut rates: Vec<f64> = samples.iter().map(|sample| sample.records_per_second).collect();
            rates.sort_by(|left, right| right.total_cmp(left));
            rates
        };
        let behind = rates(behind);
        let best = behind.get(behind.len() / 4).copied().unwrap_or(0.0);
        let keeps_up = rates(keeps_up).first().copied().unwrap_or(0.0);
        if best > 0.0 && best >= keeps_up {
            let before = self.last_measure.replace(best);
            Some(Measure::Behind { rate: best, before })
        } else {
            (keeps_up > 0.0).then_some(Measure::KeepsUp(keeps_up))
        }
    }

    fn group_load(&self, members: &GroupMembers, measure: Option<Measure>, now: Timestamp) -> GroupLoad {
        let best = self
            .recent_samples(now)
            .map(|(_, sample)| sample.records_per_second)
            .fold(0.0, f64::max);
        let samples: BTreeMap<&str, RateSample> = self.recent_samples(now).collect();
        let (worker_count, members, is_assigning) = match members {
            GroupMembers::Hidden(workers) => (*workers, Vec::new(), false),
            GroupMembers::Assigning => (0, Vec::new(), true),
            GroupMembers::Assigned(members) => {
                let loads = members.iter().map(|(name, partitions)| {
                    let sample = samples.get(name.as_str()).copied();
                    MemberLoad {
                        name: name.clone(),
                        partitions: partitions.clone(),
                        sample,
                        is_slow: sample.is_some_and(|sample| {
                            sample.is_behind && sample.records_per_second < SLOW_SHARE * best
                        }),
                    }
                });
                (
                    u32::try_from(members.len()).unwrap_or(u32::MAX),
                    loads.collect(),
                    false,
                )
            }
        };
        GroupLoad {
            worker_count,
            members,
            unchanged_since: self.unchanged_since,
            assigning_since: self.unchanged_since.filter(|_| is_assigning),
            mostly_behind_since: self.mostly_behind_since,
            quiet_since: self.quiet_since,
            has_committed: self.has_committed,
            measure,
        }
    }
}

/// Member with at least one partition.
struct Reader {
    name: String,
    partitions: Vec<usize>,
}

/// Names of the readers that are behind: one of their partitions is late; half of them while the members are hidden.
fn members_behind<'r>(
    readers: &'r [Reader],
    members: &GroupMembers,
    interval: Interval<'_>,
) -> BTreeSet<&'r str> {
    let is_behind = |reader: &&Reader| {
        let late = reader.partitions.iter().filter(|partition| {
            interval
                .partitions
                .get(**partition)
                .is_some_and(|partition| partition.is_late)
        });
        match members {
            GroupMembers::Hidden(_) => 2 * late.count() >= reader.partitions.len(),
            _ => late.count() > 0,
        }
    };
    readers
        .iter()
        .filter(is_behind)
        .map(|reader| reader.name.as_str())
        .collect()
}

/// Members that read; the group as one reader while its members are hidden.
fn readers(members: &GroupMembers, partition_count: usize) -> Vec<Reader> {
    match members {
        GroupMembers::Assigning | GroupMembers::Hidden(0) => Vec::new(),
        GroupMembers::Hidden(_) => vec![Reader {
            name: String::new(),
            partitions: (0..partition_count).collect(),
        }],
        GroupMembers::Assigned(members) => members
            .iter()
            .filter(|(_, partitions)| !partitions.is_empty())
            .map(|(name, partitions)| Reader {
                name: name.clone(),
                partitions: partitions
                    .iter()
                    .filter_map(|id| usize::try_from(*id).ok())
                    .collect(),
            })
            .collect(),
    }
}
