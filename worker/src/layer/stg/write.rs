#![expect(clippy::disallowed_types, reason = "edge: writes order events to PostgreSQL")]
//! Stores new order versions: the latest version of each order in one table, the others in its history.
//!
//! The versions that are stored are found by their keys alone. A replay therefore sends no payload, locks no row and writes
//! nothing to the WAL, and a new version sends its payload once. Seconds and microseconds are added separately: PostgreSQL
//! multiplies an interval by a float, which does not represent the microseconds of a far year exactly.

use std::collections::{BTreeMap, HashSet};

use crds::contract::ORDER_OBJECT_TYPE;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::enrich::{Enriched, Enrichment};
use super::pending::{self, UnresolvedOrder};
use crate::dead_letter::Origin;
use crate::layer::interface::Effects;
use crate::record::Item;
use crate::record_columns::Query;
use crate::statement;

/// Finds the versions that are not stored. `has_order` is true if the table has another version of the order. Another
/// transaction may be about to store some of them: the statements below decide.
const FIND_NEW_VERSIONS: &str = "\
SELECT batch.ordinal,
    EXISTS (SELECT FROM stg.order_events AS stored WHERE stored.object_id = batch.object_id) AS has_order
FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS batch (object_id, version, ordinal)
WHERE NOT EXISTS (SELECT FROM stg.order_events AS stored
                  WHERE stored.object_id = batch.object_id AND stored.version = batch.version)
  AND NOT EXISTS (SELECT FROM stg.order_event_history AS stored
                  WHERE stored.object_id = batch.object_id AND stored.version = batch.version)
ORDER BY batch.ordinal";

/// Inserts orders that the table does not contain, one version each, unless another transaction was faster, and locks the
/// others. Returns the inserted orders. Sorted, and the first statement of a batch that locks orders, so that transactions
/// do not deadlock.
const INSERT_ORDERS: &str = "\
INSERT INTO stg.order_events (object_id, sent_dttm, update_ts, version, payload, object_type, load_src)
SELECT object_id,
    timestamptz 'epoch' + sent / 1000000 * interval '1 second' + sent % 1000000 * interval '1 microsecond',
    timestamptz 'epoch' + updated / 1000000 * interval '1 second' + updated % 1000000 * interval '1 microsecond',
    version, payload::json, $6, $7
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[])
    AS batch (object_id, sent, updated, version, payload)
ORDER BY object_id
ON CONFLICT (object_id) DO UPDATE SET object_id = excluded.object_id WHERE false
RETURNING object_id";

/// Stores versions of orders that are locked. A later version replaces the row, whose content is copied to the history;
/// every other version is added to the history. Returns the ordinals of the versions that were not stored before: the
/// snapshot of the statement has what other transactions committed before the lock.
const SUPERSEDE: &str = "\
WITH batch AS MATERIALIZED (
    SELECT object_id, version, payload, ordinal,
        timestamptz 'epoch' + sent / 1000000 * interval '1 second' + sent % 1000000 * interval '1 microsecond'
            AS sent_dttm,
        timestamptz 'epoch' + updated / 1000000 * interval '1 second' + updated % 1000000 * interval '1 microsecond'
            AS update_ts
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[])
        WITH ORDINALITY AS batch (object_id, sent, updated, version, payload, ordinal)
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
    RETURNING object_id, version
), replaced AS (
    UPDATE stg.order_events AS event
    SET sent_dttm = latest.sent_dttm, payload = latest.payload::json, update_ts = latest.update_ts,
        version = latest.version, load_dt = now(), load_src = $7
    FROM latest WHERE event.object_id = latest.object_id
    RETURNING event.object_id, event.version
)
SELECT batch.ordinal FROM batch JOIN replaced USING (object_id, version)
UNION ALL
SELECT batch.ordinal FROM batch JOIN history USING (object_id, version)
WHERE NOT EXISTS (
    SELECT FROM locked WHERE locked.object_id = batch.object_id AND locked.version = batch.version)";

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
    let Candidates { latest, mut others } = find_candidates(connection, items, distinct).await?;
    if latest.is_empty() {
        return Ok(Vec::new());
    }
    let indices: Vec<usize> = latest.values().map(|(index, _)| *index).collect();
    let mut columns = Columns::from_items(items, &indices);
    for (payload, (_, has_order)) in columns.payload.iter_mut().zip(latest.values()) {
        if *has_order {
            // The order is only locked.
            *payload = "{}";
        }
    }
    let inserted = columns
        .bind(origin, INSERT_ORDERS)
        .fetch_all(&mut *connection)
        .await?;
    let inserted: HashSet<i64> = inserted
        .iter()
        .map(|row| row.try_get("object_id"))
        .collect::<Result<_, _>>()?;
    let mut new = Vec::new();
    for (object_id, (index, has_order)) in latest {
        if inserted.contains(&object_id) {
            new.push(index);
        } else if !has_order {
            // Another transaction was faster.
            others.push(index);
        }
    }
    if !others.is_empty() {
        let columns = Columns::from_items(items, &others);
        let stored = columns
            .bind(origin, SUPERSEDE)
            .fetch_all(&mut *connection)
            .await?;
        for row in stored {
            new.push(others[index_of_ordinal(&row)?]);
        }
    }
    new.sort_unstable();
    Ok(new)
}

/// Versions of a batch that are probably not stored, by their indices.
#[derive(Default)]
struct Candidates {
    /// One version of each order, and whether the table has the order. Of an order that it does not have, the latest.
    latest: BTreeMap<i64, (usize, bool)>,
    /// Versions for [`SUPERSEDE`].
    others: Vec<usize>,
}

async fn find_candidates(
    connection: &mut PgConnection,
    items: &[&Item<Enriched>],
    distinct: &[usize],
) -> Result<Candidates, sqlx::Error> {
    let key = |index: usize| &items[index].value;
    let object_ids: Vec<i64> = distinct.iter().map(|index| key(*index).object_id).collect();
    let versions: Vec<&[u8]> = distinct
        .iter()
        .map(|index| key(*index).version.as_bytes())
        .collect();
    let rows = statement::query(FIND_NEW_VERSIONS)
        .bind(object_ids)
        .bind(versions)
        .fetch_all(connection)
        .await?;
    let mut candidates = Candidates::default();
    for row in rows {
        let (index, has_order) = (distinct[index_of_ordinal(&row)?], row.try_get("has_order")?);
        let order = candidates.latest.entry(key(index).object_id);
        let (latest, _) = order.or_insert((index, has_order));
        if has_order {
            candidates.others.push(index);
        } else if key(*latest).version < key(index).version {
            candidates.others.push(std::mem::replace(latest, index));
        } else if *latest != index {
            candidates.others.push(index);
        }
    }
    Ok(candidates)
}

/// Index of a row of the batch: its ordinal begins at 1.
fn index_of_ordinal(row: &PgRow) -> Result<usize, sqlx::Error> {
    Ok(usize::try_from(row.try_get::<i64, _>("ordinal")? - 1).unwrap_or(usize::MAX))
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
