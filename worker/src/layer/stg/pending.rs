#![expect(
    clippy::disallowed_types,
    reason = "edge: keeps the orders that wait for the dictionary in PostgreSQL"
)]
//! Orders that are stored and not yet published, because the dictionary lacks an id.
//!
//! Any worker of the stage may try any of them again: a row is locked for the time of one attempt, and a worker
//! that dies leaves it to the others.

use sqlx::{PgConnection, Row as _};

use super::Stg;
use super::decode::{self, Order};
use crate::dead_letter::{Origin, array, header_name, header_value, stored_record};
use crate::decode::Rules;
use crate::record::{Header, Record};
use crate::version::Version;

/// Longest pause between two attempts, in seconds; the first is 1 s, and each is twice the one before.
const LONGEST_PAUSE: i32 = 30;

const INSERT: &str = "\
INSERT INTO stg.pending_enrichment (object_id, version, missing, next_attempt_at, consumer_group, topic,
    partition, \"offset\", key, value, header_names, header_values, record_timestamp)
SELECT waiting.object_id, waiting.version, waiting.missing::text[], now() + interval '1 second', $1, $2,
    waiting.partition, waiting.\"offset\", waiting.key, waiting.value, waiting.names::text[],
    waiting.values::bytea[], timestamptz 'epoch' + waiting.record_timestamp * interval '1 millisecond'
FROM unnest($3::bigint[], $4::bytea[], $5::text[], $6::integer[], $7::bigint[], $8::bytea[], $9::bytea[],
    $10::text[], $11::text[], $12::bigint[])
    AS waiting (object_id, version, missing, partition, \"offset\", key, value, names, values, record_timestamp)
ORDER BY waiting.object_id, waiting.version
ON CONFLICT (object_id, version) DO NOTHING";

const DUE: &str = "\
SELECT object_id, version, partition, \"offset\", key, value, header_names, header_values,
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
pub struct Waiting {
    /// The order.
    pub object_id: i64,
    /// Its version, as it is stored.
    pub version: Vec<u8>,
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
    consumer_group: &str,
    topic: &str,
    orders: &[Lacking<'_>],
) -> Result<(), sqlx::Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let records = || orders.iter().map(|order| order.record);
    sqlx::query(INSERT)
        .bind(consumer_group)
        .bind(topic)
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
                .map(|order| quoted(order.missing))
                .collect::<Vec<_>>(),
        )
        .bind(records().map(|record| record.partition).collect::<Vec<_>>())
        .bind(records().map(|record| record.offset).collect::<Vec<_>>())
        .bind(records().map(|record| record.key.as_deref()).collect::<Vec<_>>())
        .bind(
            records()
                .map(|record| record.value.as_deref())
                .collect::<Vec<_>>(),
        )
        .bind(
            records()
                .map(|record| array(record.headers.iter().map(header_name)))
                .collect::<Vec<_>>(),
        )
        .bind(
            records()
                .map(|record| array(record.headers.iter().map(header_value)))
                .collect::<Vec<_>>(),
        )
        .bind(records().map(|record| record.timestamp).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Lets orders wait again that were given up: they are stored already, so their records cannot come again.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn wait_again(
    connection: &mut PgConnection,
    origin: &Origin,
    rules: &Rules,
    records: &[Record],
) -> Result<(), sqlx::Error> {
    // They were accepted when they came: no clock refuses them now.
    let decoded = records
        .iter()
        .map(|record| (record, decode::order(rules, record, i64::MAX)));
    let decoded: Vec<(&Record, Order)> = decoded
        .filter_map(|(record, order)| order.ok().map(|order| (record, order)))
        .collect();
    let lacking = decoded.iter().map(|(record, order)| Lacking {
        record,
        object_id: order.event.object_id,
        version: &order.version,
        missing: &[],
    });
    let orders: Vec<Lacking<'_>> = lacking.collect();
    insert(connection, &origin.consumer_group, &origin.topic, &orders).await
}

/// Locks up to `limit` orders that are due, and returns them.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn due(connection: &mut PgConnection, stg: &Stg, limit: i64) -> Result<Vec<Waiting>, sqlx::Error> {
    let rows = sqlx::query(DUE)
        .bind(&stg.consumer_group)
        .bind(&stg.topic)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Waiting {
                object_id: row.try_get("object_id")?,
                version: row.try_get("version")?,
                record: stored_record(row)?,
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
                .map(|(.., missing)| quoted(missing))
                .collect::<Vec<_>>(),
        )
        .bind(LONGEST_PAUSE)
        .execute(connection)
        .await?;
    Ok(())
}

/// Entries as the text of a PostgreSQL array.
fn quoted(entries: &[String]) -> String {
    array(entries.iter().map(|entry| header_name(&Header::text(entry, ""))))
}
