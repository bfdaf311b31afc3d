#![expect(
    clippy::disallowed_types,
    reason = "edge: reads STG and the vault from PostgreSQL"
)]
//! STG: rows that contradict their own version, and rows of the vault that differ from the order events.
//!
//! The rows that an order event should have in the vault are built by the same functions that the layer DDS uses, without
//! the names and categories, which come from the reference data.

use std::collections::HashSet;
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::finding::{Findings, limited};
use crate::decode::DecodeSettings;
use crate::layer::stg::Order;
use crate::layer::stg::stored;
use crate::layer::stored::{VersionFilter, VersionKey, split_page};
use crate::plan::ORDERS;
use crate::plan::kind::Kind;
use crate::plan::vault::{Attribute, Hub, Link, Parent, Satellite, VersionedBy};
use crate::record::Item;
use crate::record_columns::bind_columns;
use crate::statement;
use crate::vault::{
    BusinessKey, Column, Elements, Row, Table, TableColumn, Value, VaultRows, hash_key, tables,
};
use crate::version::Version;

/// Maximum number of keys per page.
const PAGE_ROWS: i64 = 2_000;
/// Maximum number of versions per chunk.
const CHUNK_ROWS: usize = 1_000;
/// Maximum bytes of the order events of a chunk, unless it is a single one.
const CHUNK_BYTES: usize = 4 << 20;

const VERSIONS_IN_VAULT: &str = "\
SELECT status.version FROM unnest($1::uuid[], $2::bytea[]) AS expected (h_order_pk, version)
JOIN dds.s_order_status AS status USING (h_order_pk, version)";

/// Order events that contradict their version, latest versions that are not the latest, and pending orders that are not
/// stored.
pub(super) fn queries() -> Vec<String> {
    let mut queries: Vec<String> = ["order_events", "order_event_history"].map(contradictions).into();
    queries.push(
        "SELECT 'stg.order_event_history', format('object_id %s, version %s', earlier.object_id, earlier.version),
            CASE WHEN latest.object_id IS NULL THEN 'stg.order_events has no row of the order'
                ELSE 'not earlier than the version in stg.order_events' END
        FROM stg.order_event_history AS earlier
        LEFT JOIN stg.order_events AS latest USING (object_id)
        WHERE latest.object_id IS NULL OR earlier.version >= latest.version"
            .to_owned(),
    );
    queries.push(
        "SELECT 'stg.pending_enrichment', format('object_id %s, version %s', pending.object_id, pending.version),
            'the version is not stored'
        FROM stg.pending_enrichment AS pending
        WHERE NOT EXISTS (SELECT FROM stg.order_events AS latest
                WHERE latest.object_id = pending.object_id AND latest.version = pending.version)
            AND NOT EXISTS (SELECT FROM stg.order_event_history AS earlier
                WHERE earlier.object_id = pending.object_id AND earlier.version = pending.version)"
            .to_owned(),
    );
    queries
}

/// Rows whose payload has another digest than their version, or whose `update_ts` is not the time of their version.
///
/// A version begins with the time in microseconds since 1970, its sign bit flipped, and ends with the digest.
fn contradictions(table: &str) -> String {
    format!(
        "SELECT 'stg.{table}', format('object_id %s, version %s', object_id, version),
            CASE WHEN has_digest THEN 'update_ts is not the time of the version'
                ELSE 'payload has another digest than the version' END
        FROM (
            SELECT object_id, version,
                sha256(convert_to(payload::text, 'UTF8')) = substring(version FROM length(version) - 31) AS has_digest,
                (extract(epoch FROM update_ts) * 1000000)::bigint
                    = ('x' || encode(substring(version FROM 1 FOR 8), 'hex'))::bit(64)::bigint # (1::bigint << 63)
                    AS has_time
            FROM stg.{table}
        ) AS stored
        WHERE NOT has_digest OR NOT has_time"
    )
}

/// Counts the stored versions.
///
/// # Errors
/// If PostgreSQL fails.
pub(super) async fn count(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let count: i64 = statement::query_scalar(
        "SELECT (SELECT count(*) FROM stg.order_events) + (SELECT count(*) FROM stg.order_event_history)",
    )
    .fetch_one(connection)
    .await?;
    Ok(count.unsigned_abs())
}

/// Differences between the order events and the vault.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Rows of the vault that are missing or different.
    pub findings: Findings,
    /// Number of order events that the stage would not accept today; they are not compared.
    pub not_accepted: usize,
}

/// Compares the vault with the order events whose version it has. `progress` receives the number of order events.
///
/// # Errors
/// If PostgreSQL fails.
pub(super) async fn compare_with_vault(
    connection: &mut PgConnection,
    settings: &DecodeSettings,
    progress: impl Fn(u64),
) -> Result<Comparison, sqlx::Error> {
    let mut comparison = Comparison::default();
    let mut after: Option<VersionKey<i64>> = None;
    loop {
        let all = VersionFilter::default();
        let page = stored::page(connection, None, &all, after.as_ref(), PAGE_ROWS).await?;
        for chunk in split_page(&page, CHUNK_ROWS, CHUNK_BYTES) {
            let keys: Vec<_> = chunk.iter().collect();
            let (items, rejected) = stored::read(connection, settings, &keys).await?;
            comparison.not_accepted += rejected.len();
            comparison
                .findings
                .append(compare_chunk(connection, &items).await?);
            progress(chunk.len() as u64);
        }
        match page.into_iter().last() {
            Some(last) => after = Some(last),
            None => return Ok(comparison),
        }
    }
}

async fn compare_chunk(
    connection: &mut PgConnection,
    items: &[Item<Order>],
) -> Result<Findings, sqlx::Error> {
    let in_vault = versions_in_vault(connection, items).await?;
    let stored = items.iter().map(|item| &item.value);
    let stored = stored.filter(|order| in_vault.contains(order.version.as_bytes()));
    let stored: Vec<(Row<'_>, Version)> = stored.map(|order| (row_of(order), order.version)).collect();
    let mut rows = VaultRows::new(&ORDERS.vault);
    for (row, version) in &stored {
        rows.push(row, version);
    }
    let mut columns = rows.into_columns().into_iter();
    let mut findings = Findings::default();
    for comparison in COMPARISONS.iter() {
        let columns: Vec<Column> = columns.by_ref().take(comparison.columns).collect();
        let Some(statement) = &comparison.statement else {
            continue;
        };
        let query = bind_columns(statement::query(AssertSqlSafe(statement.as_str())), columns);
        findings.append(Findings::fetch(connection, query).await?);
    }
    Ok(findings)
}

/// Returns the versions that the vault has. It may not have received the others yet.
async fn versions_in_vault(
    connection: &mut PgConnection,
    items: &[Item<Order>],
) -> Result<HashSet<Vec<u8>>, sqlx::Error> {
    let orders = items
        .iter()
        .map(|item| BusinessKey::Number(item.value.row.order_id()));
    let keys: Vec<Uuid> = orders.map(|order| hash_key("h_order", &[order])).collect();
    let versions: Vec<&[u8]> = items.iter().map(|item| item.value.version.as_bytes()).collect();
    let in_vault: Vec<Vec<u8>> = statement::query_scalar(VERSIONS_IN_VAULT)
        .bind(keys)
        .bind(versions)
        .fetch_all(connection)
        .await?;
    Ok(in_vault.into_iter().collect())
}

/// Returns the row of an order event, with empty texts for the names and categories, which are looked up.
fn row_of(order: &Order) -> Row<'_> {
    fn fill<'o>(value: &'o Value<'static>) -> Value<'o> {
        match value {
            Value::Null => Value::text(""),
            known => known.borrowed(),
        }
    }
    let arrays = order.row.arrays.iter().map(|array| Elements {
        width: array.width,
        values: array.values.iter().map(fill).collect(),
    });
    Row {
        record: order.row.record.iter().map(fill).collect(),
        arrays: arrays.collect(),
        entry_times: order.row.entry_times.clone(),
    }
}

/// Comparison of one table of the vault with expected rows.
struct TableComparison {
    /// Number of columns of the table.
    columns: usize,
    /// `None` for a table whose rows depend on the reference data.
    statement: Option<String>,
}

/// One comparison per table of the vault, in the order of its columns.
static COMPARISONS: LazyLock<Vec<TableComparison>> = LazyLock::new(|| {
    let plan = &ORDERS.vault;
    let hubs = plan.hubs.iter().map(|hub| is_hub_known(hub).then(Vec::new));
    let links = plan.links.iter().map(|link| is_link_known(link).then(Vec::new));
    let satellites = plan.satellites.iter().map(unknown_columns);
    let unknown = hubs.chain(links).chain(satellites);
    let tables = tables(plan);
    let comparisons = tables
        .iter()
        .zip(unknown)
        .map(|(table, unknown)| TableComparison {
            columns: table.columns.len(),
            statement: unknown.map(|unknown| limited(&difference_query(table, &unknown))),
        });
    comparisons.collect()
});

fn is_link_known(link: &Link) -> bool {
    ORDERS.vault.hubs_of(link).all(is_hub_known)
}

fn is_hub_known(hub: &Hub) -> bool {
    !hub.business_key.iter().any(|key| key.is_looked_up)
}

/// Columns of a satellite whose content is not in the order event; `None` if those include its key.
fn unknown_columns(satellite: &Satellite) -> Option<Vec<&str>> {
    let is_parent_known = match satellite.parent {
        Parent::Hub(hub) => is_hub_known(&ORDERS.vault.hubs[hub]),
        Parent::Link(link) => is_link_known(&ORDERS.vault.links[link]),
    };
    if !is_parent_known || satellite.versioned_by != VersionedBy::Record {
        return None;
    }
    let unknown = satellite.attributes.iter().filter(|column| column.is_looked_up);
    let mut unknown: Vec<&str> = unknown.map(|Attribute { column, .. }| column.as_str()).collect();
    if !unknown.is_empty() {
        unknown.push("hash_diff");
    }
    Some(unknown)
}

/// Condition for a row of `stored` whose column differs from that of `expected`.
fn is_different(TableColumn { name, kind }: &TableColumn) -> String {
    match kind {
        Kind::Timestamp => {
            format!("(extract(epoch FROM stored.{name}) * 1000000)::bigint <> expected.{name}")
        }
        _ => format!("stored.{name} <> expected.{name}"),
    }
}

/// Expected rows that the table lacks, or has with other content in the columns that are not `unknown`.
fn difference_query(table: &Table, unknown: &[&str]) -> String {
    let name = &table.name;
    let list = |separator: &str, format: &dyn Fn(&str) -> String| {
        let columns = table.key().iter().map(|column| format(&column.name));
        columns.collect::<Vec<_>>().join(separator)
    };
    let arrays = table.columns.iter().zip(1..);
    let arrays = arrays.map(|(column, number)| format!("${number}::{}", column.kind.parameter_type()));
    let columns = table.columns.iter().map(|column| column.name.as_str());
    let compared = table.columns[table.key().len()..]
        .iter()
        .filter(|column| !unknown.contains(&column.name.as_str()));
    let mut conditions: Vec<String> = vec!["stored.load_src IS NULL".to_owned()];
    conditions.extend(compared.map(is_different));
    format!(
        "SELECT 'dds.{name}', format('{}', {}),
            CASE WHEN stored.load_src IS NULL THEN 'missing, but an order event has it'
                ELSE 'differs from the order event' END
        FROM unnest({}) AS expected ({})
        LEFT JOIN dds.{name} AS stored ON {}
        WHERE {}",
        list(", ", &|column| format!("{column} %s")),
        list(", ", &|column| format!("expected.{column}")),
        arrays.collect::<Vec<_>>().join(", "),
        columns.collect::<Vec<_>>().join(", "),
        list(" AND ", &|column| format!("stored.{column} = expected.{column}")),
        conditions.join(" OR ")
    )
}
