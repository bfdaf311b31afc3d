//! Where a stage stands: the spans of offsets that batches cover, and what the stored position says of them.
//!
//! PostgreSQL owns the position; Kafka's committed offsets are a mirror for whoever reads the lag. Pure: the
//! SQL is in [`crate::warehouse`]. Asked first in every transaction, before any effect is written.

use std::collections::BTreeMap;

/// Offsets of one partition that a batch covers: from `from` up to, not including, `to`.
///
/// `from` is where the batch before it ended, not its first record: offsets have gaps (compaction, transaction
/// markers), and a comparison with the stored position must not stumble over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The position that the batch was read from.
    pub from: i64,
    /// The position after its last record.
    pub to: i64,
}

/// The spans of a batch by partition.
pub type Spans = BTreeMap<i32, Span>;

/// What the stored position says of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply the records from this offset on: all of them, or those that nobody has applied yet.
    Apply(i64),
    /// All of it is applied: by an earlier attempt whose commit went through, or by another owner.
    Applied,
    /// Records before the span are missing (the database was restored to an earlier point): read from here.
    SeekBack(i64),
}

/// Compares a span with the stored position.
#[must_use]
pub fn verdict(span: Span, stored: i64) -> Verdict {
    if stored < span.from {
        Verdict::SeekBack(stored)
    } else if stored < span.to {
        Verdict::Apply(stored)
    } else {
        Verdict::Applied
    }
}

/// What a batch may do in this transaction, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Offset from which on the records of a partition are applied; a partition that is not here is left alone.
    pub floors: BTreeMap<i32, i64>,
    /// Partitions to read again, and from where.
    pub seeks: BTreeMap<i32, i64>,
}

impl Claim {
    /// Decides for every span, given the stored positions; a partition without one is left alone.
    #[must_use]
    pub fn of(spans: &Spans, stored: &BTreeMap<i32, i64>) -> Self {
        let mut claim = Self::default();
        for (&partition, &span) in spans {
            let Some(&stored) = stored.get(&partition) else {
                continue;
            };
            match verdict(span, stored) {
                Verdict::Apply(floor) => drop(claim.floors.insert(partition, floor)),
                Verdict::SeekBack(offset) => drop(claim.seeks.insert(partition, offset)),
                Verdict::Applied => {}
            }
        }
        claim
    }

    /// Whether the record at this place is to be applied.
    #[must_use]
    pub fn covers(&self, partition: i32, offset: i64) -> bool {
        self.floors.get(&partition).is_some_and(|&floor| offset >= floor)
    }
}

/// What `worker reset-offsets`, or a partition that has no position yet, starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Offset of the first record that the log still holds.
    pub start: i64,
    /// Offset after the last record.
    pub end: i64,
}

impl Bounds {
    /// Whether reading can go on from `offset`.
    #[must_use]
    pub fn hold(&self, offset: i64) -> bool {
        (self.start..=self.end).contains(&offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: Span = Span { from: 10, to: 20 };

    #[test]
    fn each_stored_position_gets_its_verdict() {
        assert_eq!(verdict(SPAN, 10), Verdict::Apply(10));
        assert_eq!(verdict(SPAN, 15), Verdict::Apply(15));
        assert_eq!(verdict(SPAN, 20), Verdict::Applied);
        assert_eq!(verdict(SPAN, 99), Verdict::Applied);
        assert_eq!(verdict(SPAN, 9), Verdict::SeekBack(9));
    }

    #[test]
    fn the_end_of_the_log_can_be_read_from_and_the_offset_after_it_cannot() {
        let bounds = Bounds { start: 5, end: 9 };
        assert!(bounds.hold(5) && bounds.hold(9));
        assert!(!bounds.hold(4) && !bounds.hold(10));
    }

    proptest! {
        /// Two owners of one partition, in any interleaving: together they apply each offset once, in order.
        #[test]
        fn two_owners_apply_each_offset_once(turns: Vec<(bool, u8)>) {
            let (mut stored, mut reads, mut applied) = (0, [0, 0], Vec::new());
            for (owner, length) in turns {
                let read = &mut reads[usize::from(owner)];
                let span = Span { from: *read, to: *read + 1 + i64::from(length % 5) };
                let claim = Claim::of(&Spans::from([(0, span)]), &BTreeMap::from([(0, stored)]));
                applied.extend((span.from..span.to).filter(|&offset| claim.covers(0, offset)));
                if claim.floors.contains_key(&0) {
                    stored = span.to;
                }
                *read = claim.seeks.get(&0).copied().unwrap_or(span.to);
            }
            prop_assert!(applied.iter().copied().eq(0..stored));
        }
    }
}
