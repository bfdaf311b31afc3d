#![expect(clippy::disallowed_types, reason = "edge: reads the vault from PostgreSQL")]
//! Vault: hash keys and hash diffs that differ from the content of their rows, references without a hub or link, and
//! versions that are not in every satellite.
//!
//! Only the hash functions of the vault compute a hash, so the rows are read, through a cursor of the transaction.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::finding::{Finding, Findings};
use crate::statement;
use crate::vault::{
    Attribute, BusinessKey, Effectivity, Hub, Kind, Link, Model, Parent, Satellite, Scope, VersionedBy,
    hash_diff, hash_key,
};
use crate::version::{to_hex, update_ts_of};

/// Satellite with a row for every version of every order.
const VERSIONS: &str = "s_order_status";
/// Number of rows per fetch.
const FETCH_ROWS: u32 = 5_000;

/// Compares every row of a hub with its hash key.
pub(super) async fn check_hub(connection: &mut PgConnection, hub: &Hub) -> Result<Findings, sqlx::Error> {
    let (name, column) = (hub.name, text_expression("hub", &hub.business_key));
    let query = format!("SELECT hub.{name}_pk, {column} FROM dds.{name} AS hub");
    let check = |row: &PgRow| {
        let (key, business_key): (Uuid, String) = (row.try_get(0)?, row.try_get(1)?);
        // The ghost record has the key of a blank business key.
        if key.is_nil() || key == hash_key(name, &[stored_key(hub, &business_key)]) {
            return Ok(None);
        }
        Ok(Some(Finding {
            table: format!("dds.{name}"),
            key: format!("{name}_pk {key}"),
            detail: format!(
                "{} {business_key:?} has another hash key",
                hub.business_key.column
            ),
        }))
    };
    check_rows(connection, &query, check).await
}

/// Compares every row of a link with its hash key, and searches links without a hub.
pub(super) async fn check_link(connection: &mut PgConnection, link: &Link) -> Result<Findings, sqlx::Error> {
    let name = link.name;
    let columns = link
        .hubs
        .iter()
        .map(|hub| text_expression(hub.name, &hub.business_key));
    let joins = link.hubs.iter().map(|hub| {
        let hub = hub.name;
        format!("LEFT JOIN dds.{hub} ON {hub}.{hub}_pk = link.{hub}_pk")
    });
    let hub_keys = link.hubs.iter().map(|hub| format!("link.{}_pk", hub.name));
    let query = format!(
        "SELECT link.{name}_pk, ARRAY[{}], ARRAY[{}] FROM dds.{name} AS link {}",
        columns.collect::<Vec<_>>().join(", "),
        hub_keys.collect::<Vec<_>>().join(", "),
        joins.collect::<Vec<_>>().join(" ")
    );
    let check = |row: &PgRow| {
        let (key, business_keys): (Uuid, Vec<Option<String>>) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(missing) = business_keys.iter().position(Option::is_none) {
            let hub_keys: Vec<Uuid> = row.try_get(2)?;
            return Ok(Some(missing_parent(
                link.hubs[missing].name,
                hub_keys[missing],
                name,
            )));
        }
        let business_keys: Vec<BusinessKey<'_>> = link
            .hubs
            .iter()
            .zip(business_keys.iter().flatten())
            .map(|(hub, business_key)| stored_key(hub, business_key))
            .collect();
        if key == hash_key(name, &business_keys) {
            return Ok(None);
        }
        Ok(Some(Finding {
            table: format!("dds.{name}"),
            key: format!("{name}_pk {key}"),
            detail: format!("{business_keys:?} has another hash key"),
        }))
    };
    check_rows(connection, &query, check).await
}

/// Compares every row of a satellite with its hash diff and its version, and searches rows without a parent.
pub(super) async fn check_satellite(
    connection: &mut PgConnection,
    satellite: &Satellite,
) -> Result<Findings, sqlx::Error> {
    let (name, parent) = (satellite.name, satellite.parent.name());
    let columns = satellite
        .attributes
        .iter()
        .map(|attribute| text_expression("satellite", attribute));
    let query = format!(
        "SELECT satellite.{parent}_pk, satellite.version, satellite.hash_diff, parent.{parent}_pk IS NULL,
            (extract(epoch FROM satellite.update_ts) * 1000000)::bigint, ARRAY[{}]::text[]
        FROM dds.{name} AS satellite LEFT JOIN dds.{parent} AS parent ON parent.{parent}_pk = satellite.{parent}_pk",
        columns.collect::<Vec<_>>().join(", ")
    );
    let check = |row: &PgRow| {
        let (key, version): (Uuid, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        let (diff, is_orphan): (Uuid, bool) = (row.try_get(2)?, row.try_get(3)?);
        let (update_ts, attributes): (i64, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
        let version_time = update_ts_of(&version);
        let detail = if is_orphan {
            return Ok(Some(missing_parent(parent, key, name)));
        } else if diff != hash_diff(&attributes) {
            "its attributes have another hash diff".to_owned()
        } else if version_time != Some(update_ts) {
            "update_ts is not the time of its version".to_owned()
        } else {
            return Ok(None);
        };
        Ok(Some(Finding {
            table: format!("dds.{name}"),
            key: format!("{parent}_pk {key}, version \\x{}", to_hex(&version)),
            detail,
        }))
    };
    check_rows(connection, &query, check).await
}

/// Finding for a hub or link that a row of the table `child` refers to.
fn missing_parent(parent: &str, key: Uuid, child: &str) -> Finding {
    Finding {
        table: format!("dds.{parent}"),
        key: format!("{parent}_pk {key}"),
        detail: format!("missing, but dds.{child} refers to it"),
    }
}

/// Reads the rows of a query through a cursor, and collects the findings of `check`.
async fn check_rows(
    connection: &mut PgConnection,
    query: &str,
    check: impl Fn(&PgRow) -> Result<Option<Finding>, sqlx::Error>,
) -> Result<Findings, sqlx::Error> {
    let declare = format!("DECLARE verified NO SCROLL CURSOR FOR {query}");
    sqlx::raw_sql(AssertSqlSafe(declare))
        .execute(&mut *connection)
        .await?;
    let fetch = format!("FETCH {FETCH_ROWS} FROM verified");
    let mut findings = Findings::default();
    loop {
        let rows = statement::query(AssertSqlSafe(fetch.clone()))
            .fetch_all(&mut *connection)
            .await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            if let Some(finding) = check(row)? {
                findings.push(finding);
            }
        }
    }
    sqlx::raw_sql("CLOSE verified").execute(connection).await?;
    Ok(findings)
}

/// Business key of a hub from the text of its column.
fn stored_key<'t>(hub: &Hub, text: &'t str) -> BusinessKey<'t> {
    match text.parse() {
        Ok(number) if hub.business_key.field.kind() == Kind::BigInt => BusinessKey::Number(number),
        _ => BusinessKey::Text(text),
    }
}

/// Expression for the text of a column, as the hash functions use it.
fn text_expression(table: &str, Attribute { column, field }: &Attribute) -> String {
    match field.kind() {
        Kind::Numeric => format!("trim_scale({table}.{column})::text"),
        Kind::Timestamp => format!("(extract(epoch FROM {table}.{column}) * 1000000)::bigint::text"),
        _ => format!("{table}.{column}::text"),
    }
}

/// Queries for versions and references that are not complete: every version of an order is in each of its satellites, and
/// every hub that is looked up has a name.
pub(super) fn completeness_queries(model: &Model) -> Vec<String> {
    let Some(versions) = model
        .satellites
        .iter()
        .find(|satellite| satellite.name == VERSIONS)
    else {
        return Vec::new();
    };
    let mut queries = Vec::new();
    for satellite in model.satellites {
        match (satellite.versioned_by, satellite.parent) {
            (VersionedBy::Record, _) if satellite.name == versions.name => {}
            (VersionedBy::Record, _) => {
                queries.push(versions_missing(satellite, versions));
                if satellite.scope() == Scope::Order {
                    queries.push(versions_missing(versions, satellite));
                }
            }
            (VersionedBy::User | VersionedBy::Restaurant, Parent::Hub(hub)) => {
                queries.push(names_missing(hub, satellite));
            }
            (VersionedBy::User | VersionedBy::Restaurant, Parent::Link(_)) => {}
        }
        if let Parent::Link(link) = satellite.parent {
            let hubs = link.hubs.iter();
            let described = hubs.filter_map(|hub| Some((hub, hub_satellite(model, hub)?)));
            queries.extend(described.map(|(hub, of_hub)| hub_versions_missing(satellite, link, hub, of_hub)));
        }
        let effectivities = satellite.effectivities.iter();
        queries.extend(effectivities.flat_map(|effectivity| effectivity_queries(satellite, effectivity)));
    }
    queries
}

/// Rows of an effectivity satellite whose link is missing or has another driving hub, and versions that only one of it and
/// its satellite has.
fn effectivity_queries(satellite: &Satellite, effectivity: &Effectivity) -> [String; 4] {
    let (satellite, driving, link) = (satellite.name, satellite.parent.name(), effectivity.link.name);
    let name = effectivity.name;
    let keys = |table: &str| format!("SELECT {driving}_pk, version FROM dds.{table}");
    let missing = |having: &str, lacking: &str| {
        format!(
            "SELECT 'dds.{lacking}', format('{driving}_pk %s, version %s', missing.{driving}_pk, missing.version),
                'missing, but dds.{having} has it'
            FROM ({} EXCEPT {}) AS missing",
            keys(having),
            keys(lacking)
        )
    };
    let misled = format!(
        "SELECT 'dds.{name}', format('{driving}_pk %s, version %s', stored.{driving}_pk, stored.version),
            format('{link}_pk %s is a link of another {driving}_pk', stored.{link}_pk)
        FROM dds.{name} AS stored JOIN dds.{link} AS link USING ({link}_pk)
        WHERE link.{driving}_pk <> stored.{driving}_pk"
    );
    let unlinked = format!(
        "SELECT DISTINCT 'dds.{link}', format('{link}_pk %s', stored.{link}_pk), 'missing, but dds.{name} has it'
        FROM dds.{name} AS stored
        WHERE NOT EXISTS (SELECT FROM dds.{link} AS link WHERE link.{link}_pk = stored.{link}_pk)"
    );
    [
        misled,
        unlinked,
        missing(satellite, name),
        missing(name, satellite),
    ]
}

/// Queries for rows that only one of the two views of a satellite has: current rows, and rows without an end.
pub(super) fn view_queries(model: &Model) -> Vec<String> {
    let queries = model.satellites.iter().map(|satellite| {
        let (name, parent) = (satellite.name, satellite.parent.name());
        let columns = satellite.multi_active.iter().chain(satellite.attributes);
        let columns: Vec<String> = columns.map(|column| format!(", {}", column.column)).collect();
        view_query(name, &format!("{parent}_pk{}", columns.concat()))
    });
    let effectivities = model.satellites.iter().flat_map(|satellite| {
        let keys = satellite.effectivities.iter();
        keys.map(|effectivity| (effectivity.name, format!("{}_pk", effectivity.link.name)))
    });
    let effectivities = effectivities.map(|(name, key)| view_query(name, &key));
    queries.chain(effectivities).collect()
}

/// Rows that only one of the views has; the first of `columns` names a row.
fn view_query(name: &str, columns: &str) -> String {
    let key = columns.split(',').next().unwrap_or(columns);
    let current = format!("SELECT {columns} FROM dds.v_{name}_current");
    let open = format!("SELECT {columns} FROM dds.v_{name}_timeline WHERE valid_to IS NULL");
    format!(
        "SELECT 'dds.v_{name}_timeline', format('{key} %s', {key}), 'has no open row like the current one'
        FROM ({current} EXCEPT {open}) AS one
        UNION ALL
        SELECT 'dds.v_{name}_current', format('{key} %s', {key}), 'has no row like the open one'
        FROM ({open} EXCEPT {current}) AS other"
    )
}

/// First satellite of a hub with a row for every version of the record.
fn hub_satellite<'m>(model: &'m Model, hub: &Hub) -> Option<&'m Satellite> {
    let of_hub =
        |satellite: &&&Satellite| matches!(satellite.parent, Parent::Hub(parent) if parent.name == hub.name);
    let mut satellites = model.satellites.iter().filter(of_hub);
    satellites
        .find(|satellite| satellite.versioned_by == VersionedBy::Record)
        .copied()
}

/// Rows of `having` whose version is not in `lacking`.
fn versions_missing(having: &Satellite, lacking: &Satellite) -> String {
    let (having, parent, lacking) = (having.name, having.parent.name(), lacking.name);
    format!(
        "SELECT 'dds.{lacking}', format('version %s', stored.version),
            format('missing, but dds.{having} has it, {parent}_pk %s', stored.{parent}_pk)
        FROM dds.{having} AS stored
        WHERE NOT EXISTS (SELECT FROM dds.{lacking} AS lacking WHERE lacking.version = stored.version)"
    )
}

/// Keys of a hub without a row in a satellite that every message fills.
fn names_missing(hub: &Hub, satellite: &Satellite) -> String {
    let (hub, satellite) = (hub.name, satellite.name);
    format!(
        "SELECT 'dds.{satellite}', format('{hub}_pk %s', hub.{hub}_pk), 'missing, but dds.{hub} has the key'
        FROM dds.{hub} AS hub
        WHERE hub.load_src <> 'system'
            AND NOT EXISTS (SELECT FROM dds.{satellite} AS names WHERE names.{hub}_pk = hub.{hub}_pk)"
    )
}

/// Versions of a hub that are in the satellite of a link with it, and not in that of the hub.
fn hub_versions_missing(satellite: &Satellite, link: &Link, hub: &Hub, of_hub: &Satellite) -> String {
    let (satellite, link, hub, of_hub) = (satellite.name, link.name, hub.name, of_hub.name);
    format!(
        "SELECT 'dds.{of_hub}', format('{hub}_pk %s, version %s', missing.{hub}_pk, missing.version),
            'missing, but dds.{satellite} has it'
        FROM (
            SELECT DISTINCT link.{hub}_pk, stored.version
            FROM dds.{satellite} AS stored JOIN dds.{link} AS link USING ({link}_pk)
            EXCEPT SELECT {hub}_pk, version FROM dds.{of_hub}
        ) AS missing"
    )
}
