//! Rows of a batch: the rows of its records in every table, without duplicates.
//!
//! The result depends only on the set of records. Rows are sorted by primary key, so that concurrent workers lock in the
//! same order. A row with unchanged attributes is never omitted, because after a late-arriving version the current
//! row would be wrong.

mod column;
mod hub;
mod link;
mod row_version;
mod satellite;
#[cfg(test)]
mod tests;

use self::hub::HubRows;
use self::link::LinkRows;
use self::satellite::SatelliteRows;
use super::row::{Row, Source};
use crate::plan::slots::Scope;
use crate::plan::vault::VaultPlan;
use crate::version::Version;

pub use self::column::Column;

/// Collector of the rows of a batch. `'a` is the lifetime of the batch, whose texts are borrowed.
#[derive(Debug)]
pub struct VaultRows<'a> {
    hubs: Vec<HubRows<'a>>,
    links: Vec<LinkRows<'a>>,
    satellites: Vec<SatelliteRows<'a>>,
}

impl<'a> VaultRows<'a> {
    /// Creates an empty collector.
    #[must_use]
    pub fn new(plan: &'a VaultPlan) -> Self {
        Self {
            hubs: plan.hubs.iter().map(HubRows::new).collect(),
            links: plan.links.iter().map(LinkRows::new).collect(),
            satellites: plan.satellites.iter().map(SatelliteRows::new).collect(),
        }
    }

    /// Adds the rows of one version of a record.
    ///
    /// If elements of one version contradict each other (a product with two names), the first element is used.
    pub fn push(&mut self, row: &'a Row<'_>, version: &Version) {
        self.satellites.iter_mut().for_each(SatelliteRows::begin_record);
        let record = Source {
            row,
            scope: Scope::Record,
            element: &[],
        };
        self.add_rows(record, version);
        for (array, elements) in row.arrays.iter().enumerate() {
            for element in elements.elements() {
                let scope = Scope::Element(array);
                self.add_rows(Source { row, scope, element }, version);
            }
        }
    }

    /// Returns the parameters of the statement after the record source, in the order of the statement.
    #[must_use]
    pub fn into_columns(self) -> Vec<Column> {
        let mut columns = Vec::new();
        self.hubs
            .into_iter()
            .for_each(|rows| rows.append_to(&mut columns));
        self.links
            .into_iter()
            .for_each(|rows| rows.append_to(&mut columns));
        let mut effectivities = Vec::new();
        self.satellites
            .into_iter()
            .for_each(|rows| rows.append_to(&mut columns, &mut effectivities));
        columns.append(&mut effectivities);
        columns
    }

    /// Adds the rows of one scope. An element refers to the hubs of its record, which were added before.
    fn add_rows(&mut self, source: Source<'a, '_>, version: &Version) {
        let scope = source.scope;
        for rows in self.hubs.iter_mut().filter(|rows| rows.scope() == scope) {
            rows.add(source);
        }
        for rows in self.links.iter_mut().filter(|rows| rows.scope() == scope) {
            rows.add(&self.hubs);
        }
        for rows in self.satellites.iter_mut().filter(|rows| rows.scope() == scope) {
            rows.add(&self.hubs, &self.links, source, version);
        }
    }
}
