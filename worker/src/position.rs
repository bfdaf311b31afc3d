//! Offset ranges of batches, and the position check: how a range compares with the stored position.
//!
//! PostgreSQL owns the position; the offsets committed to Kafka are a copy for monitoring. Every transaction begins
//! with the position check, before any effect is written. It fences a worker that no longer owns the partition, and
//! it skips records that were applied before. Pure: the SQL is in [`crate::position_store`].

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

/// Offsets of one partition that a batch covers: `from` inclusive, `to` exclusive.
///
/// `from` is the end of the previous batch, not the first record. Offsets have gaps (compaction, transaction markers),
/// and the comparison with the stored position must not mistake a gap for missing records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// Topic ID of the log that the offsets belong to; nil if it is unknown.
    pub topic_id: Uuid,
    /// Position from which the batch was read.
    pub from: i64,
    /// Position after the last record.
    pub to: i64,
}

/// Offset ranges of a batch, by partition.
pub type OffsetRanges = BTreeMap<i32, OffsetRange>;

/// Formats offset ranges for a log field, such as `0:10..20 3:7..9`.
#[must_use]
pub fn format_ranges(ranges: &OffsetRanges) -> String {
    let ranges = ranges
        .iter()
        .map(|(partition, range)| format!("{partition}:{}..{}", range.from, range.to));
    ranges.collect::<Vec<_>>().join(" ")
}

/// Result of the position check for one offset range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeStatus {
    /// Records at or after this offset are to be applied; earlier ones were applied before.
    Apply(i64),
    /// Every record was applied before: by an attempt whose commit succeeded, or by another owner of the partition.
    Applied,
    /// Records before the range are missing, because the database was restored to an earlier point: read from here.
    SeekBack(i64),
}

/// Compares an offset range with the stored position.
#[must_use]
pub fn compare_position(range: OffsetRange, stored: i64) -> RangeStatus {
    if stored < range.from {
        RangeStatus::SeekBack(stored)
    } else if stored < range.to {
        RangeStatus::Apply(stored)
    } else {
        RangeStatus::Applied
    }
}

/// Records of a batch that this transaction applies, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyPlan {
    /// First offset to apply; a partition that is absent is skipped.
    pub apply_from: BTreeMap<i32, i64>,
    /// Partitions to read again, and the offset to start at.
    pub seeks: BTreeMap<i32, i64>,
}

impl ApplyPlan {
    /// Checks every range against the stored positions; a partition without a stored position is skipped.
    #[must_use]
    pub fn new(ranges: &OffsetRanges, stored: &BTreeMap<i32, i64>) -> Self {
        let mut plan = Self::default();
        for (&partition, &range) in ranges {
            let Some(&stored) = stored.get(&partition) else {
                continue;
            };
            match compare_position(range, stored) {
                RangeStatus::Apply(offset) => drop(plan.apply_from.insert(partition, offset)),
                RangeStatus::SeekBack(offset) => drop(plan.seeks.insert(partition, offset)),
                RangeStatus::Applied => {}
            }
        }
        plan
    }

    /// Returns true if the record at this offset is to be applied.
    #[must_use]
    pub fn includes(&self, partition: i32, offset: i64) -> bool {
        self.apply_from
            .get(&partition)
            .is_some_and(|&apply_from| offset >= apply_from)
    }
}

/// Offsets that the log of a partition retains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Log start offset: the first record that is retained.
    pub start: i64,
    /// Log end offset: the position after the last record.
    pub end: i64,
}

impl LogRange {
    /// Returns true if a consumer can start at `offset`; the end offset counts, because the next record will be
    /// there.
    #[must_use]
    pub fn contains(&self, offset: i64) -> bool {
        (self.start..=self.end).contains(&offset)
    }
}

/// Position of a partition, as PostgreSQL stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPosition {
    /// Next offset to read.
    pub next_offset: i64,
    /// Topic ID of the log that the offset belongs to; nil if it is unknown.
    pub topic_id: Uuid,
    /// Reason why the stage may not continue; `None` while it may.
    pub stop: Option<Stop>,
}

impl StoredPosition {
    /// Returns the stop of a stage that reads the partition in the log `topic_id`.
    #[must_use]
    pub fn find_stop(&self, topic: &str, topic_id: Uuid) -> Option<Stop> {
        if is_same_log(self.topic_id, topic_id) {
            self.stop.clone()
        } else {
            Some(Stop::topic_recreated(topic, self.topic_id, topic_id))
        }
    }
}

/// Stop of a stage that lasts until `worker reset-offsets`: any automatic choice of a new position would skip records,
/// or mistake new ones for old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Reason of the stop.
    pub reason: StopReason,
    /// Partition whose position has lost its meaning; `None` if those of all partitions have.
    pub partition: Option<i32>,
    /// Topic and partition, with the offsets or the topic IDs.
    pub detail: String,
}

/// Reason of a [`Stop`]. The names are in log lines, in `streamstage.position` and in the status of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The stored position is not in the log: retention was faster than the stage, or the log was truncated.
    OffsetOutOfRange,
    /// The topic was deleted and created again: the stored positions belong to another log.
    TopicRecreated,
}

impl StopReason {
    /// Returns the reason of this name, as [`fmt::Display`] formats it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::OffsetOutOfRange, Self::TopicRecreated]
            .into_iter()
            .find(|reason| reason.to_string() == name)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; run `worker reset-offsets` to choose the new position: any automatic choice would skip records or \
             mistake new ones for old",
            self.reason, self.detail
        )
    }
}

impl Stop {
    /// The position of a partition is not in its log.
    #[must_use]
    pub fn out_of_range(topic: &str, partition: i32, position: i64, log: LogRange) -> Self {
        let LogRange { start, end } = log;
        Self {
            reason: StopReason::OffsetOutOfRange,
            partition: Some(partition),
            detail: format!(
                "{topic}, partition {partition}: the position is {position}, the log holds {start} to {end}"
            ),
        }
    }

    /// The positions belong to the log `stored`, and the topic now is the log `current`.
    #[must_use]
    pub fn topic_recreated(topic: &str, stored: Uuid, current: Uuid) -> Self {
        Self {
            reason: StopReason::TopicRecreated,
            partition: None,
            detail: format!(
                "{topic}: the positions belong to the topic ID {stored}, the topic now has {current}"
            ),
        }
    }
}

/// Returns true if two topic IDs can be those of one log: they are equal, or one of them is unknown.
#[must_use]
pub fn is_same_log(left: Uuid, right: Uuid) -> bool {
    left == right || left.is_nil() || right.is_nil()
}

/// Returns the stop of a stage that reads the log `topic_id`. A position in another log precedes a stored stop.
#[must_use]
pub fn find_stop(topic: &str, topic_id: Uuid, stored: &BTreeMap<i32, StoredPosition>) -> Option<Stop> {
    let mut positions = stored.values();
    let other_log = positions.find(|position| !is_same_log(position.topic_id, topic_id));
    let stopped = other_log.or_else(|| stored.values().find(|position| position.stop.is_some()));
    stopped?.find_stop(topic, topic_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RANGE: OffsetRange = OffsetRange {
        topic_id: Uuid::nil(),
        from: 10,
        to: 20,
    };

    #[test]
    fn each_stored_position_has_its_range_status() {
        assert_eq!(compare_position(RANGE, 10), RangeStatus::Apply(10));
        assert_eq!(compare_position(RANGE, 15), RangeStatus::Apply(15));
        assert_eq!(compare_position(RANGE, 20), RangeStatus::Applied);
        assert_eq!(compare_position(RANGE, 99), RangeStatus::Applied);
        assert_eq!(compare_position(RANGE, 9), RangeStatus::SeekBack(9));
    }

    #[test]
    fn the_plan_of_a_batch_has_every_partition_with_a_stored_position() {
        let range = |from, to| OffsetRange {
            topic_id: Uuid::nil(),
            from,
            to,
        };
        let ranges = OffsetRanges::from([(0, RANGE), (1, range(0, 5)), (2, range(7, 9)), (3, range(0, 1))]);
        let stored = BTreeMap::from([(0, 15), (1, 5), (2, 6)]);
        let plan = ApplyPlan::new(&ranges, &stored);
        assert_eq!(plan.apply_from, BTreeMap::from([(0, 15)]));
        assert_eq!(plan.seeks, BTreeMap::from([(2, 6)]));
        assert!(plan.includes(0, 15) && plan.includes(0, 19));
        assert!(!plan.includes(0, 14) && !plan.includes(1, 5) && !plan.includes(3, 0));
    }

    #[test]
    fn a_stop_has_a_name_and_a_remedy() {
        for reason in [StopReason::OffsetOutOfRange, StopReason::TopicRecreated] {
            assert_eq!(StopReason::from_name(&reason.to_string()), Some(reason));
        }
        assert_eq!(StopReason::from_name("Another"), None);
        let stop = Stop::out_of_range("orders", 3, 7, LogRange { start: 8, end: 9 });
        let text = stop.to_string();
        for part in [
            "OffsetOutOfRange",
            "orders, partition 3",
            "is 7",
            "8 to 9",
            "worker reset-offsets",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_consumer_can_start_at_the_log_end_offset_but_not_after_it() {
        let log = LogRange { start: 5, end: 9 };
        assert!(log.contains(5) && log.contains(9));
        assert!(!log.contains(4) && !log.contains(10));
    }

    #[test]
    fn the_log_field_of_a_batch_names_every_partition_and_its_offsets() {
        let ranges = OffsetRanges::from([
            (0, RANGE),
            (
                3,
                OffsetRange {
                    from: 7,
                    to: 9,
                    ..RANGE
                },
            ),
        ]);
        assert_eq!(format_ranges(&ranges), "0:10..20 3:7..9");
    }

    #[test]
    fn a_position_in_another_log_stops_the_stage_unless_an_id_is_unknown() {
        let [first, second] = [1, 2].map(Uuid::from_u128);
        let stored = |topic_id| {
            let position = StoredPosition {
                next_offset: 7,
                topic_id,
                stop: None,
            };
            BTreeMap::from([(3, position)])
        };
        for (stored_id, current) in [(first, first), (Uuid::nil(), first), (first, Uuid::nil())] {
            assert_eq!(find_stop("orders", current, &stored(stored_id)), None);
        }
        let stop = find_stop("orders", second, &stored(first)).expect("another log");
        assert_eq!((stop.reason, stop.partition), (StopReason::TopicRecreated, None));
        let text = stop.to_string();
        for part in [
            "TopicRecreated: orders",
            &first.to_string(),
            &second.to_string(),
            "worker reset-offsets",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_stored_stop_lasts_although_the_position_is_in_the_log_again() {
        let stop = Stop::out_of_range("orders", 3, 7, LogRange { start: 9, end: 12 });
        let position = |stop| StoredPosition {
            next_offset: 7,
            topic_id: Uuid::nil(),
            stop,
        };
        let stored = BTreeMap::from([(2, position(None)), (3, position(Some(stop.clone())))]);
        assert_eq!(find_stop("orders", Uuid::nil(), &stored), Some(stop.clone()));
        let text = stop.to_string();
        assert!(
            text.starts_with("OffsetOutOfRange: orders, partition 3"),
            "{text}"
        );
        assert!(
            text.contains("the position is 7, the log holds 9 to 12"),
            "{text}"
        );
        for reason in [StopReason::OffsetOutOfRange, StopReason::TopicRecreated] {
            assert_eq!(StopReason::from_name(&reason.to_string()), Some(reason));
        }
        assert_eq!(StopReason::from_name("Renamed"), None);
    }

    proptest! {
        /// Two owners of one partition, in any interleaving: together they apply each offset once, in order.
        #[test]
        fn two_owners_apply_each_offset_once(turns: Vec<(bool, u8)>) {
            let (mut stored, mut reads, mut applied) = (0, [0, 0], Vec::new());
            for (owner, length) in turns {
                let read = &mut reads[usize::from(owner)];
                let range = OffsetRange { from: *read, to: *read + 1 + i64::from(length % 5), ..RANGE };
                let plan = ApplyPlan::new(&OffsetRanges::from([(0, range)]), &BTreeMap::from([(0, stored)]));
                applied.extend((range.from..range.to).filter(|&offset| plan.includes(0, offset)));
                if plan.apply_from.contains_key(&0) {
                    stored = range.to;
                }
                *read = plan.seeks.get(&0).copied().unwrap_or(range.to);
            }
            prop_assert!(applied.iter().copied().eq(0..stored));
        }
    }
}
