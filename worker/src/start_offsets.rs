#![expect(
    clippy::disallowed_types,
    reason = "edge: reads and stores positions in PostgreSQL"
)]
//! Start offsets of assigned partitions, from the positions in PostgreSQL.
//!
//! A partition starts at its stored position; that position must be in the log, and must belong to this log: a topic that
//! was deleted and created again has another topic ID. The first start of a group decides the start offsets of all
//! partitions by `spec.source.startFrom`, before the first record is read. A partition that appears later is read from
//! its beginning, so that no record of it is skipped.

use std::collections::BTreeMap;

use crds::stage::StartFrom;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::consume::{PartitionOffsets, StartError, StartFuture, StartOffsets};
use crate::dead_letter::Origin;
use crate::position::{Stop, StoredPosition, find_stop};
use crate::position_store;
use crate::warehouse::Warehouse;

/// Start offsets of one stage.
pub struct WarehouseStartOffsets {
    /// Database that stores the positions.
    pub warehouse: Warehouse,
    /// Consumer group and source topic.
    pub origin: Origin,
    /// `spec.source.startFrom`.
    pub start_from: StartFrom,
}

impl StartOffsets for WarehouseStartOffsets {
    fn decides_all_partitions(&self) -> StartFuture<'_, bool> {
        Box::pin(async move {
            if self.start_from == StartFrom::Earliest {
                return Ok(false);
            }
            let read = async |connection: &mut _| position_store::read(connection, &self.origin).await;
            Ok(self.warehouse.transact(read).await?.is_empty())
        })
    }

    fn start_offsets(
        &self,
        topic_id: Uuid,
        partitions: BTreeMap<i32, PartitionOffsets>,
    ) -> StartFuture<'_, BTreeMap<i32, i64>> {
        Box::pin(async move {
            let store =
                async |connection: &mut _| self.store_start_offsets(connection, topic_id, &partitions).await;
            let positions = self.warehouse.transact(store).await?;
            match find_out_of_range(&self.origin.topic, &positions, &partitions) {
                Some(stop) => Err(StartError::Stopped(stop)),
                None => Ok(positions),
            }
        })
    }

    fn store_stop(&self, stop: Stop) -> StartFuture<'_, ()> {
        Box::pin(async move {
            let store =
                async |connection: &mut _| position_store::store_stop(connection, &self.origin, &stop).await;
            Ok(self.warehouse.transact(store).await?)
        })
    }

    fn start_time(&self) -> Option<i64> {
        match &self.start_from {
            StartFrom::Earliest | StartFrom::Latest => None,
            StartFrom::Timestamp(instant) => Some(instant.as_millisecond()),
        }
    }
}

impl WarehouseStartOffsets {
    /// Stores the start offsets of partitions without a position, and the topic ID of positions without one. Returns
    /// the positions of `partitions`.
    async fn store_start_offsets(
        &self,
        connection: &mut PgConnection,
        topic_id: Uuid,
        partitions: &BTreeMap<i32, PartitionOffsets>,
    ) -> Result<BTreeMap<i32, i64>, StartError> {
        position_store::lock_group(connection, &self.origin).await?;
        let mut stored = position_store::read(connection, &self.origin).await?;
        if let Some(stop) = find_stop(&self.origin.topic, topic_id, &stored) {
            return Err(StartError::Stopped(stop));
        }
        let starts = find_starts(&self.start_from, &stored, partitions);
        if !starts.is_empty() {
            position_store::insert(connection, &self.origin, topic_id, &starts).await?;
        }
        let adopted = find_adopted(&stored, partitions);
        if !adopted.is_empty() && !topic_id.is_nil() {
            position_store::adopt(connection, &self.origin, topic_id, &adopted).await?;
        }
        stored.retain(|partition, _| partitions.contains_key(partition));
        let stored = stored
            .into_iter()
            .map(|(partition, position)| (partition, position.next_offset));
        Ok(stored.chain(starts).collect())
    }
}

/// Start offsets of the partitions without a stored position.
///
/// A committed offset takes precedence over `Latest` and over a timestamp: the start was fixed before the first worker
/// ran. Records since then must not be lost. It does not take precedence over `Earliest`: if PostgreSQL lost the
/// position, it lost the effects too, and the whole log must be read.
fn find_starts(
    start_from: &StartFrom,
    stored: &BTreeMap<i32, StoredPosition>,
    partitions: &BTreeMap<i32, PartitionOffsets>,
) -> BTreeMap<i32, i64> {
    let is_committed = partitions.values().any(|offsets| offsets.committed.is_some());
    let start = |offsets: &PartitionOffsets| match start_from {
        _ if !stored.is_empty() => offsets.log.start,
        StartFrom::Earliest => offsets.log.start,
        StartFrom::Latest | StartFrom::Timestamp(_) => match offsets.committed {
            Some(committed) => committed,
            // It was added after the start of the other partitions was fixed.
            None if is_committed => offsets.log.start,
            None => offsets.at_start_time.unwrap_or(offsets.log.end),
        },
    };
    partitions
        .iter()
        .filter(|(partition, _)| !stored.contains_key(partition))
        .map(|(&partition, offsets)| (partition, start(offsets)))
        .collect()
}

/// Partitions whose position has no topic ID, and is in the log: it was stored by a previous version.
fn find_adopted(
    stored: &BTreeMap<i32, StoredPosition>,
    partitions: &BTreeMap<i32, PartitionOffsets>,
) -> Vec<i32> {
    let adopted = stored.iter().filter(|(partition, position)| {
        let offsets = partitions.get(partition);
        position.topic_id.is_nil()
            && offsets.is_some_and(|offsets| offsets.log.contains(position.next_offset))
    });
    adopted.map(|(&partition, _)| partition).collect()
}

/// Returns the stop for the first position that is outside of the log.
fn find_out_of_range(
    topic: &str,
    positions: &BTreeMap<i32, i64>,
    partitions: &BTreeMap<i32, PartitionOffsets>,
) -> Option<Stop> {
    partitions.iter().find_map(|(&partition, offsets)| {
        let position = *positions.get(&partition)?;
        let is_in_log = offsets.log.contains(position);
        (!is_in_log).then(|| Stop::out_of_range(topic, partition, position, offsets.log))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogRange;

    fn partition_offsets(committed: Option<i64>) -> PartitionOffsets {
        PartitionOffsets {
            log: LogRange { start: 5, end: 50 },
            committed,
            at_start_time: None,
        }
    }

    fn stored(next_offset: i64) -> StoredPosition {
        StoredPosition {
            next_offset,
            topic_id: Uuid::nil(),
            stop: None,
        }
    }

    fn timestamp() -> StartFrom {
        StartFrom::Timestamp("2024-02-24T00:00:00Z".parse().expect("a timestamp"))
    }

    #[test]
    fn the_first_start_of_a_group_is_that_of_start_from() {
        for (start_from, at_start_time, without_commit, with_commit) in [
            (StartFrom::Earliest, None, 5, 5),
            (StartFrom::Latest, None, 50, 30),
            (timestamp(), Some(20), 20, 30),
        ] {
            for (committed, expected) in [(None, without_commit), (Some(30), with_commit)] {
                let offsets = PartitionOffsets {
                    at_start_time,
                    ..partition_offsets(committed)
                };
                let starts = find_starts(&start_from, &BTreeMap::new(), &BTreeMap::from([(0, offsets)]));
                assert_eq!(
                    starts,
                    BTreeMap::from([(0, expected)]),
                    "{start_from:?}, {committed:?}"
                );
            }
        }
    }

    #[test]
    fn a_partition_that_appears_later_is_read_from_its_beginning() {
        let late = PartitionOffsets {
            at_start_time: Some(20),
            ..partition_offsets(None)
        };
        for start_from in [StartFrom::Earliest, StartFrom::Latest, timestamp()] {
            // The group has a position of another partition.
            let starts = find_starts(
                &start_from,
                &BTreeMap::from([(0, stored(40))]),
                &BTreeMap::from([(1, late)]),
            );
            assert_eq!(starts, BTreeMap::from([(1, 5)]), "{start_from:?}");
        }
        // The start of another partition was committed before the first worker ran.
        let starts = find_starts(
            &StartFrom::Latest,
            &BTreeMap::new(),
            &BTreeMap::from([(0, partition_offsets(Some(30))), (1, late)]),
        );
        assert_eq!(starts, BTreeMap::from([(0, 30), (1, 5)]));
    }

    #[test]
    fn only_a_position_in_the_log_gets_the_topic_id() {
        let positions = BTreeMap::from([(0, stored(4)), (1, stored(5)), (2, stored(51)), (3, stored(7))]);
        let known = StoredPosition {
            topic_id: Uuid::from_u128(1),
            ..stored(7)
        };
        let positions: BTreeMap<_, _> = positions.into_iter().chain([(4, known)]).collect();
        let partitions = [0, 1, 2, 4].map(|partition| (partition, partition_offsets(None)));
        assert_eq!(find_adopted(&positions, &BTreeMap::from(partitions)), [1]);
    }

    #[test]
    fn a_position_outside_of_the_log_is_a_stop() {
        let partitions = BTreeMap::from([(2, partition_offsets(None))]);
        let find = |position| find_out_of_range("orders", &BTreeMap::from([(2, position)]), &partitions);
        assert!(find(5).is_none() && find(50).is_none());
        for position in [4, 51] {
            let stop = find(position).expect("not in the log");
            assert_eq!(stop.partition, Some(2));
            assert!(stop.detail.contains("5 to 50"), "{stop}");
        }
    }
}
