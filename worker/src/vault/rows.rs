//! Rows of a batch: the rows of its orders in every table, without duplicates.
//!
//! The result depends only on the set of orders. Rows are sorted by primary key, so that concurrent workers lock in the
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
use super::model::Model;
use super::order::{Scope, Source, VaultOrder};
use crate::version::Version;

pub use self::column::Column;

/// Collector of the rows of a batch. `'a` is the lifetime of the batch, whose texts are borrowed.
#[derive(Debug)]
pub struct VaultRows<'a> {
    hubs: Vec<HubRows<'a>>,
    links: Vec<LinkRows>,
    satellites: Vec<SatelliteRows<'a>>,
}

impl<'a> VaultRows<'a> {
    /// Creates an empty collector.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        Self {
            hubs: model.hubs.iter().map(|hub| HubRows::new(hub)).collect(),
            links: model
                .links
                .iter()
                .map(|link| LinkRows::new(link, model))
                .collect(),
            satellites: model
                .satellites
                .iter()
                .map(|satellite| SatelliteRows::new(satellite, model))
                .collect(),
        }
    }

    /// Adds the rows of one version of an order.
    ///
    /// If lines of one version contradict each other (a product with two names), the first line is used.
    pub fn push(&mut self, order: &VaultOrder<'a>, version: &Version) {
        self.add_rows(Scope::Order, Source { order, line: None }, version);
        for line in order.numbered_lines() {
            let source = Source {
                order,
                line: Some(line),
            };
            self.add_rows(Scope::Line, source, version);
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

    /// Adds the rows of one scope. A line refers to the hubs of its order, which were added before.
    fn add_rows(&mut self, scope: Scope, source: Source<'_, 'a>, version: &Version) {
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
