//! The tables, views, ghost records and grants of a model, as one migration.
//!
//! No foreign keys: they double the cost of a write, and keys that are functions of business keys cannot dangle when
//! one statement writes both ends.

use std::fmt::Write as _;

use uuid::Uuid;

use super::model::{Hub, Model};
use super::sql::join;
use super::table::{Kind, Table};
use super::views;

/// The role that workers act as. It inserts and reads; nothing in the vault is ever changed or deleted.
const ROLE: &str = "streamstage_worker";

/// The migration that creates a vault, schema `dds` included.
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
    sql.push_str(&views::views(model));
    sql.push_str("\n-- Ghost records: what a blank business key leads to.\n");
    for hub in model.hubs {
        add_ghost_record(&mut sql, hub);
    }
    let names = join(&tables, ",\n    ", |table| format!("dds.{}", table.name));
    let views = join(model.satellites, ",\n    ", |satellite| {
        views::names(satellite)
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
    {views}
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
    let kept = [
        ("load_dt", "timestamptz", "NOT NULL DEFAULT now()"),
        ("load_src", "text", "NOT NULL"),
    ];
    let columns: Vec<_> = filled.chain(kept).collect();
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
    use super::*;
    use crate::vault::MODEL;

    /// Holds while 0003 alone makes the vault. When a later migration changes it, compare the columns of the migrated
    /// database with [`Model::tables`] instead: 0003 is frozen then.
    #[test]
    fn the_committed_migration_is_that_of_the_model() {
        assert_eq!(
            include_str!("../../../migrations/0003_data_vault.sql"),
            migration(&MODEL)
        );
    }

    #[test]
    fn the_worker_may_insert_and_read_and_nothing_else() {
        let sql = migration(&MODEL);
        for right in ["UPDATE", "DELETE", "TRUNCATE", "ALL "] {
            assert!(!sql.contains(right), "{right}");
        }
        assert_eq!(sql.matches("GRANT SELECT, INSERT ON").count(), 1);
    }
}
