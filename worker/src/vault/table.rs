//! Tables of a vault: names, columns and keys. Rows and SQL share the order of the columns.

use crate::plan::kind::Kind;
use crate::plan::vault::{Attribute, Effectivity, Hub, Link, Satellite, VaultPlan};

/// Table of the vault. Every table also has the load date `load_dt` and the record source `load_src`, which do not come
/// from a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Name of the table, without the schema.
    pub name: String,
    /// Columns that a batch fills, in the order of the statement's parameters; see `rows_of`.
    pub columns: Vec<TableColumn>,
    /// Number of leading columns that form the primary key.
    pub key_length: usize,
    /// Satellite whose rows an effectivity satellite has: all columns but the last one have the values of its first columns,
    /// and the statement passes them once.
    pub rows_of: Option<String>,
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
        self.rows_of.as_ref().map_or(0, |_| self.columns.len() - 1)
    }

    /// Columns that are parameters of their own.
    #[must_use]
    pub fn own_columns(&self) -> &[TableColumn] {
        &self.columns[self.shared_columns()..]
    }

    fn from_hub(hub: &Hub) -> Self {
        let business_key = hub.business_key.iter().map(attribute_column);
        Self {
            name: hub.name.clone(),
            columns: [key_column(&hub.name)].into_iter().chain(business_key).collect(),
            key_length: 1,
            rows_of: None,
        }
    }

    fn from_link(link: &Link, plan: &VaultPlan) -> Self {
        let hubs = plan.hubs_of(link).map(|hub| key_column(&hub.name));
        Self {
            name: link.name.clone(),
            columns: [key_column(&link.name)].into_iter().chain(hubs).collect(),
            key_length: 1,
            rows_of: None,
        }
    }

    /// Returns the table of one satellite.
    pub(super) fn from_satellite(satellite: &Satellite, plan: &VaultPlan) -> Self {
        let mut columns = vec![
            key_column(plan.parent_name(satellite.parent)),
            new_column("version", Kind::Bytes),
        ];
        let multi_active = satellite.multi_active.iter();
        columns.extend(multi_active.map(|column| new_column(column, Kind::Integer)));
        let key_length = columns.len();
        columns.push(new_column("update_ts", Kind::Timestamp));
        columns.extend(satellite.attributes.iter().map(attribute_column));
        columns.push(new_column("hash_diff", Kind::Uuid));
        Self {
            name: satellite.name.clone(),
            columns,
            key_length,
            rows_of: None,
        }
    }

    /// Returns the table of an effectivity satellite that has the rows of this satellite.
    fn from_effectivity(satellite: &Satellite, effectivity: &Effectivity, plan: &VaultPlan) -> Self {
        Self {
            name: effectivity.name.clone(),
            columns: vec![
                key_column(plan.parent_name(satellite.parent)),
                new_column("version", Kind::Bytes),
                new_column("update_ts", Kind::Timestamp),
                key_column(&plan.links[effectivity.link].name),
            ],
            key_length: 2,
            rows_of: Some(satellite.name.clone()),
        }
    }
}

/// Returns all tables of a vault: hubs, then links, then satellites, then effectivity satellites, each group in the order
/// of the model.
#[must_use]
pub fn tables(plan: &VaultPlan) -> Vec<Table> {
    let hubs = plan.hubs.iter().map(Table::from_hub);
    let links = plan.links.iter().map(|link| Table::from_link(link, plan));
    let satellites = plan
        .satellites
        .iter()
        .map(|satellite| Table::from_satellite(satellite, plan));
    let effectivities = plan
        .effectivities()
        .map(|(satellite, effectivity)| Table::from_effectivity(satellite, effectivity, plan));
    hubs.chain(links).chain(satellites).chain(effectivities).collect()
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
    new_column(&attribute.column, attribute.kind)
}
