//! Where a stage starts reading a partition. Asked at every assignment.
//!
//! The stored position, when the log holds it. A partition without one begins where `spec.source.startFrom` says,
//! and that is stored before the first record is read, so that it is decided once.

use std::collections::BTreeMap;

use crds::stage::StartFrom;

use crate::consume::{Log, StartError, Starting, Starts};
use crate::warehouse::Warehouse;

/// The starts of one stage.
pub struct Start {
    /// Where the positions are.
    pub warehouse: Warehouse,
    /// The source topic.
    pub topic: String,
    /// What the document says.
    pub from: StartFrom,
}

impl Starts for Start {
    fn starts(&self, logs: BTreeMap<i32, Log>) -> Starting<'_> {
        Box::pin(async move {
            let partitions: Vec<i32> = logs.keys().copied().collect();
            let mut positions = self.warehouse.positions(&partitions).await?;
            let absent = logs
                .iter()
                .filter(|(partition, _)| !positions.contains_key(partition));
            let begin: BTreeMap<i32, i64> = absent
                .map(|(&partition, log)| (partition, first_offset(&self.from, log)))
                .collect();
            if !begin.is_empty() {
                positions.extend(self.warehouse.begin_at(&begin).await?);
            }
            readable(&self.topic, &positions, &logs)?;
            Ok(positions)
        })
    }

    fn start_time(&self) -> Option<i64> {
        match &self.from {
            StartFrom::Earliest | StartFrom::Latest => None,
            StartFrom::Timestamp(instant) => Some(instant.as_millisecond()),
        }
    }
}

/// Where a partition without a position begins.
///
/// What the group has committed counts for `Latest` and for a timestamp: somebody has fixed the start before the
/// first worker came, and what arrived since is not to be lost. For `Earliest` it does not: when the position is
/// gone from PostgreSQL, so are the effects, and all of the log is to be read.
fn first_offset(from: &StartFrom, log: &Log) -> i64 {
    match from {
        StartFrom::Earliest => log.bounds.start,
        StartFrom::Latest => log.committed.unwrap_or(log.bounds.end),
        StartFrom::Timestamp(_) => log.committed.or(log.at_start_time).unwrap_or(log.bounds.end),
    }
}

/// Refuses positions that the log does not hold.
fn readable(
    topic: &str,
    positions: &BTreeMap<i32, i64>,
    logs: &BTreeMap<i32, Log>,
) -> Result<(), StartError> {
    for (partition, log) in logs {
        let Some(&position) = positions.get(partition) else {
            continue;
        };
        if !log.bounds.hold(position) {
            let place = format!("{topic}, partition {partition}");
            let cause = format!(
                "the position is {position}, the log holds {} to {}",
                log.bounds.start, log.bounds.end
            );
            return Err(StartError::out_of_range(&place, &cause));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Bounds;

    fn log(committed: Option<i64>) -> Log {
        Log {
            bounds: Bounds { start: 5, end: 50 },
            committed,
            at_start_time: Some(20),
        }
    }

    #[test]
    fn a_partition_without_a_position_begins_where_the_document_says() {
        let timestamp = StartFrom::Timestamp("2024-02-24T00:00:00Z".parse().expect("a timestamp"));
        for (from, fresh, committed) in [
            (StartFrom::Earliest, 5, 5),
            (StartFrom::Latest, 50, 30),
            (timestamp, 20, 30),
        ] {
            assert_eq!(first_offset(&from, &log(None)), fresh, "{from:?}");
            assert_eq!(
                first_offset(&from, &log(Some(30))),
                committed,
                "{from:?}, committed before"
            );
        }
    }

    #[test]
    fn a_position_outside_of_the_log_is_refused_with_the_numbers() {
        let logs = BTreeMap::from([(2, log(None))]);
        assert!(readable("orders", &BTreeMap::from([(2, 50)]), &logs).is_ok());
        for position in [4, 51] {
            let error =
                readable("orders", &BTreeMap::from([(2, position)]), &logs).expect_err("not in the log");
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
