#![expect(
    clippy::disallowed_types,
    reason = "edge: stores pending orders in PostgreSQL"
)]
//! Pending orders: stored, but not published yet, because a reference data entry is missing.
//!
//! They belong to the topic that they came from: any worker that reads it may retry any of them, whichever consumer group
//! stored it. A worker locks a row only for one attempt, so another worker takes over the rows of a worker that crashed,
//! and two groups never process a row at the same time.

use sqlx::{PgConnection, Row as _};

use super::decode::{self, Order};
use crate::dead_letter::Origin;
use crate::decode::DecodeSettings;
use crate::metrics::PendingStatistics;
use crate::record::Record;
use crate::record_columns::{bind_records, record_from_row, text_array};
use crate::statement;
use crate::version::Version;

/// Maximum delay between two attempts, in seconds. The first delay is 1 s, and each is twice the previous one.
const MAX_BACKOFF_SECONDS: i32 = 30;

const INSERT: &str = "\
INSERT INTO stg.pending_enrichment (object_id, version, missing_entries, next_attempt_at, consumer_group, topic,
    partition, \"offset\", key, value, header_names, header_values, record_timestamp_ms, topic_id, record_bytes,
    record_timestamp)
SELECT pending.object_id, pending.version, pending.missing_entries::text[], now() + interval '1 second', $1, $2,
    pending.partition, pending.\"offset\", pending.key, pending.value, pending.names::text[],
    pending.values::bytea[], pending.record_timestamp_ms, pending.topic_id, pending.record_bytes,
    CASE WHEN pending.record_timestamp_ms BETWEEN -62135596800000 AND 253402300799999
        THEN timestamptz 'epoch' + pending.record_timestamp_ms * interval '1 millisecond' END
FROM unnest($3::integer[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::bigint[], $10::uuid[],
    $11::bigint[], $12::bigint[], $13::bytea[], $14::text[])
    AS pending (partition, \"offset\", key, value, names, values, record_timestamp_ms, topic_id, record_bytes,
        object_id, version, missing_entries)
ORDER BY pending.object_id, pending.version
ON CONFLICT (object_id, version) DO NOTHING";

const IS_STORED: &str = "\
SELECT EXISTS (SELECT FROM stg.order_events AS stored
               WHERE stored.object_id = redriven.object_id AND stored.version = redriven.version)
    OR EXISTS (SELECT FROM stg.order_event_history AS stored
               WHERE stored.object_id = redriven.object_id AND stored.version = redriven.version)
FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS redriven (object_id, version, ordinal)
ORDER BY redriven.ordinal";

/// Locks due orders and returns the first ones, up to `$3` bytes and at least one. The others are unlocked at the end of
/// the transaction. The sizes are read from the TOAST pointers, without the values.
const LOCK_DUE: &str = "\
WITH due AS MATERIALIZED (
    SELECT object_id, version, next_attempt_at,
        coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + 100 * cardinality(header_names)
            + (SELECT coalesce(sum(octet_length(header)), 0) FROM unnest(header_values) AS header) AS bytes
    FROM stg.pending_enrichment
    WHERE topic = $1 AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
), page AS MATERIALIZED (
    SELECT object_id, version, sum(bytes) OVER (ORDER BY next_attempt_at, object_id, version) - bytes AS bytes_before
    FROM due
)
SELECT object_id, version, missing_entries, topic_id, partition, \"offset\", key, value, header_names, header_values,
    record_timestamp_ms, attempts
FROM page JOIN stg.pending_enrichment USING (object_id, version)
WHERE bytes_before < $3
ORDER BY next_attempt_at";

const STATISTICS: &str = "\
SELECT count(*), coalesce(extract(epoch FROM now() - min(pending_since)), 0)::double precision
FROM stg.pending_enrichment WHERE topic = $1";

const POSTPONE: &str = "\
UPDATE stg.pending_enrichment AS pending
SET attempts = attempts + 1, missing_entries = retry.missing_entries::text[],
    next_attempt_at = now() + least($4::integer, 2 ^ least(pending.attempts, 10)) * interval '1 second'
FROM unnest($1::bigint[], $2::bytea[], $3::text[]) AS retry (object_id, version, missing_entries)
WHERE pending.object_id = retry.object_id AND pending.version = retry.version";

const DELETE: &str = "\
DELETE FROM stg.pending_enrichment AS pending
USING unnest($1::bigint[], $2::bytea[]) AS resolved (object_id, version)
WHERE pending.object_id = resolved.object_id AND pending.version = resolved.version";

/// Limits of the orders that one transaction retries.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Maximum number of orders.
    pub max_orders: usize,
    /// Maximum bytes of their records. The order that reaches the limit is the last one.
    pub max_bytes: usize,
}

/// Pending order that is due for another attempt.
#[derive(Clone)]
pub struct PendingOrder {
    /// Id of the order.
    pub object_id: i64,
    /// Version of the order, as stored.
    pub version: Vec<u8>,
    /// Entries that were missing at the last attempt.
    pub missing_entries: Vec<String>,
    /// Source record.
    pub record: Record,
    /// Number of attempts so far.
    pub attempts: i32,
}

impl PendingOrder {
    /// Time that the order has waited for its entries, in seconds: the delays before its attempts.
    ///
    /// An outage, in which no attempt succeeds, does not count, so that no order expires because of it.
    #[must_use]
    pub fn waited_seconds(&self) -> f64 {
        // The delays double from 1 s to 16 s, which is 31 s together; all others are the maximum.
        let doubled = 2_i32.pow(self.attempts.clamp(0, 5).unsigned_abs()) - 1;
        let others = self.attempts.saturating_sub(5).max(0);
        f64::from(doubled) + f64::from(others) * f64::from(MAX_BACKOFF_SECONDS)
    }
}

/// Order whose reference data is incomplete.
pub(super) struct UnresolvedOrder<'r> {
    pub record: &'r Record,
    pub object_id: i64,
    pub version: &'r Version,
    pub missing_entries: &'r [String],
}

/// Adds pending orders; one that is pending already stays unchanged.
pub(super) async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    orders: &[UnresolvedOrder<'_>],
) -> Result<(), sqlx::Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let query = statement::query(INSERT)
        .bind(&origin.consumer_group)
        .bind(&origin.topic);
    let query = bind_records(query, orders.iter().map(|order| order.record), |_| true)
        .bind(orders.iter().map(|order| order.object_id).collect::<Vec<_>>())
        .bind(
            orders
                .iter()
                .map(|order| order.version.as_bytes())
                .collect::<Vec<_>>(),
        )
        .bind(
            orders
                .iter()
                .map(|order| text_array(order.missing_entries))
                .collect::<Vec<_>>(),
        );
    query.execute(connection).await.map(drop)
}

/// Makes redriven orders pending again if they are stored already, because they would be duplicates in the topic.
/// Returns the other records, which must be produced to the source topic.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn requeue(
    connection: &mut PgConnection,
    origin: &Origin,
    settings: &DecodeSettings,
    records: Vec<Record>,
) -> Result<Vec<Record>, sqlx::Error> {
    let (mut decoded, mut others): (Vec<(Record, Order)>, Vec<Record>) = (Vec::new(), Vec::new());
    for record in records {
        // The latest possible time disables the clock check: a stored record has passed it before.
        match decode::decode_order(settings, &record, i64::MAX) {
            Ok(order) => decoded.push((record, order)),
            Err(_) => others.push(record),
        }
    }
    let orders = decoded.iter().map(|(_, order)| order.row.order_id());
    let versions = decoded.iter().map(|(_, order)| order.version.as_bytes());
    let is_stored: Vec<bool> = statement::query_scalar(IS_STORED)
        .bind(orders.collect::<Vec<_>>())
        .bind(versions.collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
    let mut is_stored = is_stored.into_iter();
    let (stored, new): (Vec<_>, Vec<_>) = decoded
        .into_iter()
        .partition(|_| is_stored.next().unwrap_or(false));
    others.extend(new.into_iter().map(|(record, _)| record));
    let unresolved = stored.iter().map(|(record, order)| UnresolvedOrder {
        record,
        object_id: order.row.order_id(),
        version: &order.version,
        missing_entries: &[],
    });
    let unresolved: Vec<UnresolvedOrder<'_>> = unresolved.collect();
    insert(connection, origin, &unresolved).await?;
    Ok(others)
}

/// Locks the orders that are due, and returns a page of them, the longest overdue first.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn lock_due(
    connection: &mut PgConnection,
    origin: &Origin,
    limits: PageLimits,
) -> Result<Vec<PendingOrder>, sqlx::Error> {
    let rows = statement::query(LOCK_DUE)
        .bind(&origin.topic)
        .bind(i64::try_from(limits.max_orders).unwrap_or(i64::MAX))
        .bind(i64::try_from(limits.max_bytes).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    // Each row is dropped as soon as it is copied.
    rows.into_iter()
        .map(|row| {
            Ok(PendingOrder {
                object_id: row.try_get("object_id")?,
                version: row.try_get("version")?,
                missing_entries: row.try_get("missing_entries")?,
                record: record_from_row(&row)?,
                attempts: row.try_get("attempts")?,
            })
        })
        .collect()
}

/// Reads the number and the age of the stage's pending orders.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn statistics(
    connection: &mut PgConnection,
    origin: &Origin,
) -> Result<PendingStatistics, sqlx::Error> {
    let (count, oldest_age_seconds) = statement::query_as(STATISTICS)
        .bind(&origin.topic)
        .fetch_one(connection)
        .await?;
    Ok(PendingStatistics {
        count,
        oldest_age_seconds,
    })
}

/// Deletes pending orders that are published or dead-lettered, by object id and version.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn delete(connection: &mut PgConnection, resolved: &[(i64, Vec<u8>)]) -> Result<(), sqlx::Error> {
    let (orders, versions): (Vec<i64>, Vec<&[u8]>) = resolved
        .iter()
        .map(|(order, version)| (order, version.as_slice()))
        .unzip();
    statement::query(DELETE)
        .bind(orders)
        .bind(versions)
        .execute(connection)
        .await?;
    Ok(())
}

/// Postpones orders, given by object id, version and missing entries. Each delay is twice the previous one.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn postpone(
    connection: &mut PgConnection,
    retries: &[(i64, Vec<u8>, Vec<String>)],
) -> Result<(), sqlx::Error> {
    statement::query(POSTPONE)
        .bind(retries.iter().map(|(order, ..)| *order).collect::<Vec<_>>())
        .bind(
            retries
                .iter()
                .map(|(_, version, _)| version.as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            retries
                .iter()
                .map(|(.., missing_entries)| text_array(missing_entries))
                .collect::<Vec<_>>(),
        )
        .bind(MAX_BACKOFF_SECONDS)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_waits_for_the_delays_between_its_attempts() {
        let waited = |attempts| {
            let order = PendingOrder {
                object_id: 1,
                version: Vec::new(),
                missing_entries: Vec::new(),
                record: Record::default(),
                attempts,
            };
            order.waited_seconds()
        };
        let expected = [(0, 0.0), (1, 1.0), (2, 3.0), (5, 31.0), (6, 61.0), (14, 301.0)];
        for (attempts, seconds) in expected {
            assert!(
                (waited(attempts) - seconds).abs() < 1e-9,
                "{attempts}: {}",
                waited(attempts)
            );
        }
        assert!(waited(i32::MAX) > 168.0 * 3600.0);
        assert!(waited(i32::MIN).abs() < 1e-9);
    }
}
