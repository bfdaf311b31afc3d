//! Rows of one satellite: one per parent and version, or several if it is multi-active. Its effectivity satellites have
//! the same rows, each with a link key. A row that an entry of the reference data versions is stated by many orders.

use uuid::Uuid;

use super::column::Column;
use super::hub::HubRows;
use super::link::{LinkRows, hub_index};
use super::row_version::RowVersion;
use crate::vault::hash::{hash_diff, statement_digest};
use crate::vault::model::{Link, Model, Parent, Satellite};
use crate::vault::order::{Scope, Source, Value};
use crate::version::Version;

/// Collector of the rows of one satellite.
#[derive(Debug)]
pub(super) struct SatelliteRows<'a> {
    satellite: &'static Satellite,
    scope: Scope,
    parent: ParentIndex,
    keys: Vec<RowKey>,
    /// Attributes of all rows, row by row.
    values: Vec<Value<'a>>,
    /// Indices in the model of the links whose effectivity the rows state.
    links: Vec<usize>,
    /// Keys of these links of all rows, row by row.
    link_keys: Vec<Uuid>,
}

/// Index of the parent in the model.
#[derive(Debug)]
enum ParentIndex {
    Hub(usize),
    Link(usize),
}

/// Primary key of a row, followed by its number, so that the first of several rows with the same key is used.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    parent: Uuid,
    version: RowVersion,
    active: i32,
    row: usize,
}

impl<'a> SatelliteRows<'a> {
    pub(super) fn new(satellite: &'static Satellite, model: &Model) -> Self {
        let parent = match satellite.parent {
            Parent::Hub(hub) => ParentIndex::Hub(hub_index(hub, model)),
            Parent::Link(link) => ParentIndex::Link(link_index(link, model)),
        };
        Self {
            satellite,
            scope: satellite.scope(),
            parent,
            keys: Vec::new(),
            values: Vec::new(),
            links: satellite
                .effectivities
                .iter()
                .map(|effectivity| link_index(effectivity.link, model))
                .collect(),
            link_keys: Vec::new(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Adds a row for the hub key or link key that was added last.
    pub(super) fn add(
        &mut self,
        hubs: &[HubRows<'a>],
        links: &[LinkRows],
        source: Source<'_, 'a>,
        version: &Version,
    ) {
        let parent = match self.parent {
            ParentIndex::Hub(hub) => hubs[hub].current_key(),
            ParentIndex::Link(link) => links[link].current_key(),
        };
        let active = match self
            .satellite
            .multi_active
            .and_then(|column| source.value(column.field))
        {
            Some(Value::Integer(number)) => number,
            _ => 0,
        };
        let (first_value, first_link) = (self.values.len(), self.link_keys.len());
        self.values.extend(
            self.satellite
                .attributes
                .iter()
                .filter_map(|column| source.value(column.field)),
        );
        self.link_keys
            .extend(self.links.iter().map(|&link| links[link].current_key()));
        let version = match source.entry_time(self.satellite.versioned_by) {
            Some(update_ts) => {
                let attributes = self.values[first_value..].iter().map(Value::text);
                RowVersion::of_entry(
                    update_ts,
                    statement_digest(attributes, &self.link_keys[first_link..]),
                )
            }
            None => RowVersion::Record(*version),
        };
        self.keys.push(RowKey {
            parent,
            version,
            active,
            row: self.keys.len(),
        });
    }

    /// Appends the rows, sorted by primary key and distinct. The link keys are appended to `effectivities`, one column
    /// per effectivity satellite.
    pub(super) fn append_to(mut self, columns: &mut Vec<Column>, effectivities: &mut Vec<Column>) {
        self.keys.sort_unstable();
        self.keys
            .dedup_by_key(|key| (key.parent, key.version, key.active));
        columns.push(Column::Uuid(self.keys.iter().map(|key| key.parent).collect()));
        columns.push(Column::Bytes(
            self.keys
                .iter()
                .map(|key| key.version.as_bytes().to_vec())
                .collect(),
        ));
        if self.satellite.multi_active.is_some() {
            columns.push(Column::Integer(self.keys.iter().map(|key| key.active).collect()));
        }
        columns.push(Column::Micros(
            self.keys.iter().map(|key| key.version.update_ts()).collect(),
        ));
        let width = self.satellite.attributes.len();
        for (index, attribute) in self.satellite.attributes.iter().enumerate() {
            let values = self.keys.iter().map(|key| &self.values[key.row * width + index]);
            columns.push(Column::from_values(attribute.field.kind(), values));
        }
        let rows = self
            .keys
            .iter()
            .map(|key| &self.values[key.row * width..][..width]);
        columns.push(Column::Uuid(
            rows.map(|row| hash_diff(row.iter().map(Value::text))).collect(),
        ));
        let width = self.links.len();
        for index in 0..width {
            let keys = self
                .keys
                .iter()
                .map(|key| self.link_keys[key.row * width + index]);
            effectivities.push(Column::Uuid(keys.collect()));
        }
    }
}

/// Returns the index of a link in its model.
fn link_index(link: &Link, model: &Model) -> usize {
    model
        .links
        .iter()
        .position(|other| other.name == link.name)
        .expect("a model contains the links that its satellites describe")
}
