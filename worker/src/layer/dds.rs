#![expect(
    clippy::disallowed_types,
    reason = "edge: the interface through which the layer writes to PostgreSQL"
)]
//! DDS (Raw Data Vault): stores every version of every order, and publishes its fact for the marts.
//!
//! Insert-only. The primary key of every row is a function of its content and its version, so duplicates and
//! late-arriving versions need no special case. Every version that is read is published again; the marts recognize
//! duplicates.

pub mod decode;
mod fact;
pub mod stored;
mod write;

use sqlx::PgConnection;

use crate::decode::DecodeSettings;
use crate::layer::interface::{Effects, Layer, LookupError};
use crate::output::Output;
use crate::record::{Item, Record};
use crate::rejection::Rejection;

pub use decode::Order;
pub use fact::OrderWithFact;

/// DDS layer of one stage.
pub struct Dds {
    /// Settings that decide which values the stage accepts.
    pub settings: DecodeSettings,
    /// Record source of all rows, for the column `load_src`: `kafka:<topic>`.
    pub record_source: String,
}

impl Layer for Dds {
    type Decoded = Order;
    type Lookup = ();
    type Enriched = OrderWithFact;

    fn decode(&self, record: &Record, now: i64) -> Result<Order, Rejection> {
        decode::decode_order(&self.settings, record, now)
    }

    async fn look_up(&self, _: &[Item<Order>]) -> Result<(), LookupError> {
        Ok(())
    }

    fn enrich(&self, order: Order, (): &()) -> Result<OrderWithFact, Rejection> {
        let fact = fact::build_fact(&order);
        Ok(OrderWithFact { order, fact })
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<OrderWithFact>],
    ) -> Result<Effects, sqlx::Error> {
        write::write_orders(connection, &self.record_source, items).await
    }

    fn output(enriched: &OrderWithFact) -> Option<&Output> {
        Some(&enriched.fact)
    }
}
