//! Start offsets of assigned partitions, from the positions in PostgreSQL.
//!
//! A partition starts at its stored position; that position must be in the log. A partition without a position starts
//! by `spec.source.startFrom`, and that position is stored before the first record is read, so that it is decided
//! once.

use std::collections::BTreeMap;

use crds::stage::StartFrom;

use crate::consume::{PartitionOffsets, StartError, StartOffsets, StartOffsetsFuture};
use crate::warehouse::Warehouse;

/// Start offsets of one stage.
pub struct WarehouseStartOffsets {
    /// Database that stores the positions.
    pub warehouse: Warehouse,
    /// Source topic.
    pub topic: String,
    /// `spec.source.startFrom`.
    pub start_from: StartFrom,
}

impl StartOffsets for WarehouseStartOffsets {
    fn start_offsets(&self, partitions: BTreeMap<i32, PartitionOffsets>) -> StartOffsetsFuture<'_> {
        Box::pin(async move {
            let ids: Vec<i32> = partitions.keys().copied().collect();
            let mut positions = self.warehouse.positions(&ids).await?;
            let new = partitions
                .iter()
                .filter(|(partition, _)| !positions.contains_key(partition));
            let starts: BTreeMap<i32, i64> = new
                .map(|(&partition, offsets)| (partition, first_offset(&self.start_from, offsets)))
                .collect();
            if !starts.is_empty() {
                positions.extend(self.warehouse.insert_start_positions(&starts).await?);
            }
            ensure_in_log(&self.topic, &positions, &partitions)?;
            Ok(positions)
        })
    }

    fn start_time(&self) -> Option<i64> {
        match &self.start_from {
            StartFrom::Earliest | StartFrom::Latest => None,
            StartFrom::Timestamp(instant) => Some(instant.as_millisecond()),
        }
    }
}

/// Start offset of a partition without a stored position.
///
/// A committed offset takes precedence over `Latest` and over a timestamp: the start was fixed before the first
/// worker ran. Records since then must not be lost. It does not take precedence over `Earliest`: if PostgreSQL lost
/// the position, it lost the effects too, and the whole log must be read.
fn first_offset(start_from: &StartFrom, offsets: &PartitionOffsets) -> i64 {
    match start_from {
        StartFrom::Earliest => offsets.log.start,
        StartFrom::Latest => offsets.committed.unwrap_or(offsets.log.end),
        StartFrom::Timestamp(_) => offsets
            .committed
            .or(offsets.at_start_time)
            .unwrap_or(offsets.log.end),
    }
}

/// Returns an error for the first position that is outside of the log.
fn ensure_in_log(
    topic: &str,
    positions: &BTreeMap<i32, i64>,
    partitions: &BTreeMap<i32, PartitionOffsets>,
) -> Result<(), StartError> {
    for (partition, offsets) in partitions {
        let Some(&position) = positions.get(partition) else {
            continue;
        };
        if !offsets.log.contains(position) {
            let partition = format!("{topic}, partition {partition}");
            let cause = format!(
                "the position is {position}, the log holds {} to {}",
                offsets.log.start, offsets.log.end
            );
            return Err(StartError::out_of_range(&partition, &cause));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogRange;

    fn partition_offsets(committed: Option<i64>) -> PartitionOffsets {
        PartitionOffsets {
            log: LogRange { start: 5, end: 50 },
            committed,
            at_start_time: Some(20),
        }
    }

    #[test]
    fn a_partition_without_a_position_starts_by_start_from() {
        let timestamp = StartFrom::Timestamp("2024-02-24T00:00:00Z".parse().expect("a timestamp"));
        for (start_from, without_commit, with_commit) in [
            (StartFrom::Earliest, 5, 5),
            (StartFrom::Latest, 50, 30),
            (timestamp, 20, 30),
        ] {
            assert_eq!(
                first_offset(&start_from, &partition_offsets(None)),
                without_commit,
                "{start_from:?}"
            );
            assert_eq!(
                first_offset(&start_from, &partition_offsets(Some(30))),
                with_commit,
                "{start_from:?}, with a committed offset"
            );
        }
    }

    #[test]
    fn the_error_for_a_position_outside_of_the_log_has_the_offsets() {
        let partitions = BTreeMap::from([(2, partition_offsets(None))]);
        assert!(ensure_in_log("orders", &BTreeMap::from([(2, 50)]), &partitions).is_ok());
        for position in [4, 51] {
            let error = ensure_in_log("orders", &BTreeMap::from([(2, position)]), &partitions)
                .expect_err("not in the log");
            let text = error.to_string();
            assert!(
                text.starts_with("OffsetOutOfRange: orders, partition 2"),
                "{text}"
            );
            assert!(
                text.contains(&position.to_string()) && text.contains("5 to 50"),
                "{text}"
            );
        }
    }
}
