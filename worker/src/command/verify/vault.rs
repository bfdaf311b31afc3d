#![expect(clippy::disallowed_types, reason = "edge: reads the vault from PostgreSQL")]
//! Vault: hash keys and hash diffs that differ from the content of their rows, references without a hub or link, and
//! versions that are not in every satellite.
//!
//! Only the hash functions of the vault compute a hash, so the rows are read, through a cursor of the transaction.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::finding::{Finding, Findings};
use crate::plan::kind::Kind;
use crate::plan::slots::Scope;
use crate::plan::vault::{Attribute, Effectivity, Hub, Link, Parent, Satellite, VaultPlan, VersionedBy};
use crate::statement;
use crate::vault::{BusinessKey, hash_diff, hash_key};
use crate::version::{to_hex, update_ts_of};

/// Satellite with a row for every version of every order.
const VERSIONS: &str = "s_order_status";
/// Number of rows per fetch.
const FETCH_ROWS: u32 = 5_000;

/// Compares every row of a hub with its hash key.
pub(super) async fn check_hub(connection: &mut PgConnection, hub: &Hub) -> Result<Findings, sqlx::Error> {
    let name = &hub.name;
    let query = format!(
        "SELECT hub.{name}_pk, ARRAY[{}] FROM dds.{name} AS hub",
        text_expressions("hub", &hub.business_key)
    );
    let check = |row: &PgRow| {
        let (key, stored): (Uuid, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
        let business_keys = stored_keys(hub.business_key.iter(), &stored);
        // The ghost record has the key of a blank business key.
        if key.is_nil() || key == hash_key(name, &business_keys) {
            return Ok(None);
        }
        let columns = hub.business_key.iter().zip(&stored);
        let columns: Vec<String> = columns
            .map(|(key, text)| format!("{} {text:?}", key.column))
            .collect();
        Ok(Some(Finding {
            table: format!("dds.{name}"),
            key: format!("{name}_pk {key}"),
            detail: format!("{} has another hash key", columns.join(", ")),
        }))
    };
    check_rows(connection, &query, check).await
}

/// Compares every row of a link with its hash key, and searches links without a hub.
pub(super) async fn check_link(
    connection: &mut PgConnection,
    link: &Link,
    plan: &VaultPlan,
) -> Result<Findings, sqlx::Error> {
    let (name, hubs) = (&link.name, plan.hubs_of(link));
    let list =
        |expression: &dyn Fn(&Hub) -> String| hubs.clone().map(expression).collect::<Vec<_>>().join(", ");
    let joins = hubs
        .clone()
        .map(|Hub { name: hub, .. }| format!("LEFT JOIN dds.{hub} ON {hub}.{hub}_pk = link.{hub}_pk"));
    let query = format!(
        "SELECT link.{name}_pk, ARRAY[{}], ARRAY[{}], ARRAY[{}] FROM dds.{name} AS link {}",
        list(&|hub| text_expressions(&hub.name, &hub.business_key)),
        list(&|hub| format!("link.{}_pk", hub.name)),
        list(&|hub| format!("{0}.{0}_pk IS NULL", hub.name)),
        joins.collect::<Vec<_>>().join(" ")
    );
    let check = |row: &PgRow| {
        let (key, stored): (Uuid, Vec<Option<String>>) = (row.try_get(0)?, row.try_get(1)?);
        let is_missing: Vec<bool> = row.try_get(3)?;
        if let Some(missing) = is_missing.iter().position(|is_missing| *is_missing) {
            let (hub, keys): (_, Vec<Uuid>) = (&plan.hubs[link.hubs[missing]], row.try_get(2)?);
            return Ok(Some(missing_parent(&hub.name, keys[missing], name)));
        }
        let stored: Vec<String> = stored.into_iter().flatten().collect();
        let business_keys = stored_keys(hubs.clone().flat_map(|hub| &hub.business_key), &stored);
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
    plan: &VaultPlan,
) -> Result<Findings, sqlx::Error> {
    let (name, parent) = (&satellite.name, plan.parent_name(satellite.parent));
    let query = format!(
        "SELECT satellite.{parent}_pk, satellite.version, satellite.hash_diff, parent.{parent}_pk IS NULL,
            (extract(epoch FROM satellite.update_ts) * 1000000)::bigint, ARRAY[{}]::text[]
        FROM dds.{name} AS satellite LEFT JOIN dds.{parent} AS parent ON parent.{parent}_pk = satellite.{parent}_pk",
        text_expressions("satellite", &satellite.attributes)
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

/// Business keys from the texts of their columns.
fn stored_keys<'t, 'p>(
    columns: impl Iterator<Item = &'p Attribute>,
    texts: &'t [String],
) -> Vec<BusinessKey<'t>> {
    let keys = columns.zip(texts).map(|(column, text)| match text.parse() {
        Ok(number) if column.kind != Kind::Text => BusinessKey::Number(number),
        _ => BusinessKey::Text(text),
    });
    keys.collect()
}

/// Expressions for the texts of columns, as the hash functions use them.
fn text_expressions(table: &str, columns: &[Attribute]) -> String {
    let expressions = columns.iter().map(|Attribute { column, kind, .. }| match kind {
        Kind::Numeric => format!("trim_scale({table}.{column})::text"),
        Kind::Timestamp => format!("(extract(epoch FROM {table}.{column}) * 1000000)::bigint::text"),
        _ => format!("{table}.{column}::text"),
    });
    expressions.collect::<Vec<_>>().join(", ")
}

/// Queries for versions and references that are not complete: every version of an order is in each of its satellites, and
/// every hub that is looked up has a name.
pub(super) fn completeness_queries(plan: &VaultPlan) -> Vec<String> {
    let Some(versions) = plan
        .satellites
        .iter()
        .find(|satellite| satellite.name == VERSIONS)
    else {
        return Vec::new();
    };
    let mut queries = Vec::new();
    for satellite in &plan.satellites {
        match (satellite.versioned_by, satellite.parent) {
            (VersionedBy::Record, _) if satellite.name == versions.name => {}
            (VersionedBy::Record, _) => {
                queries.push(versions_missing(satellite, versions, plan));
                if satellite.scope == Scope::Record {
                    queries.push(versions_missing(versions, satellite, plan));
                }
            }
            (VersionedBy::Entry(_), Parent::Hub(hub)) => {
                queries.push(names_missing(&plan.hubs[hub].name, &satellite.name));
            }
            (VersionedBy::Entry(_), Parent::Link(_)) => {}
        }
        if let Parent::Link(link) = satellite.parent {
            let hubs = plan.links[link].hubs.iter();
            let described = hubs.filter_map(|&hub| Some((hub, hub_satellite(plan, hub)?)));
            queries.extend(described.map(|(hub, of_hub)| hub_versions_missing(satellite, hub, of_hub, plan)));
        }
        let effectivities = satellite.effectivities.iter();
        queries
            .extend(effectivities.flat_map(|effectivity| effectivity_queries(satellite, effectivity, plan)));
    }
    queries
}

/// Rows of an effectivity satellite whose link is missing or has another driving hub, and versions that only one of it and
/// its satellite has.
fn effectivity_queries(satellite: &Satellite, effectivity: &Effectivity, plan: &VaultPlan) -> [String; 4] {
    let (driving, link) = (
        plan.parent_name(satellite.parent),
        &plan.links[effectivity.link].name,
    );
    let (satellite, name) = (&satellite.name, &effectivity.name);
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
pub(super) fn view_queries(plan: &VaultPlan) -> Vec<String> {
    let queries = plan.satellites.iter().map(|satellite| {
        let (name, parent) = (&satellite.name, plan.parent_name(satellite.parent));
        let attributes = satellite.attributes.iter().map(|attribute| &attribute.column);
        let columns = satellite.multi_active.iter().chain(attributes);
        let columns: Vec<String> = columns.map(|column| format!(", {column}")).collect();
        view_query(name, &format!("{parent}_pk{}", columns.concat()))
    });
    let effectivities = plan.effectivities().map(|(_, effectivity)| {
        let key = format!("{}_pk", plan.links[effectivity.link].name);
        view_query(&effectivity.name, &key)
    });
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
fn hub_satellite(plan: &VaultPlan, hub: usize) -> Option<&Satellite> {
    plan.satellites.iter().find(|satellite| {
        satellite.parent == Parent::Hub(hub) && satellite.versioned_by == VersionedBy::Record
    })
}

/// Rows of `having` whose version is not in `lacking`.
fn versions_missing(having: &Satellite, lacking: &Satellite, plan: &VaultPlan) -> String {
    let parent = plan.parent_name(having.parent);
    let (having, lacking) = (&having.name, &lacking.name);
    format!(
        "SELECT 'dds.{lacking}', format('version %s', stored.version),
            format('missing, but dds.{having} has it, {parent}_pk %s', stored.{parent}_pk)
        FROM dds.{having} AS stored
        WHERE NOT EXISTS (SELECT FROM dds.{lacking} AS lacking WHERE lacking.version = stored.version)"
    )
}

/// Keys of a hub without a row in a satellite that every message fills.
fn names_missing(hub: &str, satellite: &str) -> String {
    format!(
        "SELECT 'dds.{satellite}', format('{hub}_pk %s', hub.{hub}_pk), 'missing, but dds.{hub} has the key'
        FROM dds.{hub} AS hub
        WHERE hub.load_src <> 'system'
            AND NOT EXISTS (SELECT FROM dds.{satellite} AS names WHERE names.{hub}_pk = hub.{hub}_pk)"
    )
}

/// Versions of a hub that are in the satellite of a link with it, and not in that of the hub.
fn hub_versions_missing(satellite: &Satellite, hub: usize, of_hub: &Satellite, plan: &VaultPlan) -> String {
    let (link, hub) = (plan.parent_name(satellite.parent), &plan.hubs[hub].name);
    let (satellite, of_hub) = (&satellite.name, &of_hub.name);
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
