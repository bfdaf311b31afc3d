//! Rows of one satellite: one per parent and version, or several if it is multi-active. Its effectivity satellites have
//! the same rows, each with a link key. A row that an entry of the reference data versions is stated by many orders.

use std::collections::HashMap;

use uuid::Uuid;

use super::column::Column;
use super::hub::HubRows;
use super::link::LinkRows;
use super::row_version::RowVersion;
use crate::plan::slots::Scope;
use crate::plan::vault::{Parent, Satellite};
use crate::vault::hash::{hash_diff, statement_digest};
use crate::vault::row::{Source, Value};
use crate::version::Version;

/// Collector of the rows of one satellite.
#[derive(Debug)]
pub(super) struct SatelliteRows<'a> {
    satellite: &'a Satellite,
    keys: Vec<RowKey>,
    /// Attributes of all rows, row by row.
    values: Vec<Value<'a>>,
    /// Keys of the links whose effectivity the rows state, row by row.
    link_keys: Vec<Uuid>,
    /// Number of elements of the present record by parent, if the satellite is multi-active.
    occurrences: HashMap<Uuid, i32>,
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
    pub(super) fn new(satellite: &'a Satellite) -> Self {
        Self {
            satellite,
            keys: Vec::new(),
            values: Vec::new(),
            link_keys: Vec::new(),
            occurrences: HashMap::new(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.satellite.scope
    }

    /// Begins the rows of another record.
    pub(super) fn begin_record(&mut self) {
        self.occurrences.clear();
    }

    /// Adds a row for the hub key or link key that was added last.
    pub(super) fn add(
        &mut self,
        hubs: &[HubRows<'a>],
        links: &[LinkRows<'a>],
        source: Source<'a, '_>,
        version: &Version,
    ) {
        let parent = match self.satellite.parent {
            Parent::Hub(hub) => hubs[hub].current_key(),
            Parent::Link(link) => links[link].current_key(),
        };
        let active = self.number_of(parent);
        let (first_value, first_link) = (self.values.len(), self.link_keys.len());
        let attributes = self.satellite.attributes.iter();
        self.values
            .extend(attributes.map(|column| source.value(column.slot)));
        let effectivities = self.satellite.effectivities.iter();
        self.link_keys
            .extend(effectivities.map(|effectivity| links[effectivity.link].current_key()));
        let version = match source.entry_time(self.satellite.versioned_by) {
            Some(update_ts) => {
                let attributes = self.values[first_value..].iter().map(Value::hashed_text);
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

    /// Returns the number of a row among those of the record with the same parent, from 1; 0 unless the satellite is
    /// multi-active.
    ///
    /// An element has no ID. Its position would identify another element as soon as one before it is removed. Its parent and
    /// its number among the elements with this parent, by position, do not depend on other elements.
    fn number_of(&mut self, parent: Uuid) -> i32 {
        if self.satellite.multi_active.is_none() {
            return 0;
        }
        let occurrence = self.occurrences.entry(parent).or_default();
        *occurrence += 1;
        *occurrence
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
            columns.push(Column::from_values(attribute.kind, values));
        }
        let rows = self
            .keys
            .iter()
            .map(|key| &self.values[key.row * width..][..width]);
        columns.push(Column::Uuid(
            rows.map(|row| hash_diff(row.iter().map(Value::hashed_text)))
                .collect(),
        ));
        let width = self.satellite.effectivities.len();
        for index in 0..width {
            let keys = self
                .keys
                .iter()
                .map(|key| self.link_keys[key.row * width + index]);
            effectivities.push(Column::Uuid(keys.collect()));
        }
    }
}
