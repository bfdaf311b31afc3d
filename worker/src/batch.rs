//! A batch in the pipeline, by type: fetched, decoded, enriched, written, published. Pure.
//!
//! Every step takes the batch of the previous step and returns the next one. A batch that was not published can never
//! be committed, because no function does that. Only the offset ranges are the same in every state.

use std::collections::BTreeMap;

use crate::layer::interface::Effects;
use crate::position::{ApplyPlan, OffsetRanges};
use crate::record::{Item, Record, RecordId};
use crate::rejection::{Code, Rejection};

/// A batch in the state `S`.
#[derive(Clone, Debug)]
pub struct Batch<S> {
    /// Offset ranges that the batch covers, by partition.
    pub ranges: OffsetRanges,
    /// Records, as the last step left them.
    pub state: S,
}

/// Records as the consumer read them.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Records in the order of arrival, which is offset order within a partition.
    pub records: Vec<Record>,
}

/// A record that becomes a dead letter.
#[derive(Clone, Debug)]
pub struct RejectedRecord {
    /// The record as received.
    pub record: Record,
    /// Code and detail of the dead letter.
    pub rejection: Rejection,
}

/// Records after decoding: each is an item or a rejected record.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// Records that conform to the contract.
    pub items: Vec<Item<T>>,
    /// Records that violate the contract.
    pub rejected: Vec<RejectedRecord>,
}

/// Records with everything that the write needs.
#[derive(Clone, Debug)]
pub struct Enriched<T> {
    /// Records to write.
    pub items: Vec<Item<T>>,
    /// Records to dead-letter.
    pub rejected: Vec<RejectedRecord>,
}

/// Effects, dead letters and positions, written in the open transaction.
#[derive(Debug)]
pub struct Written<'b, T> {
    /// Items of the apply plan; records that were applied before are absent.
    pub items: Vec<&'b Item<T>>,
    /// Effects of the write, by item.
    pub effects: Effects,
    /// Codes of the dead letters that were not stored before.
    pub dead_letters: Vec<Code>,
    /// Offsets from which the partitions continue.
    pub offset_updates: OffsetUpdates,
}

/// A batch whose outputs are all acknowledged: the only state that can be committed.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Effects of the write, as counts.
    pub effects: Effects,
    /// Records whose outputs are acknowledged.
    pub outputs: Vec<RecordId>,
    /// Codes of the new dead letters.
    pub dead_letters: Vec<Code>,
    /// Offsets from which the partitions continue.
    pub offset_updates: OffsetUpdates,
    /// Result of [`newest_timestamp`] for the records of the batch.
    pub newest_timestamp: Option<i64>,
}

/// Time by which the clock of a producer may be ahead, in milliseconds.
const MAX_TIMESTAMP_SKEW_MILLIS: i64 = 24 * 3_600_000;

/// Returns the newest Kafka timestamp, at most `now`. A timestamp that no clock explains is ignored: one record of the far
/// future would otherwise make a stage look fresh forever. All are in milliseconds since the Unix epoch.
#[must_use]
pub fn newest_timestamp(timestamps: impl Iterator<Item = i64>, now: i64) -> Option<i64> {
    let limit = now.saturating_add(MAX_TIMESTAMP_SKEW_MILLIS);
    let newest = timestamps.filter(|timestamp| *timestamp <= limit).max()?;
    Some(newest.min(now))
}

/// Blocked partitions, each with the offset of the failing record and the error.
pub type BlockedPartitions = BTreeMap<i32, (i64, String)>;

/// Offsets from which the partitions of a batch continue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetUpdates {
    /// New positions, stored in the same transaction as the effects.
    pub positions: BTreeMap<i32, i64>,
    /// Partitions to read again from an earlier offset.
    pub seeks: BTreeMap<i32, i64>,
    /// Partitions to block at a failing record.
    pub blocked: BlockedPartitions,
}

impl OffsetUpdates {
    /// Advances every partition of the plan to the end of its range, or to the record that blocks it.
    #[must_use]
    pub fn new(ranges: &OffsetRanges, plan: ApplyPlan, blocked: BlockedPartitions) -> Self {
        let end = |partition: &i32| {
            blocked
                .get(partition)
                .map_or(ranges[partition].to, |(offset, _)| *offset)
        };
        let positions = plan
            .apply_from
            .keys()
            .map(|partition| (*partition, end(partition)))
            .collect();
        Self {
            positions,
            seeks: plan.seeks,
            blocked,
        }
    }
}

impl Batch<Fetched> {
    /// Decodes every record with `decode`; a record that it rejects is passed on as a rejected record.
    #[must_use]
    pub fn decode<T>(self, decode: impl Fn(&Record) -> Result<T, Rejection>) -> Batch<Decoded<T>> {
        let mut items = Vec::with_capacity(self.state.records.len());
        let mut rejected = Vec::new();
        for record in self.state.records {
            match decode(&record) {
                Ok(value) => items.push(Item { record, value }),
                Err(rejection) => rejected.push(RejectedRecord { record, rejection }),
            }
        }
        Batch {
            ranges: self.ranges,
            state: Decoded { items, rejected },
        }
    }
}

impl<T> Batch<Decoded<T>> {
    /// Enriches every item with `enrich`; an item that it rejects is passed on as a rejected record.
    #[must_use]
    pub fn enrich<E>(self, enrich: impl Fn(T) -> Result<E, Rejection>) -> Batch<Enriched<E>> {
        let Decoded { items, mut rejected } = self.state;
        let mut enriched = Vec::with_capacity(items.len());
        for Item { record, value } in items {
            match enrich(value) {
                Ok(value) => enriched.push(Item { record, value }),
                Err(rejection) => rejected.push(RejectedRecord { record, rejection }),
            }
        }
        Batch {
            ranges: self.ranges,
            state: Enriched {
                items: enriched,
                rejected,
            },
        }
    }
}

impl<T> Batch<Enriched<T>> {
    /// Rejects the items for which `find_rejection` returns a rejection.
    pub fn reject(&mut self, find_rejection: impl Fn(&T) -> Option<Rejection>) {
        for item in std::mem::take(&mut self.state.items) {
            match find_rejection(&item.value) {
                Some(rejection) => self.state.rejected.push(RejectedRecord {
                    record: item.record,
                    rejection,
                }),
                None => self.state.items.push(item),
            }
        }
    }

    /// Rejects the item of the largest `size`. Items of size 0 stay: they have no output.
    pub fn reject_largest(&mut self, size: impl Fn(&T) -> usize, rejection: Rejection) {
        let sizes = self.state.items.iter().map(|item| size(&item.value));
        let largest = sizes.enumerate().max_by_key(|(_, size)| *size);
        if let Some((index, 1..)) = largest {
            let record = self.state.items.remove(index).record;
            self.state.rejected.push(RejectedRecord { record, rejection });
        }
    }

    /// Items and rejected records that the plan includes.
    #[must_use]
    pub fn records_to_apply(&self, plan: &ApplyPlan) -> (Vec<&Item<T>>, Vec<&RejectedRecord>) {
        let is_included = |record: &Record| plan.includes(record.partition, record.offset);
        let items = self
            .state
            .items
            .iter()
            .filter(|item| is_included(&item.record))
            .collect();
        let rejected = self
            .state
            .rejected
            .iter()
            .filter(|rejected| is_included(&rejected.record))
            .collect();
        (items, rejected)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::position::OffsetRange;

    fn range(from: i64, to: i64) -> OffsetRange {
        OffsetRange {
            topic_id: Uuid::nil(),
            from,
            to,
        }
    }

    fn record(partition: i32, offset: i64) -> Record {
        Record {
            partition,
            offset,
            ..Record::default()
        }
    }

    #[test]
    fn every_record_is_either_an_item_or_rejected() {
        let ranges = OffsetRanges::from([(0, range(0, 4))]);
        let batch = Batch {
            ranges,
            state: Fetched {
                records: (0..4).map(|offset| record(0, offset)).collect(),
            },
        };
        let reject_odd = |record: &Record| {
            if record.offset % 2 == 0 {
                Ok(record.offset)
            } else {
                Err(Rejection::new(Code::ParseError, "odd"))
            }
        };
        let decoded = batch.decode(reject_odd);
        assert!(decoded.state.items.iter().map(|item| item.value).eq([0, 2]));
        assert!(
            decoded
                .state
                .rejected
                .iter()
                .map(|rejected| rejected.record.offset)
                .eq([1, 3])
        );
    }

    #[test]
    fn the_position_of_a_blocked_partition_stops_at_the_failing_record() {
        let ranges = OffsetRanges::from([(0, range(0, 9)), (1, range(0, 9)), (2, range(5, 9))]);
        let plan = ApplyPlan {
            apply_from: BTreeMap::from([(0, 0), (1, 0)]),
            seeks: BTreeMap::from([(2, 3)]),
        };
        let blocked = BTreeMap::from([(1, (4, "P0001".to_owned()))]);
        let updates = OffsetUpdates::new(&ranges, plan, blocked);
        assert_eq!(updates.positions, BTreeMap::from([(0, 9), (1, 4)]));
        assert_eq!(updates.seeks, BTreeMap::from([(2, 3)]));
    }

    #[test]
    fn a_timestamp_of_the_far_future_does_not_hide_the_newest_record() {
        let day = MAX_TIMESTAMP_SKEW_MILLIS;
        let newest = |timestamps: &[i64]| newest_timestamp(timestamps.iter().copied(), 1_000_000);
        assert_eq!(newest(&[7, 9, 8]), Some(9));
        assert_eq!(newest(&[9, 1_000_000 + day + 1, i64::MAX]), Some(9));
        assert_eq!(newest(&[9, 1_000_000 + day]), Some(1_000_000));
        assert_eq!(newest(&[i64::MAX]), None);
        assert_eq!(newest(&[]), None);
    }

    #[test]
    fn records_that_were_applied_before_are_left_out() {
        let items = vec![
            Item {
                record: record(0, 5),
                value: (),
            },
            Item {
                record: record(0, 6),
                value: (),
            },
            Item {
                record: record(1, 1),
                value: (),
            },
        ];
        let batch = Batch {
            ranges: OffsetRanges::new(),
            state: Enriched {
                items,
                rejected: Vec::new(),
            },
        };
        let plan = ApplyPlan {
            apply_from: BTreeMap::from([(0, 6)]),
            seeks: BTreeMap::new(),
        };
        let (items, _) = batch.records_to_apply(&plan);
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].record.partition, items[0].record.offset), (0, 6));
    }

    #[test]
    fn an_enriched_item_that_is_rejected_becomes_a_rejected_record() {
        let mut batch = Batch {
            ranges: OffsetRanges::new(),
            state: Enriched {
                items: (0..3)
                    .map(|offset| Item {
                        record: record(0, offset),
                        value: offset,
                    })
                    .collect(),
                rejected: Vec::new(),
            },
        };
        batch.reject(|&value| (value == 1).then(|| Rejection::new(Code::OutputTooLarge, "1")));
        assert!(batch.state.items.iter().map(|item| item.value).eq([0, 2]));
        assert_eq!(batch.state.rejected.len(), 1);
        assert_eq!(batch.state.rejected[0].record.offset, 1);
        batch.reject_largest(
            |&value| usize::try_from(value).unwrap(),
            Rejection::new(Code::OutputTooLarge, "2"),
        );
        assert_eq!(batch.state.rejected[1].record.offset, 2);
        // The items that remain have no output.
        batch.reject_largest(|_| 0, Rejection::new(Code::OutputTooLarge, "0"));
        assert_eq!(batch.state.items.len(), 1);
    }
}
