#![expect(
    clippy::disallowed_types,
    reason = "edge: the interface through which the layer writes to PostgreSQL"
)]
//! STG (staging): stores every message as received, and enriches it with reference data.
//!
//! STG is the source of truth. It never changes or drops the content of a message, and it publishes each version of
//! an order once.

pub mod decode;
mod enrich;
pub mod entry;
mod known_entries;
pub mod pending;
mod reference_data;
mod sized_read;
pub mod stored;
mod write;

use sqlx::PgConnection;

use crate::dead_letter::Origin;
use crate::decode::DecodeSettings;
use crate::layer::interface::{Effects, Layer, LookupError};
use crate::output::Output;
use crate::record::{Item, Record};
use crate::rejection::Rejection;

pub use decode::Order;
pub use enrich::{Enriched, Enrichment, LookupResult, MissingEntries};
pub use known_entries::MAX_ENTRIES as MAX_KNOWN_ENTRIES;
pub use reference_data::{REDIS_CLUSTER_UNSUPPORTED, ReferenceDataStore};
pub(crate) use sized_read::{fetch_sizes, fetch_values};

/// STG layer of one stage.
pub struct Stg {
    /// Settings that decide which values the stage accepts.
    pub settings: DecodeSettings,
    /// Users, restaurants and menus in Redis.
    pub reference_data: ReferenceDataStore,
    /// Owner of the rows in `stg.pending_enrichment`, and record source of all rows.
    pub origin: Origin,
}

impl Layer for Stg {
    type Decoded = Order;
    type Lookup = LookupResult;
    type Enriched = Enriched;

    fn decode(&self, record: &Record, now: i64) -> Result<Order, Rejection> {
        decode::decode_order(&self.settings, record, now)
    }

    async fn look_up(&self, items: &[Item<Order>]) -> Result<LookupResult, LookupError> {
        self.reference_data
            .look_up(items.iter().map(|item| &item.value))
            .await
    }

    fn find_outage(&self, items: &[Item<Order>], lookup: &LookupResult) -> Option<String> {
        lookup.find_outage(items.iter().map(|item| &item.value.row))
    }

    fn enrich(&self, order: Order, lookup: &LookupResult) -> Result<Enriched, Rejection> {
        Ok(enrich::enrich_order(&self.settings, order, lookup))
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<Enriched>],
    ) -> Result<Effects, sqlx::Error> {
        write::write_orders(connection, &self.origin, items).await
    }

    fn output(enriched: &Enriched) -> Option<&Output> {
        match &enriched.enrichment {
            Enrichment::Ready(output) => Some(output),
            Enrichment::Missing(_) => None,
        }
    }
}
