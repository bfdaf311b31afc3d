//! The rows of a batch: what its orders contribute to every table, each row once.
//!
//! The result is a function of the set of orders that were pushed: rows are sorted by primary key, also so that
//! workers that write at the same time lock in one order. Nothing is left out because it equals an earlier row:
//! under late arrival that would give a wrong current value.

mod hub;
mod link;
mod satellite;
#[cfg(test)]
mod tests;

use rust_decimal::Decimal;
use uuid::Uuid;

use self::hub::HubRows;
use self::link::LinkRows;
use self::satellite::SatelliteRows;
use super::model::Model;
use super::order::{Scope, Source, Value, VaultOrder};
use super::table::Kind;
use crate::version::Version;

/// One parameter of the statement: a column of a table, a value per row.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Hash keys and hash diffs.
    Uuid(Vec<Uuid>),
    /// Texts.
    Text(Vec<String>),
    /// 64-bit integers.
    BigInt(Vec<i64>),
    /// 32-bit integers.
    Integer(Vec<i32>),
    /// Amounts of money.
    Numeric(Vec<Decimal>),
    /// Versions.
    Bytes(Vec<Vec<u8>>),
    /// Times in microseconds since the Unix epoch; bound as 64-bit integers.
    Micros(Vec<i64>),
}

/// Collects the rows of a batch. `'a` is the batch, whose texts are borrowed.
#[derive(Debug)]
pub struct VaultRows<'a> {
    hubs: Vec<HubRows<'a>>,
    links: Vec<LinkRows>,
    satellites: Vec<SatelliteRows<'a>>,
}

impl<'a> VaultRows<'a> {
    /// An empty batch.
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

    /// Adds what one version of an order contributes.
    ///
    /// When lines of one version contradict each other (a product with two names), the first line is believed.
    pub fn push(&mut self, order: &VaultOrder<'a>, version: &Version) {
        self.collect(Scope::Order, Source { order, line: None }, version);
        for line in (1..).zip(&order.lines) {
            let source = Source {
                order,
                line: Some(line),
            };
            self.collect(Scope::Line, source, version);
        }
    }

    /// The parameters of the statement behind the record source, in its order.
    #[must_use]
    pub fn into_columns(self) -> Vec<Column> {
        let mut columns = Vec::new();
        self.hubs
            .into_iter()
            .for_each(|rows| rows.append_to(&mut columns));
        self.links
            .into_iter()
            .for_each(|rows| rows.append_to(&mut columns));
        self.satellites
            .into_iter()
            .for_each(|rows| rows.append_to(&mut columns));
        columns
    }

    /// Adds the rows of one scope. A line finds the order's own hubs as the order has left them.
    fn collect(&mut self, scope: Scope, source: Source<'_, 'a>, version: &Version) {
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

impl Column {
    /// The column of a field of this kind.
    fn gather<'v, 'a: 'v>(kind: Kind, values: impl ExactSizeIterator<Item = &'v Value<'a>>) -> Self {
        let rows = values.len();
        let mut column = match kind {
            Kind::Uuid => Self::Uuid(Vec::with_capacity(rows)),
            Kind::Bytes => Self::Bytes(Vec::with_capacity(rows)),
            Kind::Text => Self::Text(Vec::with_capacity(rows)),
            Kind::BigInt => Self::BigInt(Vec::with_capacity(rows)),
            Kind::Integer => Self::Integer(Vec::with_capacity(rows)),
            Kind::Numeric => Self::Numeric(Vec::with_capacity(rows)),
            Kind::Timestamp => Self::Micros(Vec::with_capacity(rows)),
        };
        values.for_each(|value| column.push(value));
        column
    }

    fn push(&mut self, value: &Value<'_>) {
        match (self, value) {
            (Self::Text(rows), Value::Text(text)) => rows.push(String::from(&**text)),
            (Self::BigInt(rows), Value::BigInt(number)) => rows.push(*number),
            (Self::Integer(rows), Value::Integer(number)) => rows.push(*number),
            (Self::Numeric(rows), Value::Numeric(amount)) => rows.push(*amount),
            (Self::Micros(rows), Value::Micros(time)) => rows.push(*time),
            (column, value) => unreachable!("{value:?} is not of its field's kind: {column:?}"),
        }
    }
}
