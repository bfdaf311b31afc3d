#![expect(
    clippy::disallowed_types,
    reason = "edge: finds the records that PostgreSQL rejects"
)]
//! Finds the records that PostgreSQL rejects, by bisection, and writes all others.
//!
//! Every attempt runs behind a savepoint. A record with invalid values becomes a rejected record. A record that fails
//! for an unknown reason blocks its partition: it and all later records of the partition are left out.

use sqlx::PgConnection;

use crate::batch::{BlockedPartitions, RejectedRecord};
use crate::error_policy::ErrorPolicy;
use crate::layer::interface::{Effects, Layer};
use crate::record::{Item, Record};
use crate::rejection::{Code, Rejection};
use crate::warehouse::error_policy;

/// Result of a bisection.
#[derive(Default)]
pub(super) struct BisectOutcome {
    /// Effects of the items that were written.
    pub effects: Effects,
    /// Items with invalid values.
    pub rejected: Vec<RejectedRecord>,
    /// Partitions of the items that failed for an unknown reason.
    pub blocked: BlockedPartitions,
}

/// Returns true if the partition of the record is blocked at or before the record.
pub(super) fn is_blocked(blocked: &BlockedPartitions, record: &Record) -> bool {
    blocked
        .get(&record.partition)
        .is_some_and(|(offset, _)| record.offset >= *offset)
}

/// Writes every item that can be written. The items of a partition must be in offset order.
///
/// # Errors
/// A transient or terminal error; the transaction of the caller is aborted then.
pub(super) async fn write<L: Layer>(
    layer: &L,
    connection: &mut PgConnection,
    items: &[&Item<L::Enriched>],
) -> Result<BisectOutcome, sqlx::Error> {
    let mut outcome = BisectOutcome::default();
    // Ranges to try; the leftmost is the last, so that the items of a partition are tried in offset order.
    let mut ranges = Vec::with_capacity(64);
    ranges.push(0..items.len());
    while let Some(range) = ranges.pop() {
        let (indices, candidates): (Vec<usize>, Vec<&Item<L::Enriched>>) = range
            .clone()
            .map(|index| (index, items[index]))
            .filter(|(_, item)| !is_blocked(&outcome.blocked, &item.record))
            .unzip();
        if candidates.is_empty() {
            continue;
        }
        sqlx::raw_sql("SAVEPOINT half").execute(&mut *connection).await?;
        let error = match layer.write(connection, &candidates).await {
            Ok(effects) => {
                sqlx::raw_sql("RELEASE SAVEPOINT half")
                    .execute(&mut *connection)
                    .await?;
                outcome.effects.append(effects, &indices);
                continue;
            }
            Err(error) => error,
        };
        let policy = error_policy(&error);
        if !matches!(policy, ErrorPolicy::DeadLetter | ErrorPolicy::Block) {
            return Err(error);
        }
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT half")
            .execute(&mut *connection)
            .await?;
        if let [failing] = candidates[..] {
            record_failure(&mut outcome, &failing.record, policy, &error);
        } else {
            let middle = range.start + range.len() / 2;
            ranges.extend([middle..range.end, range.start..middle]);
        }
    }
    Ok(outcome)
}

fn record_failure(outcome: &mut BisectOutcome, record: &Record, policy: ErrorPolicy, error: &sqlx::Error) {
    if policy == ErrorPolicy::DeadLetter {
        outcome.rejected.push(RejectedRecord {
            record: record.clone(),
            rejection: rejection_for(error),
        });
    } else {
        outcome.blocked.insert(
            record.partition,
            (record.offset, format!("offset {}: {error}", record.offset)),
        );
    }
}

/// Rejection of a record whose values PostgreSQL rejects, with SQLSTATE and message.
pub(super) fn rejection_for(error: &sqlx::Error) -> Rejection {
    let database = error.as_database_error();
    let sqlstate = database
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap_or_default();
    let message = database.map_or("", |error| error.message());
    Rejection::new(Code::WarehouseRejected, format!("SQLSTATE {sqlstate}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_record_blocks_later_records_of_its_partition_only() {
        let blocked = BlockedPartitions::from([(1, (5, "P0001".to_owned()))]);
        let record = |partition, offset| Record {
            partition,
            offset,
            ..Record::default()
        };
        for (partition, offset, expected) in [(1, 4, false), (1, 5, true), (1, 6, true), (2, 6, false)] {
            let actual = is_blocked(&blocked, &record(partition, offset));
            assert_eq!(actual, expected, "{partition}, {offset}");
        }
    }
}
