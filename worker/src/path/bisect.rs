#![expect(
    clippy::disallowed_types,
    reason = "edge: finds the record that PostgreSQL refuses"
)]
//! Finds the records that PostgreSQL refuses, by halves, and writes all the others.
//!
//! Every try stands behind a savepoint. A record whose values are at fault is refused; a record that fails for a
//! reason that nobody knows holds its partition: it and everything after it in that partition is left alone.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::batch::Rejected;
use crate::layer::{Effects, Layer};
use crate::policy::Policy;
use crate::record::{Item, Record};
use crate::rejection::{Code, Rejection};
use crate::warehouse::policy_of;

/// Partitions that are held: the offset, and the error.
pub(super) type Held = BTreeMap<i32, (i64, String)>;

/// What came of the items.
#[derive(Default)]
pub(super) struct Found {
    pub effects: Effects,
    pub refused: Vec<Rejected>,
    pub held: Held,
}

/// Whether the record stands at, or after, the one that its partition is held at.
pub(super) fn is_held(held: &Held, record: &Record) -> bool {
    held.get(&record.partition)
        .is_some_and(|(offset, _)| record.offset >= *offset)
}

/// Writes what can be written. The items of a partition stand in the order of their offsets.
///
/// # Errors
/// What a retry may mend; the caller's transaction is lost then.
pub(super) async fn write<L: Layer>(
    layer: &L,
    connection: &mut PgConnection,
    items: &[&Item<L::Enriched>],
) -> Result<Found, sqlx::Error> {
    let mut found = Found::default();
    // Ranges still to try; the leftmost is the last, so that records are met in order.
    let mut ranges = Vec::with_capacity(64);
    ranges.push(0..items.len());
    while let Some(range) = ranges.pop() {
        let (places, tried): (Vec<usize>, Vec<&Item<L::Enriched>>) = range
            .clone()
            .map(|place| (place, items[place]))
            .filter(|(_, item)| !is_held(&found.held, &item.record))
            .unzip();
        if tried.is_empty() {
            continue;
        }
        sqlx::raw_sql("SAVEPOINT half").execute(&mut *connection).await?;
        let error = match layer.write(connection, &tried).await {
            Ok(effects) => {
                sqlx::raw_sql("RELEASE SAVEPOINT half")
                    .execute(&mut *connection)
                    .await?;
                found.effects.append(effects, &places);
                continue;
            }
            Err(error) => error,
        };
        let policy = policy_of(&error);
        if !matches!(policy, Policy::DeadLetter | Policy::Hold) {
            return Err(error);
        }
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT half")
            .execute(&mut *connection)
            .await?;
        if let [culprit] = tried[..] {
            blame(&mut found, &culprit.record, policy, &error);
        } else {
            let middle = range.start + range.len() / 2;
            ranges.extend([middle..range.end, range.start..middle]);
        }
    }
    Ok(found)
}

fn blame(found: &mut Found, record: &Record, policy: Policy, error: &sqlx::Error) {
    if policy == Policy::DeadLetter {
        found.refused.push(Rejected {
            record: record.clone(),
            rejection: refused(error),
        });
    } else {
        found.held.insert(
            record.partition,
            (record.offset, format!("offset {}: {error}", record.offset)),
        );
    }
}

/// The verdict on a record whose values PostgreSQL refuses.
pub(super) fn refused(error: &sqlx::Error) -> Rejection {
    let database = error.as_database_error();
    let sqlstate = database
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap_or_default();
    let message = database.map_or("", |error| error.message());
    Rejection::new(Code::WarehouseRefused, format!("SQLSTATE {sqlstate}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_record_holds_what_comes_after_it_in_its_partition_alone() {
        let held = Held::from([(1, (5, "P0001".to_owned()))]);
        let record = |partition, offset| Record {
            partition,
            offset,
            ..Record::default()
        };
        for (partition, offset, expected) in [(1, 4, false), (1, 5, true), (1, 6, true), (2, 6, false)] {
            let found = is_held(&held, &record(partition, offset));
            assert_eq!(found, expected, "{partition}, {offset}");
        }
    }
}
