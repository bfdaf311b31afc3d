#![expect(
    clippy::disallowed_types,
    reason = "edge: reads stored order events from PostgreSQL"
)]
//! Stored order events, enriched again with the current reference data.
//!
//! A version is in one of two tables, and moves from the first to the second when a later one arrives. Both are read
//! in one statement, so no version is missed.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::decode::{Order, decode_order};
use super::enrich::{Enrichment, enrich_order};
use super::reference_data::ReferenceDataStore;
use crate::dead_letter::Origin;
use crate::decode::DecodeSettings;
use crate::layer::stored::{RebuildOutcome, Rebuilt, StoredError, StoredVersions, VersionFilter, VersionKey};
use crate::record::{Item, Record};
use crate::record_columns::Query;
use crate::rejection::{Code, Rejection};
use crate::statement;
use crate::version::Version;

const READ: &str = "\
SELECT picked.ordinal, stored.payload::text AS payload
FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS picked (object_id, version, ordinal)
CROSS JOIN LATERAL (
    SELECT payload FROM stg.order_events AS latest
    WHERE latest.object_id = picked.object_id AND latest.version = picked.version
    UNION ALL
    SELECT payload FROM stg.order_event_history AS earlier
    WHERE earlier.object_id = picked.object_id AND earlier.version = picked.version
    LIMIT 1
) AS stored
ORDER BY picked.ordinal";

/// Digests of the values that a redrive will produce.
const DEAD_LETTERED: &str = "\
SELECT sha256(value) FROM streamstage.dead_letter
WHERE topic = $1 AND code = ANY($2) AND redriven_at IS NULL AND sha256(value) = ANY($3)";

/// Order events that one stage has stored.
pub struct StoredOrders {
    /// Settings that decide which values the stage accepts.
    pub settings: DecodeSettings,
    /// Users, restaurants and menus in Redis.
    pub reference_data: ReferenceDataStore,
    /// Record source of the events, and stage whose dead letters a redrive will produce.
    pub origin: Origin,
}

impl StoredVersions for StoredOrders {
    type OrderKey = i64;

    async fn count(
        &self,
        connection: &mut PgConnection,
        filter: &VersionFilter,
    ) -> Result<Vec<(String, i64)>, sqlx::Error> {
        let condition = filter.condition("object_id");
        let statement = format!(
            "SELECT load_src, count(*) FROM (
                SELECT load_src FROM stg.order_events WHERE {condition}
                UNION ALL
                SELECT load_src FROM stg.order_event_history WHERE {condition}
            ) AS stored GROUP BY 1 ORDER BY 1"
        );
        let rows = bind_filter(&statement, filter).fetch_all(connection).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    async fn page(
        &self,
        connection: &mut PgConnection,
        filter: &VersionFilter,
        after: Option<&VersionKey<i64>>,
        limit: i64,
    ) -> Result<Vec<VersionKey<i64>>, sqlx::Error> {
        let source = self.origin.record_source();
        page(connection, Some(&source), filter, after, limit).await
    }

    async fn rebuild(
        &self,
        connection: &mut PgConnection,
        keys: &[&VersionKey<i64>],
    ) -> Result<Vec<Rebuilt>, StoredError> {
        let (items, mut rebuilt) = read(connection, &self.settings, keys).await?;
        let lookup = self
            .reference_data
            .look_up(items.iter().map(|item| &item.value))
            .await?;
        let mut missing = Vec::new();
        for Item { value: order, .. } in items {
            let (order_id, version) = (order.row.order_id(), order.version);
            let outcome = match enrich_order(&self.settings, order, &lookup).enrichment {
                Enrichment::Ready(output) => RebuildOutcome::Ready(output),
                Enrichment::Missing(missing_entries) => {
                    missing.push((rebuilt.len(), version));
                    RebuildOutcome::Missing(missing_entries.entries)
                }
            };
            rebuilt.push(Rebuilt { order_id, outcome });
        }
        let dead_lettered = dead_lettered(connection, &self.origin.topic, &missing).await?;
        for (index, version) in missing {
            if dead_lettered.contains(version.digest()) {
                rebuilt[index].outcome = RebuildOutcome::DeadLettered;
            }
        }
        Ok(rebuilt)
    }
}

/// Returns the digests of those versions that have a dead letter because of missing reference data.
async fn dead_lettered(
    connection: &mut PgConnection,
    topic: &str,
    missing: &[(usize, Version)],
) -> Result<HashSet<Vec<u8>>, sqlx::Error> {
    if missing.is_empty() {
        return Ok(HashSet::new());
    }
    let digests: Vec<&[u8]> = missing.iter().map(|(_, version)| version.digest()).collect();
    let digests: Vec<Vec<u8>> = statement::query_scalar(DEAD_LETTERED)
        .bind(topic)
        .bind(
            [Code::ReferenceDataMissing, Code::ReferenceDataMalformed]
                .map(|code| code.to_string())
                .to_vec(),
        )
        .bind(digests)
        .fetch_all(connection)
        .await?;
    Ok(digests.into_iter().collect())
}

/// Returns the keys of the next versions in both tables, at most `limit`, in the order of their keys; only those of one
/// record source, if it is given.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn page(
    connection: &mut PgConnection,
    record_source: Option<&str>,
    filter: &VersionFilter,
    after: Option<&VersionKey<i64>>,
    limit: i64,
) -> Result<Vec<VersionKey<i64>>, sqlx::Error> {
    let condition = filter.condition("object_id");
    let select = |table: &str| {
        format!(
            "(SELECT object_id, version, payload FROM stg.{table}
            WHERE ($4::text IS NULL OR load_src = $4) AND object_id >= $5 AND (object_id, version) > ($5, $6) AND {condition}
            ORDER BY object_id, version LIMIT $7)"
        )
    };
    let statement = format!(
        "SELECT object_id, version, octet_length(payload::text)::bigint AS bytes,
            EXISTS (SELECT FROM stg.pending_enrichment AS pending
                    WHERE pending.object_id = page.object_id AND pending.version = page.version) AS is_pending
        FROM (
            SELECT * FROM ({} UNION ALL {}) AS both_tables ORDER BY object_id, version LIMIT $7
        ) AS page
        ORDER BY object_id, version",
        select("order_events"),
        select("order_event_history")
    );
    let rows = bind_filter(&statement, filter)
        .bind(record_source)
        .bind(after.map_or(-1, |key| key.order))
        .bind(after.map_or(&[][..], |key| &key.version))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(VersionKey {
                order: row.try_get("object_id")?,
                version: row.try_get("version")?,
                bytes: usize::try_from(row.try_get::<i64, _>("bytes")?).unwrap_or(usize::MAX),
                is_pending: row.try_get("is_pending")?,
            })
        })
        .collect()
}

/// Reads and decodes versions. A version that the stage no longer accepts is returned as rejected.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn read(
    connection: &mut PgConnection,
    settings: &DecodeSettings,
    keys: &[&VersionKey<i64>],
) -> Result<(Vec<Item<Order>>, Vec<Rebuilt>), sqlx::Error> {
    let rows = statement::query(READ)
        .bind(keys.iter().map(|key| key.order).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.version.as_slice()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    // A stored record was within the limits when it was stored.
    let settings = DecodeSettings {
        max_record_bytes: usize::MAX,
        ..settings.clone()
    };
    let (mut items, mut rejected) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal")? - 1).unwrap_or(usize::MAX);
        let record = Record {
            value: Some(row.try_get::<String, _>("payload")?.into_bytes()),
            ..Record::default()
        };
        match decode_stored(&settings, &record, &keys[ordinal].version) {
            Ok(value) => items.push(Item { record, value }),
            Err(rejection) => rejected.push(Rebuilt {
                order_id: keys[ordinal].order,
                outcome: RebuildOutcome::Rejected(rejection),
            }),
        }
    }
    Ok((items, rejected))
}

/// Decodes a stored value. Its version is the stored one: the next layers have it, even if the settings of this
/// stage have changed since.
fn decode_stored(settings: &DecodeSettings, record: &Record, version: &[u8]) -> Result<Order, Rejection> {
    // The latest possible time disables the clock check: a stored record has passed it before.
    let order = decode_order(settings, record, i64::MAX)?;
    let version = Version::from_bytes(version)
        .ok_or_else(|| Rejection::contract_violation("", "the stored version has another length"))?;
    Ok(Order { version, ..order })
}

/// Binds the filter as `$1` to `$3`.
fn bind_filter<'q>(statement: &str, filter: &'q VersionFilter) -> Query<'q> {
    statement::query(AssertSqlSafe(statement.to_owned()))
        .bind(&filter.orders)
        .bind(filter.since)
        .bind(filter.until)
}
