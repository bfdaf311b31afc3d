#![expect(
    clippy::disallowed_types,
    reason = "edge: the interface through which a layer writes to PostgreSQL"
)]
//! Interface of a layer: how it decodes a record, looks up reference data, enriches, and writes.

use std::future::Future;

use sqlx::PgConnection;

use crate::output::Output;
use crate::record::{Item, Record};
use crate::rejection::Rejection;

/// Layer of the warehouse, as the batch pipeline uses it.
pub trait Layer: Send + Sync + 'static {
    /// Decoded value of an accepted record.
    type Decoded: Send + Sync;
    /// Reference data that a batch needs.
    type Lookup: Send + Sync;
    /// Value of an accepted record, ready to be written.
    type Enriched: Send + Sync;

    /// Decodes one record. `now` is the worker's clock in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// If the record violates the contract.
    fn decode(&self, record: &Record, now: i64) -> Result<Self::Decoded, Rejection>;

    /// Looks up the reference data that these items need. A layer without reference data sends no request.
    fn look_up(
        &self,
        items: &[Item<Self::Decoded>],
    ) -> impl Future<Output = Result<Self::Lookup, LookupError>> + Send;

    /// Returns the cause if most of what these items need is missing or malformed, which is an outage of the reference
    /// data, and not the fault of the items.
    fn find_outage(&self, _: &[Item<Self::Decoded>], _: &Self::Lookup) -> Option<String> {
        None
    }

    /// Enriches one decoded value with the reference data that was looked up for the batch.
    ///
    /// # Errors
    /// If the result cannot be published, for example because it is too large.
    fn enrich(&self, decoded: Self::Decoded, lookup: &Self::Lookup) -> Result<Self::Enriched, Rejection>;

    /// Writes the items within the open transaction of the connection.
    fn write(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<Self::Enriched>],
    ) -> impl Future<Output = Result<Effects, sqlx::Error>> + Send;

    /// Message for the next layer; `None` if the layer or the item does not have one.
    fn output(enriched: &Self::Enriched) -> Option<&Output>;
}

/// Failure of a lookup as a whole. It is transient and never a reason to reject a record.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Redis did not answer.
    #[error(
        "reference data lookup failed: {0}; check that Redis is running, and check the keys of \
         spec.referenceData.authSecretName"
    )]
    Redis(#[from] redis::RedisError),
    /// Redis has lost the reference data, or is another one.
    #[error("the reference data has vanished: {0}; restore it, or correct spec.referenceData.url")]
    Vanished(String),
}

/// Effects of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Indices of the items whose output must be published before the commit.
    pub publish: Vec<usize>,
    /// Number of items that this write stored completely.
    pub stored: usize,
    /// Number of items that were stored before.
    pub duplicate: usize,
    /// Number of new items with a status that this worker does not know.
    pub unknown_status: usize,
    /// Number of new items that are stored and wait for reference data.
    pub pending: usize,
}

impl Effects {
    /// Adds the effects of another write. `indices` maps an index of that write to an index of the batch.
    pub fn append(&mut self, other: Self, indices: &[usize]) {
        self.publish
            .extend(other.publish.into_iter().map(|index| indices[index]));
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.unknown_status += other.unknown_status;
        self.pending += other.pending;
    }
}
