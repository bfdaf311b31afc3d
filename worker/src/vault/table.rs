//! Tables of a model: names, columns and keys. Rows and SQL share the order of the columns.

use super::kind::Kind;
use super::model::{Attribute, Effectivity, Hub, Link, Model, Satellite};

/// Table of the vault. Every table also has the load date `load_dt` and the record source `load_src`, which do not come
/// from a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Name of the table, without the schema.
    pub name: &'static str,
    /// Columns that a batch fills, in the order of the statement's parameters; see `rows_of`.
    pub columns: Vec<TableColumn>,
    /// Number of leading columns that form the primary key.
    pub key_length: usize,
    /// Satellite whose rows an effectivity satellite has: all columns but the last one have the values of its first columns,
    /// and the statement passes them once.
    pub rows_of: Option<&'static str>,
}

/// Column that a batch fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    /// Name of the column.
    pub name: String,
    /// Type of the column.
    pub kind: Kind,
}

impl Table {
    /// Columns of the primary key.
    #[must_use]
    pub fn key(&self) -> &[TableColumn] {
        &self.columns[..self.key_length]
    }

    /// Number of leading columns that are passed with the rows of another table.
    pub(super) fn shared_columns(&self) -> usize {
        self.rows_of.map_or(0, |_| self.columns.len() - 1)
    }

    /// Columns that are parameters of their own.
    #[must_use]
    pub fn own_columns(&self) -> &[TableColumn] {
        &self.columns[self.shared_columns()..]
    }

    fn from_hub(hub: &Hub) -> Self {
        Self {
            name: hub.name,
            columns: vec![key_column(hub.name), attribute_column(&hub.business_key)],
            key_length: 1,
            rows_of: None,
        }
    }

    fn from_link(link: &Link) -> Self {
        let hubs = link.hubs.iter().map(|hub| key_column(hub.name));
        Self {
            name: link.name,
            columns: [key_column(link.name)].into_iter().chain(hubs).collect(),
            key_length: 1,
            rows_of: None,
        }
    }

    /// Returns the table of one satellite.
    pub(super) fn from_satellite(satellite: &Satellite) -> Self {
        let mut columns = vec![
            key_column(satellite.parent.name()),
            new_column("version", Kind::Bytes),
        ];
        columns.extend(satellite.multi_active.iter().map(attribute_column));
        let key_length = columns.len();
        columns.push(new_column("update_ts", Kind::Timestamp));
        columns.extend(satellite.attributes.iter().map(attribute_column));
        columns.push(new_column("hash_diff", Kind::Uuid));
        Self {
            name: satellite.name,
            columns,
            key_length,
            rows_of: None,
        }
    }

    /// Returns the table of an effectivity satellite that has the rows of this satellite.
    pub(super) fn from_effectivity(satellite: &Satellite, effectivity: &Effectivity) -> Self {
        Self {
            name: effectivity.name,
            columns: vec![
                key_column(satellite.parent.name()),
                new_column("version", Kind::Bytes),
                new_column("update_ts", Kind::Timestamp),
                key_column(effectivity.link.name),
            ],
            key_length: 2,
            rows_of: Some(satellite.name),
        }
    }
}

impl Model {
    /// Returns all tables: hubs, then links, then satellites, then effectivity satellites, each group in the order of the
    /// model.
    #[must_use]
    pub fn tables(&self) -> Vec<Table> {
        let hubs = self.hubs.iter().map(|hub| Table::from_hub(hub));
        let links = self.links.iter().map(|link| Table::from_link(link));
        let satellites = self
            .satellites
            .iter()
            .map(|satellite| Table::from_satellite(satellite));
        let effectivities = self.effectivities();
        let effectivities =
            effectivities.map(|(satellite, effectivity)| Table::from_effectivity(satellite, effectivity));
        hubs.chain(links).chain(satellites).chain(effectivities).collect()
    }

    /// Returns all effectivity satellites, each with the satellite whose rows it has.
    pub(super) fn effectivities(&self) -> impl Iterator<Item = (&'static Satellite, &'static Effectivity)> {
        let satellites = self.satellites.iter();
        satellites.flat_map(|&satellite| {
            let effectivities = satellite.effectivities.iter();
            effectivities.map(move |effectivity| (satellite, effectivity))
        })
    }
}

/// Returns the name of the hash key column of a hub or a link.
pub(super) fn key_column_name(table: &str) -> String {
    format!("{table}_pk")
}

fn key_column(table: &str) -> TableColumn {
    TableColumn {
        name: key_column_name(table),
        kind: Kind::Uuid,
    }
}

fn new_column(name: &str, kind: Kind) -> TableColumn {
    TableColumn {
        name: name.to_owned(),
        kind,
    }
}

fn attribute_column(attribute: &Attribute) -> TableColumn {
    new_column(attribute.column, attribute.field.kind())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::model::MODEL;

    #[test]
    fn table_names_are_unique() {
        let tables = MODEL.tables();
        let names: HashSet<_> = tables.iter().map(|table| table.name).collect();
        assert_eq!(names.len(), tables.len());
    }
}
