//! Offset ranges of batches, and the position check: how a range compares with the stored position.
//!
//! PostgreSQL owns the position; the offsets committed to Kafka are a copy for monitoring. Every transaction begins
//! with the position check, before any effect is written. It fences a worker that no longer owns the partition, and
//! it skips records that were applied before. Pure: the SQL is in [`crate::warehouse`].

use std::collections::BTreeMap;

/// Offsets of one partition that a batch covers: `from` inclusive, `to` exclusive.
///
/// `from` is the end of the previous batch, not the first record. Offsets have gaps (compaction, transaction markers),
/// and the comparison with the stored position must not mistake a gap for missing records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RANGE: OffsetRange = OffsetRange { from: 10, to: 20 };

    #[test]
    fn each_stored_position_has_its_range_status() {
        assert_eq!(compare_position(RANGE, 10), RangeStatus::Apply(10));
        assert_eq!(compare_position(RANGE, 15), RangeStatus::Apply(15));
        assert_eq!(compare_position(RANGE, 20), RangeStatus::Applied);
        assert_eq!(compare_position(RANGE, 99), RangeStatus::Applied);
        assert_eq!(compare_position(RANGE, 9), RangeStatus::SeekBack(9));
    }

    #[test]
    fn a_consumer_can_start_at_the_log_end_offset_but_not_after_it() {
        let log = LogRange { start: 5, end: 9 };
        assert!(log.contains(5) && log.contains(9));
        assert!(!log.contains(4) && !log.contains(10));
    }

    #[test]
    fn the_log_field_of_a_batch_names_every_partition_and_its_offsets() {
        let ranges = OffsetRanges::from([(0, RANGE), (3, OffsetRange { from: 7, to: 9 })]);
        assert_eq!(format_ranges(&ranges), "0:10..20 3:7..9");
    }

    proptest! {
        /// Two owners of one partition, in any interleaving: together they apply each offset once, in order.
        #[test]
        fn two_owners_apply_each_offset_once(turns: Vec<(bool, u8)>) {
            let (mut stored, mut reads, mut applied) = (0, [0, 0], Vec::new());
            for (owner, length) in turns {
                let read = &mut reads[usize::from(owner)];
                let range = OffsetRange { from: *read, to: *read + 1 + i64::from(length % 5) };
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
