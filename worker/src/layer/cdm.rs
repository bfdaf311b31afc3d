#![expect(
    clippy::disallowed_types,
    reason = "edge: the interface through which the layer writes to PostgreSQL"
)]
//! CDM (information marts): counts the closed orders of each user by product and by category, and stores the
//! thresholds of the tags.
//!
//! A ledger has the contribution of each order to the counters. Counters are never incremented without a change of the
//! ledger, and never recounted. Therefore a replay, a late-arriving version or a cancellation changes exactly the
//! counters that it must.

pub mod decode;
mod ledger;
mod thresholds;
mod write;

use sqlx::PgConnection;

use crate::decode::DecodeSettings;
use crate::layer::interface::{Effects, Layer, LookupError};
use crate::output::Output;
use crate::record::{Item, Record};
use crate::rejection::Rejection;

pub use decode::Fact;
pub use ledger::{Contribution, CounterDeltas};
pub use thresholds::install_thresholds;

/// CDM layer of one stage.
pub struct Cdm {
    /// Settings that decide which values the stage accepts.
    pub settings: DecodeSettings,
}

impl Layer for Cdm {
    type Decoded = Fact;
    type Lookup = ();
    type Enriched = Fact;

    fn decode(&self, record: &Record, now: i64) -> Result<Fact, Rejection> {
        decode::decode_fact(&self.settings, record, now)
    }

    async fn look_up(&self, _: &[Item<Fact>]) -> Result<(), LookupError> {
        Ok(())
    }

    fn enrich(&self, fact: Fact, (): &()) -> Result<Fact, Rejection> {
        Ok(fact)
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<Fact>],
    ) -> Result<Effects, sqlx::Error> {
        let facts: Vec<&Fact> = items.iter().map(|item| &item.value).collect();
        write::write_facts(connection, &facts).await
    }

    fn output(_: &Fact) -> Option<&Output> {
        None
    }
}
