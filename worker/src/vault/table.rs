//! The tables that a model asks for: names, columns and keys, in the one order that rows and SQL share.

use super::model::{Attribute, Hub, Link, Model, Satellite};

/// Decimal places of an amount of money in the vault.
pub(super) const MONEY_SCALE: u32 = 5;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A hash key or a hash diff.
    Uuid,
    /// The version of an order.
    Bytes,
    /// Any text.
    Text,
    /// A 64-bit integer.
    BigInt,
    /// A 32-bit integer.
    Integer,
    /// An amount of money.
    Numeric,
    /// A point in time.
    Timestamp,
}

impl Kind {
    /// The column's type in PostgreSQL.
    #[must_use]
    pub const fn column_type(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Bytes => "bytea",
            Self::Text => "text",
            Self::BigInt => "bigint",
            Self::Integer => "integer",
            Self::Numeric => "numeric(19,5)",
            Self::Timestamp => "timestamptz",
        }
    }

    /// The type of the parameter that fills the column. Times travel as microseconds since the Unix epoch.
    #[must_use]
    pub const fn parameter_type(self) -> &'static str {
        match self {
            Self::Uuid => "uuid[]",
            Self::Bytes => "bytea[]",
            Self::Text => "text[]",
            Self::BigInt | Self::Timestamp => "bigint[]",
            Self::Integer => "integer[]",
            Self::Numeric => "numeric[]",
        }
    }
}

/// A table of the vault. Every table also has `load_dt` and `load_src`, which no message fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Name, without the schema.
    pub name: &'static str,
    /// Columns that a batch fills, in the order of the statement's parameters.
    pub columns: Vec<TableColumn>,
    /// How many of the first columns are the primary key.
    pub key_length: usize,
}

/// A column that a batch fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: Kind,
}

impl Table {
    /// The columns of the primary key.
    #[must_use]
    pub fn key(&self) -> &[TableColumn] {
        &self.columns[..self.key_length]
    }

    fn of_hub(hub: &Hub) -> Self {
        Self {
            name: hub.name,
            columns: vec![key(hub.name), column(&hub.business_key)],
            key_length: 1,
        }
    }

    fn of_link(link: &Link) -> Self {
        let hubs = link.hubs.iter().map(|hub| key(hub.name));
        Self {
            name: link.name,
            columns: [key(link.name)].into_iter().chain(hubs).collect(),
            key_length: 1,
        }
    }

    /// The table of one satellite.
    pub(super) fn of_satellite(satellite: &Satellite) -> Self {
        let mut columns = vec![key(satellite.parent.name()), named("version", Kind::Bytes)];
        columns.extend(satellite.multi_active.iter().map(column));
        let key_length = columns.len();
        columns.push(named("update_ts", Kind::Timestamp));
        columns.extend(satellite.attributes.iter().map(column));
        columns.push(named("hash_diff", Kind::Uuid));
        Self {
            name: satellite.name,
            columns,
            key_length,
        }
    }
}

impl Model {
    /// All tables: hubs, then links, then satellites, each group in the order of the model.
    #[must_use]
    pub fn tables(&self) -> Vec<Table> {
        let hubs = self.hubs.iter().map(|hub| Table::of_hub(hub));
        let links = self.links.iter().map(|link| Table::of_link(link));
        let satellites = self
            .satellites
            .iter()
            .map(|satellite| Table::of_satellite(satellite));
        hubs.chain(links).chain(satellites).collect()
    }
}

/// The name of the column that holds the hash key of a hub or a link.
pub(super) fn key_column(table: &str) -> String {
    format!("{table}_pk")
}

fn key(table: &str) -> TableColumn {
    TableColumn {
        name: key_column(table),
        kind: Kind::Uuid,
    }
}

fn named(name: &str, kind: Kind) -> TableColumn {
    TableColumn {
        name: name.to_owned(),
        kind,
    }
}

fn column(attribute: &Attribute) -> TableColumn {
    named(attribute.column, attribute.field.kind())
}
