#![expect(clippy::disallowed_types, reason = "edge: writes the vault to PostgreSQL")]
//! Writes a batch of orders into the vault, with one statement and one round trip; orders with many lines take several.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::fact::OrderWithFact;
use crate::chunks::split_by_weight;
use crate::layer::interface::Effects;
use crate::plan::ORDERS;
use crate::record::Item;
use crate::record_columns::bind_columns;
use crate::statement;
use crate::vault::{BusinessKey, VaultRows, hash_key, insert_statement};
use crate::version::Version;

/// Statement that is generated once from the plan. It contains only names of the model, never a value.
static INSERT: LazyLock<String> = LazyLock::new(|| insert_statement(&ORDERS.vault));

/// Send times of versions whose message does not carry them, because a former version of the worker produced it.
///
/// The vault has the version with its send time if the message is a replay, and STG has it if the message was produced
/// just before the upgrade. So a version is stored once, whichever message brings it.
const FIND_SENT: &str = "\
SELECT batch.ordinal, known.sent
FROM unnest($1::bigint[], $2::uuid[], $3::bytea[]) WITH ORDINALITY AS batch (object_id, h_order_pk, digest, ordinal)
CROSS JOIN LATERAL (
    SELECT substring(version FROM 10 FOR 8) AS sent FROM (
        SELECT version FROM dds.s_order_status AS stored WHERE stored.h_order_pk = batch.h_order_pk
        UNION ALL SELECT version FROM stg.order_events AS stored WHERE stored.object_id = batch.object_id
        UNION ALL SELECT version FROM stg.order_event_history AS stored WHERE stored.object_id = batch.object_id
    ) AS stored
    WHERE substring(version FROM 18) = batch.digest
    ORDER BY sent DESC LIMIT 1
) AS known";
/// Maximum number of lines per statement. It bounds the memory: a line has rows in seven tables, which need about 1 KB
/// until they are sent. A batch of ordinary orders has fewer lines. Several statements lock keys in no common order, so
/// workers with such batches can deadlock; PostgreSQL then fails one of them, and its batch is retried.
const MAX_LINES_PER_STATEMENT: usize = 20_000;

pub(super) async fn write_orders(
    connection: &mut PgConnection,
    record_source: &str,
    items: &[&Item<OrderWithFact>],
) -> Result<Effects, sqlx::Error> {
    let mut versions: Vec<Version> = items.iter().map(|item| item.value.order.version).collect();
    find_sent(connection, items, &mut versions).await?;
    let versioned: Vec<VersionedOrder<'_>> = items.iter().copied().zip(versions).collect();
    let line_count = |(item, _): &VersionedOrder<'_>| {
        let arrays = item.value.order.row.arrays.iter();
        arrays.map(|array| array.elements().len()).sum()
    };
    for chunk in split_by_weight(&versioned, MAX_LINES_PER_STATEMENT, line_count) {
        insert_rows(connection, record_source, chunk).await?;
    }
    Ok(Effects {
        publish: (0..items.len()).collect(),
        stored: items.len(),
        ..Effects::default()
    })
}

/// Order with its completed version.
type VersionedOrder<'i> = (&'i Item<OrderWithFact>, Version);

async fn insert_rows(
    connection: &mut PgConnection,
    record_source: &str,
    orders: &[VersionedOrder<'_>],
) -> Result<(), sqlx::Error> {
    let mut rows = VaultRows::new(&ORDERS.vault);
    for (item, version) in orders {
        rows.push(&item.value.order.row, version);
    }
    let query = statement::query(AssertSqlSafe(INSERT.as_str())).bind(record_source);
    let query = bind_columns(query, rows.into_columns());
    query.execute(connection).await.map(drop)
}

/// Completes the versions without send time, with a round trip only if there are any.
async fn find_sent(
    connection: &mut PgConnection,
    items: &[&Item<OrderWithFact>],
    versions: &mut [Version],
) -> Result<(), sqlx::Error> {
    let unknown: Vec<usize> = (0..items.len())
        .filter(|&index| !versions[index].has_sent())
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let order_ids: Vec<i64> = unknown
        .iter()
        .map(|&index| items[index].value.order.row.order_id())
        .collect();
    let keys: Vec<Uuid> = order_ids
        .iter()
        .map(|id| hash_key("h_order", &[BusinessKey::Number(*id)]))
        .collect();
    let digests: Vec<&[u8]> = unknown.iter().map(|&index| versions[index].digest()).collect();
    let rows = statement::query(FIND_SENT)
        .bind(&order_ids)
        .bind(keys)
        .bind(digests)
        .fetch_all(connection)
        .await?;
    for row in rows {
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal")? - 1).unwrap_or(usize::MAX);
        let version = &mut versions[unknown[ordinal]];
        *version = version.with_sent_bytes(row.try_get("sent")?);
    }
    Ok(())
}
