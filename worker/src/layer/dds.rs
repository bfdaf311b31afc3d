#![expect(
    clippy::disallowed_types,
    reason = "edge: the seam through which the layer writes to PostgreSQL"
)]
//! DDS: holds every version of every order in the Data Vault, and tells the marts its facts.
//!
//! Insert-only, and every row is keyed by what it says: what arrives twice, or late, needs no decision here. Each
//! version that is read is published; the marts know which they have.

mod decode;
mod fact;
mod write;

use sqlx::PgConnection;

use crate::decode::Rules;
use crate::layer::{DictionaryError, Effects, Layer, Output};
use crate::publish::OutputLimit;
use crate::record::{Item, Record};
use crate::rejection::Rejection;

pub use decode::Order;

/// The DDS layer of one stage.
pub struct Dds {
    /// What values the stage accepts.
    pub rules: Rules,
    /// Largest message that the output topic takes.
    pub output_limit: OutputLimit,
    /// Written into `load_src`: `kafka:<topic>`.
    pub load_source: String,
}

/// An order with the fact that the marts get of it.
#[derive(Clone, Debug)]
pub struct OrderWithFact {
    /// The order.
    pub order: Order,
    /// Its fact.
    pub fact: Output,
}

impl Layer for Dds {
    type Decoded = Order;
    type Known = ();
    type Enriched = OrderWithFact;

    fn decode(&self, record: &Record, now: i64) -> Result<Order, Rejection> {
        decode::order(&self.rules, record, now)
    }

    async fn look_up(&self, _: &[Item<Order>]) -> Result<(), DictionaryError> {
        Ok(())
    }

    fn enrich(&self, order: Order, (): &()) -> Result<OrderWithFact, Rejection> {
        let fact = fact::of(&order, self.output_limit.bytes())?;
        Ok(OrderWithFact { order, fact })
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<OrderWithFact>],
    ) -> Result<Effects, sqlx::Error> {
        write::orders(connection, &self.load_source, items).await
    }

    fn output(enriched: &OrderWithFact) -> Option<&Output> {
        Some(&enriched.fact)
    }
}
