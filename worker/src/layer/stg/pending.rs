#![expect(
    clippy::disallowed_types,
    reason = "edge: keeps the orders that wait for the dictionary in PostgreSQL"
)]
//! Orders that are stored and not yet published, because the dictionary lacks an id.
//!
//! Any worker of the stage may try any of them again: a row is locked for the time of one attempt, and a worker
//! that dies leaves it to the others.

use sqlx::{PgConnection, Row as _};

use super::decode::{self, Order};
use crate::dead_letter::Origin;
use crate::decode::Rules;
use crate::record::Record;
use crate::stored::{self, text_array};
use crate::version::Version;

/// Longest pause between two attempts, in seconds; the first is 1 s, and each is twice the one before.
const LONGEST_PAUSE: i32 = 30;

const INSERT: &str = "\
INSERT INTO stg.pending_enrichment (object_id, version, missing, next_attempt_at, consumer_group, topic,
    partition, \"offset\", key, value, header_names, header_values, record_timestamp)
SELECT waiting.object_id, waiting.version, waiting.missing::text[], now() + interval '1 second', $1, $2,
    waiting.partition, waiting.\"offset\", waiting.key, waiting.value, waiting.names::text[],
    waiting.values::bytea[], timestamptz 'epoch' + waiting.record_timestamp * interval '1 millisecond'
FROM unnest($3::integer[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::bigint[],
    $10::bigint[], $11::bytea[], $12::text[])
    AS waiting (partition, \"offset\", key, value, names, values, record_timestamp, object_id, version, missing)
ORDER BY waiting.object_id, waiting.version
ON CONFLICT (object_id, version) DO NOTHING";

const STORED: &str = "\
SELECT EXISTS (SELECT FROM stg.order_events AS known
               WHERE known.object_id = letter.object_id AND known.version = letter.version)
    OR EXISTS (SELECT FROM stg.order_event_history AS known
               WHERE known.object_id = letter.object_id AND known.version = letter.version)
FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS letter (object_id, version, place)
ORDER BY letter.place";

const DUE: &str = "\
SELECT object_id, version, missing, partition, \"offset\", key, value, header_names, header_values,
    (extract(epoch FROM record_timestamp) * 1000)::bigint AS record_timestamp,
    extract(epoch FROM now() - since)::double precision AS waited, attempts
FROM stg.pending_enrichment
WHERE consumer_group = $1 AND topic = $2 AND next_attempt_at <= now()
ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED";

const POSTPONE: &str = "\
UPDATE stg.pending_enrichment AS waiting
SET attempts = attempts + 1, missing = again.missing::text[],
    next_attempt_at = now() + least($4::integer, 2 ^ least(waiting.attempts, 10)) * interval '1 second'
FROM unnest($1::bigint[], $2::bytea[], $3::text[]) AS again (object_id, version, missing)
WHERE waiting.object_id = again.object_id AND waiting.version = again.version";

const DELETE: &str = "\
DELETE FROM stg.pending_enrichment AS waiting
USING unnest($1::bigint[], $2::bytea[]) AS done (object_id, version)
WHERE waiting.object_id = done.object_id AND waiting.version = done.version";

/// An order that is due for another attempt.
#[derive(Clone)]
pub struct Waiting {
    /// The order.
    pub object_id: i64,
    /// Its version, as it is stored.
    pub version: Vec<u8>,
    /// What the dictionary lacked at the last attempt.
    pub missing: Vec<String>,
    /// The record that it came with.
    pub record: Record,
    /// Seconds since it began to wait.
    pub waited: f64,
    /// Attempts so far.
    pub attempts: i32,
}

/// An order that lacks entries of the dictionary.
pub(super) struct Lacking<'r> {
    pub record: &'r Record,
    pub object_id: i64,
    pub version: &'r Version,
    pub missing: &'r [String],
}

/// Notes orders that lack an entry of the dictionary.
pub(super) async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    orders: &[Lacking<'_>],
) -> Result<(), sqlx::Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(INSERT)
        .bind(&origin.consumer_group)
        .bind(&origin.topic);
    let query = stored::bind(query, orders.iter().map(|order| order.record), |_| true)
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
                .map(|order| text_array(order.missing))
                .collect::<Vec<_>>(),
        );
    query.execute(connection).await.map(drop)
}

/// Lets orders wait again that were given up after they were stored: sent again they would be duplicates. Returns the
/// other records, which are not stored.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn wait_again(
    connection: &mut PgConnection,
    origin: &Origin,
    rules: &Rules,
    records: Vec<Record>,
) -> Result<Vec<Record>, sqlx::Error> {
    let (mut decoded, mut others): (Vec<(Record, Order)>, Vec<Record>) = (Vec::new(), Vec::new());
    for record in records {
        // What is stored was accepted when it came: no clock refuses it now.
        match decode::order(rules, &record, i64::MAX) {
            Ok(order) => decoded.push((record, order)),
            Err(_) => others.push(record),
        }
    }
    let orders = decoded.iter().map(|(_, order)| order.event.object_id);
    let versions = decoded.iter().map(|(_, order)| order.version.as_bytes());
    let stored: Vec<bool> = sqlx::query_scalar(STORED)
        .bind(orders.collect::<Vec<_>>())
        .bind(versions.collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
    let mut stored = stored.into_iter();
    let (waiting, unknown): (Vec<_>, Vec<_>) =
        decoded.into_iter().partition(|_| stored.next().unwrap_or(false));
    others.extend(unknown.into_iter().map(|(record, _)| record));
    let lacking = waiting.iter().map(|(record, order)| Lacking {
        record,
        object_id: order.event.object_id,
        version: &order.version,
        missing: &[],
    });
    let lacking: Vec<Lacking<'_>> = lacking.collect();
    insert(connection, origin, &lacking).await?;
    Ok(others)
}

/// Locks up to `limit` orders that are due, and returns them.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn due(
    connection: &mut PgConnection,
    origin: &Origin,
    limit: i64,
) -> Result<Vec<Waiting>, sqlx::Error> {
    let rows = sqlx::query(DUE)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Waiting {
                object_id: row.try_get("object_id")?,
                version: row.try_get("version")?,
                missing: row.try_get("missing")?,
                record: stored::record(row)?,
                waited: row.try_get("waited")?,
                attempts: row.try_get("attempts")?,
            })
        })
        .collect()
}

/// Ends the wait of these orders.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn delete(connection: &mut PgConnection, done: &[(i64, Vec<u8>)]) -> Result<(), sqlx::Error> {
    let (orders, versions): (Vec<i64>, Vec<&[u8]>) = done
        .iter()
        .map(|(order, version)| (order, version.as_slice()))
        .unzip();
    sqlx::query(DELETE)
        .bind(orders)
        .bind(versions)
        .execute(connection)
        .await?;
    Ok(())
}

/// Lets these orders wait longer, each twice as long as the last time.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn postpone(
    connection: &mut PgConnection,
    again: &[(i64, Vec<u8>, Vec<String>)],
) -> Result<(), sqlx::Error> {
    sqlx::query(POSTPONE)
        .bind(again.iter().map(|(order, ..)| *order).collect::<Vec<_>>())
        .bind(
            again
                .iter()
                .map(|(_, version, _)| version.as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(
            again
                .iter()
                .map(|(.., missing)| text_array(missing))
                .collect::<Vec<_>>(),
        )
        .bind(LONGEST_PAUSE)
        .execute(connection)
        .await?;
    Ok(())
}
