#![expect(
    clippy::disallowed_types,
    reason = "edge: the seam through which the layer writes to PostgreSQL"
)]
//! CDM: counts each guest's closed orders per dish and per category, and holds the thresholds of the tags.
//!
//! The counters follow a ledger of what each order adds; they are never recounted and never incremented
//! without it, so that a replay, a late version or a cancellation moves exactly what it should.

mod decode;
mod ledger;
mod thresholds;
mod write;

use sqlx::PgConnection;

use crate::decode::Rules;
use crate::layer::{DictionaryError, Effects, Layer, Output};
use crate::record::{Item, Record};
use crate::rejection::Rejection;

pub use decode::Fact;
pub use ledger::{Change, Contribution};
pub use thresholds::install as install_thresholds;

/// The CDM layer of one stage.
pub struct Cdm {
    /// What values the stage accepts.
    pub rules: Rules,
}

impl Layer for Cdm {
    type Decoded = Fact;
    type Known = ();
    type Enriched = Fact;

    fn decode(&self, record: &Record, now: i64) -> Result<Fact, Rejection> {
        decode::fact(&self.rules, record, now)
    }

    async fn look_up(&self, _: &[Item<Fact>]) -> Result<(), DictionaryError> {
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
        write::facts(connection, &facts).await
    }

    fn output(_: &Fact) -> Option<&Output> {
        None
    }
}
