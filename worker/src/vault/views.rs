//! The views of each satellite: what is current, and the timeline.
//!
//! A satellite holds every version, also one that says what the version before it said; the views collapse them. They
//! order by version, never by load date, so that a version that arrives late falls into its place.

use super::model::{DrivingKey, Model, Satellite};
use super::sql::join;
use super::table::{Table, key_column};

/// Two views per satellite, in the order of the model.
pub(super) fn views(model: &Model) -> String {
    let views: Vec<String> = model
        .satellites
        .iter()
        .map(|satellite| {
            let (current, timeline) = match &satellite.driving_key {
                None => (current(satellite), timeline(satellite)),
                Some(driving) => (
                    driven_current(satellite, driving),
                    driven_timeline(satellite, driving),
                ),
            };
            format!("{current}\n{timeline}")
        })
        .collect();
    views.join("\n")
}

/// Names of the views of a satellite: current, timeline.
pub(super) fn names(satellite: &Satellite) -> [String; 2] {
    ["current", "timeline"].map(|view| format!("v_{}_{view}", satellite.name))
}

/// The row of the newest version of each parent.
fn current(satellite: &Satellite) -> String {
    let Satellite { name, .. } = satellite;
    let [view, _] = names(satellite);
    let key = key_column(satellite.parent.name());
    let columns = all_columns(satellite).join(", ");
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

/// The rows of the newest version that the driving hub has, if that version repeats them.
fn driven_current(satellite: &Satellite, driving: &DrivingKey) -> String {
    let Satellite { name, .. } = satellite;
    let [view, _] = names(satellite);
    let link = satellite.parent.name();
    let (key, driving_key) = (key_column(link), key_column(driving.hub.name));
    let [newest, _] = names(driving.versions);
    let columns = join(&all_columns(satellite), ",\n    ", |column| {
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
    ON newest.{driving_key} = link.{driving_key} AND newest.version = satellite.version;
"
    )
}

/// What was valid from when to when: the end is not part of it, and none is known for what is current. Of versions of
/// one instant all but the last were valid for no time.
fn timeline(satellite: &Satellite) -> String {
    let Satellite { name, .. } = satellite;
    let [_, view] = names(satellite);
    let key = key_column(satellite.parent.name());
    let attributes = attributes(satellite);
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

/// The timeline where a row also ends when the next version of the driving hub does not repeat it: rows belong together
/// while their versions are neighbours among all versions of the driving hub.
fn driven_timeline(satellite: &Satellite, driving: &DrivingKey) -> String {
    let Satellite { name, .. } = satellite;
    let [_, view] = names(satellite);
    let link = satellite.parent.name();
    let (key, driving_key) = (key_column(link), key_column(driving.hub.name));
    let versions = driving.versions.name;
    let attributes = attributes(satellite);
    let columns = Table::of_satellite(satellite).columns;
    let same = join(&columns, ", ", |column| column.name.clone());
    let active = satellite
        .multi_active
        .map_or(String::new(), |column| format!(", {}", column.column));
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
                {driving_key}, version,
                row_number() OVER one_parent AS number,
                lead(update_ts) OVER one_parent AS next_update_ts
            FROM dds.{versions}
            WINDOW one_parent AS (PARTITION BY {driving_key} ORDER BY version)
        ) AS versions USING ({driving_key}, version)
        WINDOW same_row AS (PARTITION BY {key}{active} ORDER BY version)
    ) AS marked
    WHERE is_first OR is_last
    WINDOW same_row AS (PARTITION BY {key}{active} ORDER BY version)
) AS bounded
WHERE is_first;
"
    )
}

fn all_columns(satellite: &Satellite) -> Vec<String> {
    let filled = Table::of_satellite(satellite)
        .columns
        .into_iter()
        .map(|column| column.name);
    filled.chain(["load_dt", "load_src"].map(str::to_owned)).collect()
}

fn attributes(satellite: &Satellite) -> String {
    join(satellite.attributes, ", ", |attribute| {
        attribute.column.to_owned()
    })
}
