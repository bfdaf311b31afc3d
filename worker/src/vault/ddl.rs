//! Generates the migration of a model: tables, views, ghost records and grants.
//!
//! It omits foreign keys. They double the cost of a write, and they are not needed: keys are functions of business
//! keys, and one statement writes both ends of a reference.

use std::fmt::Write as _;

use uuid::Uuid;

use super::kind::Kind;
use super::model::{Hub, Model};
use super::sql::join;
use super::table::Table;
use super::views;

/// Role of the workers. It can only insert and read, because the vault is insert-only.
const ROLE: &str = "streamstage_worker";

/// Returns the migration that creates a vault in the schema `dds`.
#[must_use]
pub fn migration(model: &Model) -> String {
    let tables = model.tables();
    let mut sql = String::from(
        "\
-- The Data Vault. Generated from the model in worker/src/vault/model.rs; a test compares the two.
CREATE SCHEMA IF NOT EXISTS dds;

",
    );
    for table in &tables {
        add_table(&mut sql, table);
    }
    sql.push_str(&views::view_definitions(model));
    sql.push_str("\n-- Ghost records: what a blank business key leads to.\n");
    for hub in model.hubs {
        add_ghost_record(&mut sql, hub);
    }
    let names = join(&tables, ",\n    ", |table| format!("dds.{}", table.name));
    let view_names = join(model.satellites, ",\n    ", |satellite| {
        views::view_names(satellite)
            .map(|view| format!("dds.{view}"))
            .join(", ")
    });
    let _ = write!(
        sql,
        "
GRANT USAGE ON SCHEMA dds TO {ROLE};
GRANT SELECT, INSERT ON
    {names}
    TO {ROLE};
GRANT SELECT ON
    {view_names}
    TO {ROLE};
"
    );
    sql
}

fn add_table(sql: &mut String, table: &Table) {
    let filled = table
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.kind.column_type(), "NOT NULL"));
    let metadata = [
        ("load_dt", "timestamptz", "NOT NULL DEFAULT now()"),
        ("load_src", "text", "NOT NULL"),
    ];
    let columns: Vec<_> = filled.chain(metadata).collect();
    let name_width = columns
        .iter()
        .map(|(name, ..)| name.len())
        .max()
        .unwrap_or_default();
    let type_width = columns
        .iter()
        .map(|(_, kind, _)| kind.len())
        .max()
        .unwrap_or_default();
    let _ = writeln!(sql, "CREATE TABLE dds.{} (", table.name);
    for (name, kind, constraint) in columns {
        let _ = writeln!(sql, "    {name:name_width$} {kind:type_width$} {constraint},");
    }
    let key = join(table.key(), ", ", |column| column.name.clone());
    let _ = writeln!(sql, "    PRIMARY KEY ({key})\n);\n");
}

fn add_ghost_record(sql: &mut String, hub: &Hub) {
    let (name, column, ghost) = (hub.name, hub.business_key.column, Uuid::nil());
    let business_key = if hub.business_key.field.kind() == Kind::Text {
        "''"
    } else {
        "-1"
    };
    let _ = writeln!(
        sql,
        "INSERT INTO dds.{name} ({name}_pk, {column}, load_src) VALUES ('{ghost}', {business_key}, 'system');"
    );
}

#[cfg(test)]
mod tests {
    use super::super::model::MODEL;
    use super::*;

    /// Valid while only migration 0003 defines the vault. If a later migration changes the vault, 0003 stays frozen;
    /// then compare the columns of the migrated database with [`Model::tables`].
    #[test]
    fn the_committed_migration_equals_that_of_the_model() {
        assert_eq!(
            include_str!("../../../migrations/0003_data_vault.sql"),
            migration(&MODEL)
        );
    }

    #[test]
    fn the_worker_role_can_only_insert_and_read() {
        let sql = migration(&MODEL);
        for privilege in ["UPDATE", "DELETE", "TRUNCATE", "ALL "] {
            assert!(!sql.contains(privilege), "{privilege}");
        }
        assert_eq!(sql.matches("GRANT SELECT, INSERT ON").count(), 1);
    }
}
