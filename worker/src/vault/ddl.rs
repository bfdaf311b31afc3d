//! Generates the definitions of a vault: tables, views, ghost records and grants. The migrations contain them.
//!
//! It omits foreign keys. They double the cost of a write, and they are not needed: keys are functions of business
//! keys, and one statement writes both ends of a reference.

use std::fmt::Write as _;

use uuid::Uuid;

use super::sql::join;
use super::table::{Table, tables};
use super::views::view_definitions;
use crate::plan::kind::Kind;
use crate::plan::vault::{Hub, VaultPlan};

/// Returns the definitions of a vault as SQL: tables, views, ghost records. A migration that changes the vault contains
/// those that it adds, and the grants for them.
#[must_use]
pub fn definitions(plan: &VaultPlan) -> Vec<String> {
    let tables = tables(plan);
    let tables = tables.iter().map(table_definition);
    let ghost_records = plan.hubs.iter().map(ghost_record);
    tables
        .chain(view_definitions(plan))
        .chain(ghost_records)
        .collect()
}

fn table_definition(table: &Table) -> String {
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
    let mut sql = format!("CREATE TABLE dds.{} (\n", table.name);
    for (name, kind, constraint) in columns {
        let _ = writeln!(sql, "    {name:name_width$} {kind:type_width$} {constraint},");
    }
    let key = join(table.key(), ", ", |column| column.name.clone());
    let _ = writeln!(sql, "    PRIMARY KEY ({key})\n);");
    sql
}

/// Returns the ghost record of a hub: what a blank business key leads to.
fn ghost_record(hub: &Hub) -> String {
    let (name, ghost) = (&hub.name, Uuid::nil());
    let columns = join(&hub.business_key, ", ", |key| key.column.clone());
    let business_key = join(&hub.business_key, ", ", |key| {
        if key.kind == Kind::Text { "''" } else { "-1" }.to_owned()
    });
    format!(
        "INSERT INTO dds.{name} ({name}_pk, {columns}, load_src) VALUES ('{ghost}', {business_key}, 'system');\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ORDERS;

    /// Migrations that define tables and views of the vault, in order.
    const MIGRATIONS: [&str; 3] = [
        include_str!("../../../migrations/0003_data_vault.sql"),
        include_str!("../../../migrations/0012_effectivity.sql"),
        include_str!("../../../migrations/0016_keys_and_entries.sql"),
    ];

    #[test]
    fn the_migrations_contain_the_definitions_of_the_model() {
        let migrations = MIGRATIONS.concat();
        for definition in definitions(&ORDERS.vault) {
            let (subject, _) = definition.split_once('\n').expect("a line");
            // The last definition of a name is the one that is in force.
            let latest = migrations.rfind(subject).map(|start| &migrations[start..]);
            assert!(
                latest.is_some_and(|latest| latest.starts_with(&definition)),
                "add this to a new migration, with the grants:\n{definition}"
            );
        }
    }

    #[test]
    fn the_worker_role_can_only_insert_and_read() {
        for migration in MIGRATIONS {
            let grants = migration.split("GRANT ").skip(1);
            for grant in grants {
                let privileges = grant.split(" ON").next().unwrap_or_default();
                assert!(
                    ["USAGE", "SELECT", "SELECT, INSERT"].contains(&privileges),
                    "{privileges}"
                );
            }
        }
    }
}
