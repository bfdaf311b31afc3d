#![expect(
    clippy::disallowed_types,
    reason = "edge: the seam through which the layer writes to PostgreSQL"
)]
//! STG: keeps every message as it came, and enriches it from the dictionary.
//!
//! The source of truth. It never changes or drops what a message says, and it publishes each version of an
//! order once.

mod decode;
mod dictionary;
mod enrich;
pub mod pending;
mod write;

use sqlx::PgConnection;

use crate::dead_letter::Origin;
use crate::decode::Rules;
use crate::layer::{DictionaryError, Effects, Layer, Output};
use crate::publish::OutputLimit;
use crate::record::{Item, Record};
use crate::rejection::Rejection;

pub use decode::Order;
pub use dictionary::Dictionary;
pub(crate) use enrich::serialise;
pub use enrich::{Enriched, Known, Outcome};

/// The STG layer of one stage.
pub struct Stg {
    /// What values the stage accepts.
    pub rules: Rules,
    /// Where guests, restaurants and menus are looked up.
    pub dictionary: Dictionary,
    /// Largest message that the output topic takes.
    pub output_limit: OutputLimit,
    /// Whose records these are: named in `load_src`, and owner of the rows in `stg.pending_enrichment`.
    pub origin: Origin,
}

impl Layer for Stg {
    type Decoded = Order;
    type Known = Known;
    type Enriched = Enriched;

    fn decode(&self, record: &Record, now: i64) -> Result<Order, Rejection> {
        decode::order(&self.rules, record, now)
    }

    async fn look_up(&self, items: &[Item<Order>]) -> Result<Known, DictionaryError> {
        self.dictionary.lookup(items.iter().map(|item| &item.value)).await
    }

    fn enrich(&self, order: Order, known: &Known) -> Result<Enriched, Rejection> {
        enrich::order(order, known, self.output_limit.bytes())
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<Enriched>],
    ) -> Result<Effects, sqlx::Error> {
        write::orders(self, connection, items).await
    }

    fn output(enriched: &Enriched) -> Option<&Output> {
        match &enriched.outcome {
            Outcome::Ready(output) => Some(output),
            Outcome::Missing(_) => None,
        }
    }
}
