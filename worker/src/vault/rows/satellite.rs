//! The rows of one satellite: what each version said of each parent.

use uuid::Uuid;

use super::Column;
use super::hub::HubRows;
use super::link::{self, LinkRows};
use crate::vault::hash::hash_diff;
use crate::vault::model::{Model, Parent, Satellite};
use crate::vault::order::{Scope, Source, Value};
use crate::version::Version;

/// What a batch knows of one satellite.
#[derive(Debug)]
pub(super) struct SatelliteRows<'a> {
    satellite: &'static Satellite,
    scope: Scope,
    parent: ParentRows,
    keys: Vec<RowKey>,
    /// The attributes of all rows, one row behind the other.
    values: Vec<Value<'a>>,
}

/// Where the parent's rows are found.
#[derive(Debug)]
enum ParentRows {
    Hub(usize),
    Link(usize),
}

/// The primary key of a row, and behind it the row's number: of several rows with one key, the first stays.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    parent: Uuid,
    version: Version,
    active: i32,
    row: usize,
}

impl<'a> SatelliteRows<'a> {
    pub(super) fn new(satellite: &'static Satellite, model: &Model) -> Self {
        let parent = match satellite.parent {
            Parent::Hub(hub) => ParentRows::Hub(link::position(hub, model)),
            Parent::Link(link) => ParentRows::Link(
                model
                    .links
                    .iter()
                    .position(|other| other.name == link.name)
                    .expect("a model holds the links that its satellites describe"),
            ),
        };
        Self {
            satellite,
            scope: satellite.scope(),
            parent,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Adds what a version says of the hub or the link that was added last.
    pub(super) fn add(
        &mut self,
        hubs: &[HubRows<'a>],
        links: &[LinkRows],
        source: Source<'_, 'a>,
        version: &Version,
    ) {
        let parent = match self.parent {
            ParentRows::Hub(hub) => hubs[hub].current_key(),
            ParentRows::Link(link) => links[link].current_key(),
        };
        let active = match self
            .satellite
            .multi_active
            .and_then(|column| source.value(column.field))
        {
            Some(Value::Integer(number)) => number,
            _ => 0,
        };
        self.keys.push(RowKey {
            parent,
            version: *version,
            active,
            row: self.keys.len(),
        });
        self.values.extend(
            self.satellite
                .attributes
                .iter()
                .filter_map(|column| source.value(column.field)),
        );
    }

    pub(super) fn append_to(mut self, columns: &mut Vec<Column>) {
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
            columns.push(Column::gather(attribute.field.kind(), values));
        }
        let rows = self
            .keys
            .iter()
            .map(|key| &self.values[key.row * width..][..width]);
        columns.push(Column::Uuid(
            rows.map(|row| hash_diff(row.iter().map(Value::text))).collect(),
        ));
    }
}
