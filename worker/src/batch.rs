//! A batch on its path, by type: fetched, decoded, enriched, written, published. Pure.
//!
//! A step takes the batch of the step before it and gives the next one, so a batch that was not published cannot
//! be committed: there is no such function. Only the spans go all the way.

use std::collections::BTreeMap;

use crate::layer::Effects;
use crate::position::{Claim, Spans};
use crate::record::{Item, Record};
use crate::rejection::{Code, Rejection};

/// A batch in the state `S`.
#[derive(Clone, Debug)]
pub struct Batch<S> {
    /// The offsets that it covers, by partition.
    pub spans: Spans,
    /// What the last step made of its records.
    pub state: S,
}

/// As the consumer gathered it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The records, in the order of arrival: within a partition by offset.
    pub records: Vec<Record>,
}

/// A record on its way to the dead letters.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The record as it came.
    pub record: Record,
    /// Why.
    pub rejection: Rejection,
}

/// Read, or refused, record by record.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// Records that keep their contract.
    pub items: Vec<Item<T>>,
    /// Records that do not.
    pub rejected: Vec<Rejected>,
}

/// With everything that the write needs.
#[derive(Clone, Debug)]
pub struct Enriched<T> {
    /// Records to write.
    pub items: Vec<Item<T>>,
    /// Records that cannot be used.
    pub rejected: Vec<Rejected>,
}

/// In the open transaction: effects, dead letters and positions are written.
#[derive(Debug)]
pub struct Written<'b, T> {
    /// What was applied, the records that had been applied before left out.
    pub items: Vec<&'b Item<T>>,
    /// What the write did to the items.
    pub effects: Effects,
    /// The dead letters that are new.
    pub dead: Vec<Rejected>,
    /// What becomes of the partitions.
    pub moves: Moves,
}

/// Every output and dead letter is acknowledged: the only state that can be committed.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// What the write did, by count.
    pub effects: Effects,
    /// Codes of the new dead letters.
    pub dead: Vec<Code>,
    /// What becomes of the partitions.
    pub moves: Moves,
    /// Kafka timestamp of the newest record, in milliseconds since the Unix epoch.
    pub newest: Option<i64>,
}

/// Where the partitions of a batch go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// New positions, stored with the effects.
    pub positions: BTreeMap<i32, i64>,
    /// Partitions to read again from an earlier offset.
    pub seeks: BTreeMap<i32, i64>,
    /// Partitions to hold: the offset of the record that fails, and how.
    pub held: BTreeMap<i32, (i64, String)>,
}

impl Moves {
    /// Every partition that the claim covers moves past the batch, or stops at the record that it is held at.
    #[must_use]
    pub fn of(spans: &Spans, claim: Claim, held: BTreeMap<i32, (i64, String)>) -> Self {
        let end = |partition: &i32| {
            held.get(partition)
                .map_or(spans[partition].to, |(offset, _)| *offset)
        };
        let positions = claim
            .floors
            .keys()
            .map(|partition| (*partition, end(partition)))
            .collect();
        Self {
            positions,
            seeks: claim.seeks,
            held,
        }
    }
}

impl Batch<Fetched> {
    /// Reads every record with `decode`.
    #[must_use]
    pub fn decode<T>(self, decode: impl Fn(&Record) -> Result<T, Rejection>) -> Batch<Decoded<T>> {
        let mut items = Vec::with_capacity(self.state.records.len());
        let mut rejected = Vec::new();
        for record in self.state.records {
            match decode(&record) {
                Ok(value) => items.push(Item { record, value }),
                Err(rejection) => rejected.push(Rejected { record, rejection }),
            }
        }
        Batch {
            spans: self.spans,
            state: Decoded { items, rejected },
        }
    }
}

impl<T> Batch<Decoded<T>> {
    /// Joins every item with what `enrich` knows.
    #[must_use]
    pub fn enrich<E>(self, enrich: impl Fn(T) -> Result<E, Rejection>) -> Batch<Enriched<E>> {
        let Decoded { items, mut rejected } = self.state;
        let mut enriched = Vec::with_capacity(items.len());
        for Item { record, value } in items {
            match enrich(value) {
                Ok(value) => enriched.push(Item { record, value }),
                Err(rejection) => rejected.push(Rejected { record, rejection }),
            }
        }
        Batch {
            spans: self.spans,
            state: Enriched {
                items: enriched,
                rejected,
            },
        }
    }
}

impl<T> Batch<Enriched<T>> {
    /// Rejects the items that `refuse` finds fault with.
    pub fn reject(&mut self, refuse: impl Fn(&T) -> Option<Rejection>) {
        for item in std::mem::take(&mut self.state.items) {
            match refuse(&item.value) {
                Some(rejection) => self.state.rejected.push(Rejected {
                    record: item.record,
                    rejection,
                }),
                None => self.state.items.push(item),
            }
        }
    }

    /// Rejects the item of the largest `size`, if that is more than none.
    pub fn reject_largest(&mut self, size: impl Fn(&T) -> usize, rejection: Rejection) {
        let sized = self.state.items.iter().map(|item| size(&item.value));
        let largest = sized.enumerate().max_by_key(|(_, size)| *size);
        if let Some((place, 1..)) = largest {
            let record = self.state.items.remove(place).record;
            self.state.rejected.push(Rejected { record, rejection });
        }
    }

    /// The items and the rejected records that the claim covers.
    #[must_use]
    pub fn claimed(&self, claim: &Claim) -> (Vec<&Item<T>>, Vec<&Rejected>) {
        let covered = |record: &Record| claim.covers(record.partition, record.offset);
        let items = self
            .state
            .items
            .iter()
            .filter(|item| covered(&item.record))
            .collect();
        let rejected = self
            .state
            .rejected
            .iter()
            .filter(|rejected| covered(&rejected.record))
            .collect();
        (items, rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Span;

    fn record(partition: i32, offset: i64) -> Record {
        Record {
            partition,
            offset,
            ..Record::default()
        }
    }

    #[test]
    fn every_record_is_either_an_item_or_rejected() {
        let spans = Spans::from([(0, Span { from: 0, to: 4 })]);
        let batch = Batch {
            spans,
            state: Fetched {
                records: (0..4).map(|offset| record(0, offset)).collect(),
            },
        };
        let odd = |record: &Record| {
            if record.offset % 2 == 0 {
                Ok(record.offset)
            } else {
                Err(Rejection::new(Code::ParseError, "odd"))
            }
        };
        let decoded = batch.decode(odd);
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
    fn a_held_partition_stops_at_the_record_that_fails() {
        let spans = Spans::from([
            (0, Span { from: 0, to: 9 }),
            (1, Span { from: 0, to: 9 }),
            (2, Span { from: 5, to: 9 }),
        ]);
        let claim = Claim {
            floors: BTreeMap::from([(0, 0), (1, 0)]),
            seeks: BTreeMap::from([(2, 3)]),
        };
        let moves = Moves::of(&spans, claim, BTreeMap::from([(1, (4, "P0001".to_owned()))]));
        assert_eq!(moves.positions, BTreeMap::from([(0, 9), (1, 4)]));
        assert_eq!(moves.seeks, BTreeMap::from([(2, 3)]));
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
            spans: Spans::new(),
            state: Enriched {
                items,
                rejected: Vec::new(),
            },
        };
        let claim = Claim {
            floors: BTreeMap::from([(0, 6)]),
            seeks: BTreeMap::new(),
        };
        let (items, _) = batch.claimed(&claim);
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].record.partition, items[0].record.offset), (0, 6));
    }

    #[test]
    fn an_item_that_is_refused_later_goes_to_the_rejected_records() {
        let mut batch = Batch {
            spans: Spans::new(),
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
        // Nothing is left that has an output.
        batch.reject_largest(|_| 0, Rejection::new(Code::OutputTooLarge, "0"));
        assert_eq!(batch.state.items.len(), 1);
    }
}
