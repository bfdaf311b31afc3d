#![expect(clippy::disallowed_types, reason = "edge: writes order events to PostgreSQL")]
//! Stores new order versions: the latest version of each order in one table, the others in its history.
//!
//! Stored versions are filtered out before any conflict clause. A condition in the clause alone would still lock the
//! row and write to the WAL, and a replay must cost neither. Seconds and microseconds are added separately: PostgreSQL
//! multiplies an interval by a float, which does not represent the microseconds of a far year exactly.

use std::collections::HashSet;

use crds::contract::ORDER_OBJECT_TYPE;
use sqlx::{PgConnection, Row as _};

use super::enrich::{Enriched, Enrichment};
use super::pending::{self, UnresolvedOrder};
use crate::dead_letter::Origin;
use crate::layer::interface::Effects;
use crate::record::Item;
use crate::record_columns::Query;
use crate::statement;

/// Inserts orders that the table does not contain, and returns every version of the batch that is new.
///
/// `is_inserted` is false for a version that [`SUPERSEDE`] must store: the table has the order already, the batch has a
/// later version of it, or another worker was faster. Sorted, so that all workers lock in the same order.
const INSERT_NEW_ORDERS: &str = "\
WITH batch AS MATERIALIZED (
    SELECT object_id, version, payload, ordinal,
        timestamptz 'epoch' + sent / 1000000 * interval '1 second' + sent % 1000000 * interval '1 microsecond'
            AS sent_dttm,
        timestamptz 'epoch' + updated / 1000000 * interval '1 second' + updated % 1000000 * interval '1 microsecond'
            AS update_ts
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[])
        WITH ORDINALITY AS batch (object_id, sent, updated, version, payload, ordinal)
), new_version AS MATERIALIZED (
    SELECT batch.* FROM batch
    WHERE NOT EXISTS (SELECT FROM stg.order_events AS stored
                      WHERE stored.object_id = batch.object_id AND stored.version = batch.version)
      AND NOT EXISTS (SELECT FROM stg.order_event_history AS stored
                      WHERE stored.object_id = batch.object_id AND stored.version = batch.version)
), inserted AS (
    INSERT INTO stg.order_events (object_id, object_type, sent_dttm, payload, update_ts, version, load_src)
    SELECT DISTINCT ON (object_id) object_id, $6, sent_dttm, payload::json, update_ts, version, $7
    FROM new_version
    WHERE NOT EXISTS (SELECT FROM stg.order_events AS stored WHERE stored.object_id = new_version.object_id)
    ORDER BY object_id, version DESC
    ON CONFLICT (object_id) DO NOTHING
    RETURNING object_id, version
)
SELECT new_version.ordinal, inserted.object_id IS NOT NULL AS is_inserted
FROM new_version LEFT JOIN inserted USING (object_id, version)
ORDER BY new_version.ordinal";

/// Stores versions of orders that the table contains. A later version replaces the row, whose content is copied to the
/// history; every other version is added to the history. The rows are locked first, and the lock reads them again.
const SUPERSEDE: &str = "\
WITH batch AS MATERIALIZED (
    SELECT object_id, version, payload,
        timestamptz 'epoch' + sent / 1000000 * interval '1 second' + sent % 1000000 * interval '1 microsecond'
            AS sent_dttm,
        timestamptz 'epoch' + updated / 1000000 * interval '1 second' + updated % 1000000 * interval '1 microsecond'
            AS update_ts
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[])
        AS batch (object_id, sent, updated, version, payload)
), locked AS MATERIALIZED (
    SELECT * FROM stg.order_events WHERE object_id IN (SELECT object_id FROM batch)
    ORDER BY object_id FOR UPDATE
), latest AS MATERIALIZED (
    SELECT DISTINCT ON (batch.object_id) batch.*
    FROM batch JOIN locked ON locked.object_id = batch.object_id AND locked.version < batch.version
    ORDER BY batch.object_id, batch.version DESC
), history AS (
    INSERT INTO stg.order_event_history
        (object_id, object_type, sent_dttm, payload, update_ts, version, load_dt, load_src)
    SELECT object_id, object_type, sent_dttm, payload, update_ts, version, load_dt, load_src
    FROM locked WHERE object_id IN (SELECT object_id FROM latest)
    UNION ALL
    SELECT batch.object_id, $6, batch.sent_dttm, batch.payload::json, batch.update_ts, batch.version, now(), $7
    FROM batch
    JOIN locked ON locked.object_id = batch.object_id AND locked.version <> batch.version
    LEFT JOIN latest ON latest.object_id = batch.object_id AND latest.version = batch.version
    WHERE latest.object_id IS NULL
    ORDER BY object_id, version
    ON CONFLICT (object_id, version) DO NOTHING
)
UPDATE stg.order_events AS event
SET sent_dttm = latest.sent_dttm, payload = latest.payload::json, update_ts = latest.update_ts,
    version = latest.version, load_dt = now(), load_src = $7
FROM latest WHERE event.object_id = latest.object_id";

/// Writes a batch of order events, and adds the unresolved ones to the pending orders.
pub(super) async fn write_orders(
    connection: &mut PgConnection,
    origin: &Origin,
    items: &[&Item<Enriched>],
) -> Result<Effects, sqlx::Error> {
    let mut seen = HashSet::with_capacity(items.len());
    let is_first = |&index: &usize| seen.insert((items[index].value.object_id, items[index].value.version));
    let distinct: Vec<usize> = (0..items.len()).filter(is_first).collect();

    let new = store_new_versions(connection, origin, items, &distinct).await?;
    let mut publish = Vec::with_capacity(new.len());
    let mut unresolved = Vec::new();
    for &index in &new {
        let Item { record, value } = items[index];
        match &value.enrichment {
            Enrichment::Ready(_) => publish.push(index),
            Enrichment::Missing(missing) => {
                unresolved.push(UnresolvedOrder {
                    record,
                    object_id: value.object_id,
                    version: &value.version,
                    missing_entries: &missing.entries,
                });
            }
        }
    }
    pending::insert(connection, origin, &unresolved).await?;
    let (stored, duplicate) = (publish.len(), items.len() - new.len());
    let has_unknown_status = |&&index: &&usize| !items[index].value.version.has_known_status();
    Ok(Effects {
        publish,
        stored,
        duplicate,
        unknown_status: new.iter().filter(has_unknown_status).count(),
        pending: unresolved.len(),
    })
}

/// Stores the versions that are new, and returns their indices.
async fn store_new_versions(
    connection: &mut PgConnection,
    origin: &Origin,
    items: &[&Item<Enriched>],
    distinct: &[usize],
) -> Result<Vec<usize>, sqlx::Error> {
    let mut new = Vec::with_capacity(distinct.len());
    let mut not_inserted = Vec::new();
    for row in Columns::from_items(items, distinct)
        .bind(origin, INSERT_NEW_ORDERS)
        .fetch_all(&mut *connection)
        .await?
    {
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal")? - 1).unwrap_or(usize::MAX);
        new.push(distinct[ordinal]);
        if !row.try_get::<bool, _>("is_inserted")? {
            not_inserted.push(distinct[ordinal]);
        }
    }
    if !not_inserted.is_empty() {
        Columns::from_items(items, &not_inserted)
            .bind(origin, SUPERSEDE)
            .execute(&mut *connection)
            .await?;
    }
    Ok(new)
}

/// Columns of the batch as parameters of `unnest`. The payload is sent as `text[]` and cast row by row.
#[derive(Default)]
struct Columns<'i> {
    object_id: Vec<i64>,
    sent: Vec<i64>,
    update_ts: Vec<i64>,
    version: Vec<&'i [u8]>,
    payload: Vec<&'i str>,
}

impl<'i> Columns<'i> {
    fn from_items(items: &[&'i Item<Enriched>], indices: &[usize]) -> Self {
        let mut columns = Self::default();
        for item in indices.iter().map(|&index| items[index]) {
            columns.object_id.push(item.value.object_id);
            columns.sent.push(item.value.sent);
            columns.update_ts.push(item.value.version.update_ts());
            columns.version.push(item.value.version.as_bytes());
            // The decode step has accepted the value as text, so it is present and UTF-8.
            let value = item.record.value.as_deref().unwrap_or_default();
            columns
                .payload
                .push(std::str::from_utf8(value).unwrap_or_default());
        }
        columns
    }

    fn bind<'q>(self, origin: &Origin, statement: &'static str) -> Query<'q>
    where
        'i: 'q,
    {
        statement::query(statement)
            .bind(self.object_id)
            .bind(self.sent)
            .bind(self.update_ts)
            .bind(self.version)
            .bind(self.payload)
            .bind(ORDER_OBJECT_TYPE)
            .bind(origin.record_source())
    }
}
