#![expect(
    clippy::disallowed_types,
    reason = "edge: finds the records that PostgreSQL rejects"
)]
//! Finds the records that cannot be written, by bisection, and writes all others.
//!
//! Every attempt runs behind a savepoint. A record with invalid values, or one that makes the worker panic, becomes a
//! rejected record. A record that fails for an unknown reason, or whose dead letter cannot be stored, blocks its
//! partition: it and all later records of the partition are read again.

use sqlx::PgConnection;

use crate::batch::{BlockedPartitions, RejectedRecord};
use crate::dead_letter::{self, Origin, RejectedFrom};
use crate::error_policy::ErrorPolicy;
use crate::layer::interface::{Effects, Layer};
use crate::panic_guard::catch_panic;
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
        let failure = match catch_panic(layer.write(connection, &candidates)).await {
            Ok(Ok(effects)) => {
                sqlx::raw_sql("RELEASE SAVEPOINT half")
                    .execute(&mut *connection)
                    .await?;
                outcome.effects.append(effects, &indices);
                continue;
            }
            Ok(Err(error)) => Failure::from_error(error)?,
            Err(rejection) => Failure::Rejected(rejection),
        };
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT half")
            .execute(&mut *connection)
            .await?;
        if let [failing] = candidates[..] {
            outcome.add_failure(&failing.record, failure);
        } else {
            let middle = range.start + range.len() / 2;
            ranges.extend([middle..range.end, range.start..middle]);
        }
    }
    Ok(outcome)
}

/// Failure of a write that a record has caused.
enum Failure {
    Rejected(Rejection),
    Unknown(sqlx::Error),
}

impl Failure {
    /// Returns a transient or terminal error, which no record has caused.
    fn from_error(error: sqlx::Error) -> Result<Self, sqlx::Error> {
        match error_policy(&error) {
            ErrorPolicy::DeadLetter => Ok(Self::Rejected(rejection_for(&error))),
            ErrorPolicy::Block => Ok(Self::Unknown(error)),
            ErrorPolicy::Retry | ErrorPolicy::Stop => Err(error),
        }
    }
}

impl BisectOutcome {
    fn add_failure(&mut self, record: &Record, failure: Failure) {
        match failure {
            Failure::Rejected(rejection) => self.rejected.push(RejectedRecord {
                record: record.clone(),
                rejection,
            }),
            Failure::Unknown(error) => block(&mut self.blocked, record, &error.to_string()),
        }
    }
}

/// Blocks the partition at the record, unless it is blocked at an earlier one.
fn block(blocked: &mut BlockedPartitions, record: &Record, cause: &str) {
    let cause = format!("offset {}: {cause}", record.offset);
    let first = blocked
        .entry(record.partition)
        .or_insert_with(|| (record.offset, cause.clone()));
    if record.offset < first.0 {
        *first = (record.offset, cause);
    }
}

/// Result of [`insert_dead_letters`].
#[derive(Default)]
pub(super) struct InsertOutcome {
    /// Codes of the new dead letters.
    pub codes: Vec<Code>,
    /// Partitions of the records whose dead letter cannot be stored.
    pub blocked: BlockedPartitions,
}

/// Stores every dead letter that can be stored. The records of a blocked partition are read again, which finds those
/// that are stored already.
///
/// # Errors
/// A transient or terminal error; the transaction of the caller is aborted then.
pub(super) async fn insert_dead_letters(
    connection: &mut PgConnection,
    origin: &Origin,
    rejected: &[&RejectedRecord],
) -> Result<InsertOutcome, sqlx::Error> {
    let mut outcome = InsertOutcome::default();
    let mut ranges = Vec::with_capacity(16);
    ranges.push(0..rejected.len());
    while let Some(range) = ranges.pop() {
        let candidates = &rejected[range.clone()];
        sqlx::raw_sql("SAVEPOINT half").execute(&mut *connection).await?;
        let inserted = dead_letter::insert(connection, origin, candidates, RejectedFrom::Topic).await;
        let error = match inserted {
            Ok(codes) => {
                outcome.codes.extend(codes);
                continue;
            }
            Err(error) => error,
        };
        if matches!(error_policy(&error), ErrorPolicy::Retry | ErrorPolicy::Stop) {
            return Err(error);
        }
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT half")
            .execute(&mut *connection)
            .await?;
        if let [failing] = candidates {
            let cause = format!("the dead letter cannot be stored: {error}");
            block(&mut outcome.blocked, &failing.record, &cause);
        } else {
            let middle = range.start + range.len() / 2;
            ranges.extend([middle..range.end, range.start..middle]);
        }
    }
    Ok(outcome)
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
