#![expect(clippy::disallowed_types, reason = "edge: writes order events to PostgreSQL")]
//! Stores the versions that are not known yet: the newest of each order in one table, the others in its history.
//!
//! Known versions are filtered out before any conflict clause, because a guard in the clause alone still locks
//! the row and writes it to the log: a replay must cost neither.

use std::collections::HashSet;

use crds::contract::ORDER;
use sqlx::{PgConnection, Row as _};

use super::Stg;
use super::enrich::{Enriched, Outcome};
use super::pending::{self, Lacking};
use crate::dead_letter::Origin;
use crate::layer::Effects;
use crate::record::Item;
use crate::stored::Query;

/// Inserts orders that the table does not hold, and returns every version of the batch that was unknown.
///
/// `stored` is false for a version that is still to be placed: its order is there already, or a newer version of
/// the batch took the place, or another worker was faster. Sorted, so that workers lock in one order.
const INSERT_UNKNOWN: &str = "\
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[])
        WITH ORDINALITY AS batch (object_id, sent, update_ts, version, payload, place)
), unknown AS MATERIALIZED (
    SELECT batch.* FROM batch
    WHERE NOT EXISTS (SELECT FROM stg.order_events AS known
                      WHERE known.object_id = batch.object_id AND known.version = batch.version)
      AND NOT EXISTS (SELECT FROM stg.order_event_history AS known
                      WHERE known.object_id = batch.object_id AND known.version = batch.version)
), inserted AS (
    INSERT INTO stg.order_events (object_id, object_type, sent_dttm, payload, update_ts, version, load_src)
    SELECT DISTINCT ON (object_id) object_id, $6,
        timestamptz 'epoch' + sent * interval '1 microsecond', payload::json,
        timestamptz 'epoch' + update_ts * interval '1 microsecond', version, $7
    FROM unknown
    WHERE NOT EXISTS (SELECT FROM stg.order_events AS known WHERE known.object_id = unknown.object_id)
    ORDER BY object_id, version DESC
    ON CONFLICT (object_id) DO NOTHING
    RETURNING object_id, version
)
SELECT unknown.place, inserted.object_id IS NOT NULL AS stored
FROM unknown LEFT JOIN inserted USING (object_id, version)
ORDER BY unknown.place";

/// Places versions of orders that the table holds: a newer one takes the row, whose content moves to the
/// history; the others go to the history. The rows are locked first, and re-read by the lock.
const SUPERSEDE: &str = "\
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[])
        AS batch (object_id, sent, update_ts, version, payload)
), held AS MATERIALIZED (
    SELECT * FROM stg.order_events WHERE object_id IN (SELECT object_id FROM batch)
    ORDER BY object_id FOR UPDATE
), newest AS MATERIALIZED (
    SELECT DISTINCT ON (batch.object_id) batch.*
    FROM batch JOIN held ON held.object_id = batch.object_id AND held.version < batch.version
    ORDER BY batch.object_id, batch.version DESC
), history AS (
    INSERT INTO stg.order_event_history
        (object_id, object_type, sent_dttm, payload, update_ts, version, load_dt, load_src)
    SELECT object_id, object_type, sent_dttm, payload, update_ts, version, load_dt, load_src
    FROM held WHERE object_id IN (SELECT object_id FROM newest)
    UNION ALL
    SELECT batch.object_id, $6, timestamptz 'epoch' + batch.sent * interval '1 microsecond', batch.payload::json,
        timestamptz 'epoch' + batch.update_ts * interval '1 microsecond', batch.version, now(), $7
    FROM batch
    JOIN held ON held.object_id = batch.object_id AND held.version <> batch.version
    LEFT JOIN newest ON newest.object_id = batch.object_id AND newest.version = batch.version
    WHERE newest.object_id IS NULL
    ORDER BY object_id, version
    ON CONFLICT (object_id, version) DO NOTHING
)
UPDATE stg.order_events AS event
SET sent_dttm = timestamptz 'epoch' + newest.sent * interval '1 microsecond', payload = newest.payload::json,
    update_ts = timestamptz 'epoch' + newest.update_ts * interval '1 microsecond', version = newest.version,
    load_dt = now(), load_src = $7
FROM newest WHERE event.object_id = newest.object_id";

/// Writes a batch of order events.
pub(super) async fn orders(
    stg: &Stg,
    connection: &mut PgConnection,
    items: &[&Item<Enriched>],
) -> Result<Effects, sqlx::Error> {
    let mut seen = HashSet::with_capacity(items.len());
    let distinct = |&index: &usize| seen.insert((items[index].value.object_id, items[index].value.version));
    let distinct: Vec<usize> = (0..items.len()).filter(distinct).collect();

    let mut unknown = Vec::with_capacity(distinct.len());
    let mut unplaced = Vec::new();
    for row in Columns::of(items, &distinct)
        .bind(&stg.origin, INSERT_UNKNOWN)
        .fetch_all(&mut *connection)
        .await?
    {
        let place = usize::try_from(row.try_get::<i64, _>("place")? - 1).unwrap_or(usize::MAX);
        unknown.push(distinct[place]);
        if !row.try_get::<bool, _>("stored")? {
            unplaced.push(distinct[place]);
        }
    }
    if !unplaced.is_empty() {
        Columns::of(items, &unplaced)
            .bind(&stg.origin, SUPERSEDE)
            .execute(&mut *connection)
            .await?;
    }

    let mut publish = Vec::with_capacity(unknown.len());
    let mut lacking = Vec::new();
    for &index in &unknown {
        let Item { record, value } = items[index];
        match &value.outcome {
            Outcome::Ready(_) => publish.push(index),
            Outcome::Missing(missing) => {
                lacking.push(Lacking {
                    record,
                    object_id: value.object_id,
                    version: &value.version,
                    missing,
                });
            }
        }
    }
    pending::insert(connection, &stg.origin, &lacking).await?;
    let (stored, duplicate) = (publish.len(), items.len() - unknown.len());
    let has_unknown_status = |&&index: &&usize| !items[index].value.version.has_known_status();
    Ok(Effects {
        publish,
        stored,
        duplicate,
        unknown_status: unknown.iter().filter(has_unknown_status).count(),
        pending: lacking.len(),
    })
}

/// The batch by column, as `unnest` takes it; text goes over as `text[]` and is cast row by row.
#[derive(Default)]
struct Columns<'i> {
    object_id: Vec<i64>,
    sent: Vec<i64>,
    update_ts: Vec<i64>,
    version: Vec<&'i [u8]>,
    payload: Vec<&'i str>,
}

impl<'i> Columns<'i> {
    fn of(items: &[&'i Item<Enriched>], indices: &[usize]) -> Self {
        let mut columns = Self::default();
        for item in indices.iter().map(|&index| items[index]) {
            columns.object_id.push(item.value.object_id);
            columns.sent.push(item.value.sent);
            columns.update_ts.push(item.value.version.update_ts());
            columns.version.push(item.value.version.as_bytes());
            // Decoding has read this value as text already; an item without one cannot be here.
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
        sqlx::query(statement)
            .bind(self.object_id)
            .bind(self.sent)
            .bind(self.update_ts)
            .bind(self.version)
            .bind(self.payload)
            .bind(ORDER)
            .bind(origin.load_source())
    }
}
