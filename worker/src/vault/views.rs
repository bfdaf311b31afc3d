//! Generates two views per satellite and effectivity satellite: the current rows, and the timeline.
//!
//! A satellite has a row for every version, even if the attributes are unchanged; the views collapse equal neighbors.
//! They order by version, never by load date, so that a late-arriving version gets its correct place.

use super::sql::join;
use super::table::{Table, key_column_name};
use crate::plan::vault::{DrivingKey, Effectivity, Link, Satellite, VaultPlan};

/// Returns the definitions of all views, in the order of the model.
pub(super) fn view_definitions(plan: &VaultPlan) -> Vec<String> {
    let satellites = plan
        .satellites
        .iter()
        .flat_map(|satellite| match satellite.driving_key {
            None => [current_view(satellite, plan), timeline_view(satellite, plan)],
            Some(driving_key) => [
                driven_current_view(satellite, driving_key, plan),
                driven_timeline_view(satellite, driving_key, plan),
            ],
        });
    let effectivities = plan.effectivities().flat_map(|(satellite, effectivity)| {
        [
            effectivity_current_view(satellite, effectivity, plan),
            effectivity_timeline_view(satellite, effectivity, plan),
        ]
    });
    satellites.chain(effectivities).collect()
}

/// Returns the names of the views of a satellite: current, timeline.
fn view_names(satellite: &str) -> [String; 2] {
    ["current", "timeline"].map(|view| format!("v_{satellite}_{view}"))
}

/// Returns the current view: the row of the latest version of each parent.
fn current_view(satellite: &Satellite, plan: &VaultPlan) -> String {
    let Satellite { name, .. } = satellite;
    let [view, _] = view_names(name);
    let key = key_column_name(plan.parent_name(satellite.parent));
    let columns = all_columns(satellite, plan).join(", ");
    format!(
        "\
CREATE VIEW dds.{view} AS
SELECT DISTINCT ON ({key})
    {columns}
FROM dds.{name}
ORDER BY {key}, version DESC;
"
    )
}

/// Returns the current view with a driving key: the rows of the latest version of the driving hub.
fn driven_current_view(satellite: &Satellite, driving_key: DrivingKey, plan: &VaultPlan) -> String {
    let Satellite { name, .. } = satellite;
    let [view, _] = view_names(name);
    let link = plan.parent_name(satellite.parent);
    let (key, hub_key) = (
        key_column_name(link),
        key_column_name(&plan.hubs[driving_key.hub].name),
    );
    let [newest, _] = view_names(&plan.satellites[driving_key.versions].name);
    let columns = join(&all_columns(satellite, plan), ",\n    ", |column| {
        format!("satellite.{column}")
    });
    format!(
        "\
CREATE VIEW dds.{view} AS
SELECT
    {columns}
FROM dds.{name} AS satellite
JOIN dds.{link} AS link ON link.{key} = satellite.{key}
JOIN dds.{newest} AS newest
    ON newest.{hub_key} = link.{hub_key} AND newest.version = satellite.version;
"
    )
}

/// Returns the timeline view: each row with the time range in which it was valid.
///
/// The end is exclusive, and null for the current row. Of several versions at the same instant, all but the last one
/// have an empty range.
fn timeline_view(satellite: &Satellite, plan: &VaultPlan) -> String {
    let Satellite { name, .. } = satellite;
    let [_, view] = view_names(name);
    let key = key_column_name(plan.parent_name(satellite.parent));
    let attributes = attribute_list(satellite);
    format!(
        "\
CREATE VIEW dds.{view} AS
SELECT
    {key},
    {attributes},
    update_ts AS valid_from,
    lead(update_ts) OVER (PARTITION BY {key} ORDER BY version) AS valid_to
FROM (
    SELECT *, lag(hash_diff) OVER (PARTITION BY {key} ORDER BY version) AS earlier_hash_diff
    FROM dds.{name}
) AS satellite
WHERE earlier_hash_diff IS DISTINCT FROM hash_diff;
"
    )
}

/// Returns the timeline view with a driving key: a row also ends if the next version of the driving hub omits it.
///
/// Equal rows are collapsed only if their versions are neighbors among all versions of the driving hub.
fn driven_timeline_view(satellite: &Satellite, driving_key: DrivingKey, plan: &VaultPlan) -> String {
    let Satellite { name, .. } = satellite;
    let [_, view] = view_names(name);
    let link = plan.parent_name(satellite.parent);
    let (key, hub_key) = (
        key_column_name(link),
        key_column_name(&plan.hubs[driving_key.hub].name),
    );
    let versions = &plan.satellites[driving_key.versions].name;
    let attributes = attribute_list(satellite);
    let columns = Table::from_satellite(satellite, plan).columns;
    let same = join(&columns, ", ", |column| column.name.clone());
    let active = satellite.multi_active.as_ref();
    let active = active.map_or(String::new(), |column| format!(", {column}"));
    format!(
        "\
CREATE VIEW dds.{view} AS
SELECT
    {key}{active},
    {attributes},
    update_ts AS valid_from,
    valid_to
FROM (
    SELECT *, CASE WHEN is_last THEN next_update_ts ELSE lead(next_update_ts) OVER same_row END AS valid_to
    FROM (
        SELECT
            {same}, next_update_ts,
            (lag(number) OVER same_row, lag(hash_diff) OVER same_row)
                IS DISTINCT FROM (number - 1, hash_diff) AS is_first,
            (lead(number) OVER same_row, lead(hash_diff) OVER same_row)
                IS DISTINCT FROM (number + 1, hash_diff) AS is_last
        FROM dds.{name} AS satellite
        JOIN dds.{link} AS link USING ({key})
        JOIN (
            SELECT
                {hub_key}, version,
                row_number() OVER one_parent AS number,
                lead(update_ts) OVER one_parent AS next_update_ts
            FROM dds.{versions}
            WINDOW one_parent AS (PARTITION BY {hub_key} ORDER BY version)
        ) AS versions USING ({hub_key}, version)
        WINDOW same_row AS (PARTITION BY {key}{active} ORDER BY version)
    ) AS marked
    WHERE is_first OR is_last
    WINDOW same_row AS (PARTITION BY {key}{active} ORDER BY version)
) AS bounded
WHERE is_first;
"
    )
}

/// Returns the current view of an effectivity satellite: the row of the link that the latest version of each driving hub
/// states.
fn effectivity_current_view(satellite: &Satellite, effectivity: &Effectivity, plan: &VaultPlan) -> String {
    let (name, link) = (&effectivity.name, &plan.links[effectivity.link]);
    let [view, _] = view_names(name);
    let (driving_key, link_key) = (
        key_column_name(plan.parent_name(satellite.parent)),
        key_column_name(&link.name),
    );
    let (link, hubs) = (&link.name, hub_keys(link, &driving_key, plan));
    format!(
        "\
CREATE VIEW dds.{view} AS
SELECT {link_key}, {hubs}, version, update_ts, satellite.load_dt, satellite.load_src
FROM (
    SELECT DISTINCT ON ({driving_key}) *
    FROM dds.{name}
    ORDER BY {driving_key}, version DESC
) AS satellite
JOIN dds.{link} AS link USING ({link_key});
"
    )
}

/// Returns the timeline view of an effectivity satellite: the partners of each driving hub, one after the other.
fn effectivity_timeline_view(satellite: &Satellite, effectivity: &Effectivity, plan: &VaultPlan) -> String {
    let (name, link) = (&effectivity.name, &plan.links[effectivity.link]);
    let [_, view] = view_names(name);
    let (driving_key, link_key) = (
        key_column_name(plan.parent_name(satellite.parent)),
        key_column_name(&link.name),
    );
    let (link, hubs) = (&link.name, hub_keys(link, &driving_key, plan));
    format!(
        "\
CREATE VIEW dds.{view} AS
SELECT {link_key}, {hubs}, valid_from, valid_to
FROM (
    SELECT
        {driving_key}, {link_key},
        update_ts AS valid_from,
        lead(update_ts) OVER (PARTITION BY {driving_key} ORDER BY version) AS valid_to
    FROM (
        SELECT *, lag({link_key}) OVER (PARTITION BY {driving_key} ORDER BY version) AS earlier_key
        FROM dds.{name}
    ) AS versions
    WHERE earlier_key IS DISTINCT FROM {link_key}
) AS satellite
JOIN dds.{link} AS link USING ({link_key});
"
    )
}

/// Returns the hash keys of the hubs that a link joins, separated by commas. The driving key is that of the satellite, so
/// that a condition on it restricts the rows before they are sorted by version.
fn hub_keys(link: &Link, driving_key: &str, plan: &VaultPlan) -> String {
    let keys = plan.hubs_of(link).map(|hub| {
        let key = key_column_name(&hub.name);
        let table = if key == driving_key { "satellite" } else { "link" };
        format!("{table}.{key}")
    });
    keys.collect::<Vec<_>>().join(", ")
}

/// Returns every column of the satellite, with the load date and the record source.
fn all_columns(satellite: &Satellite, plan: &VaultPlan) -> Vec<String> {
    let filled = Table::from_satellite(satellite, plan)
        .columns
        .into_iter()
        .map(|column| column.name);
    filled.chain(["load_dt", "load_src"].map(str::to_owned)).collect()
}

/// Returns the descriptive columns, separated by commas.
fn attribute_list(satellite: &Satellite) -> String {
    join(&satellite.attributes, ", ", |attribute| attribute.column.clone())
}
