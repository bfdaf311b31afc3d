#![expect(
    clippy::disallowed_types,
    reason = "edge: the seam through which a layer writes to PostgreSQL"
)]
//! What a layer is: how it reads a record, what it adds from outside, and what it writes.
//!
//! The path of a batch ([`crate::path`]) is the same for all three; a layer never commits, never publishes and
//! never touches a position.

use std::future::Future;

use sqlx::PgConnection;

use crate::record::{Item, Record};
use crate::rejection::Rejection;

pub mod cdm;
pub mod dds;
pub mod stg;

/// One of the three layers.
pub trait Layer: Send + Sync + 'static {
    /// One accepted record, decoded.
    type Decoded: Send + Sync;
    /// The part of the dictionary that a batch needs.
    type Known: Send + Sync;
    /// One accepted record, ready to be written.
    type Enriched: Send + Sync;

    /// Reads one record. `now` is the worker's clock in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// The verdict that sends the record to the dead letters.
    fn decode(&self, record: &Record, now: i64) -> Result<Self::Decoded, Rejection>;

    /// Asks the dictionary for what these items need; a layer that needs nothing asks nothing.
    fn look_up(
        &self,
        items: &[Item<Self::Decoded>],
    ) -> impl Future<Output = Result<Self::Known, DictionaryError>> + Send;

    /// Joins one record with what the dictionary knows.
    ///
    /// # Errors
    /// The verdict that sends the record to the dead letters.
    fn enrich(&self, decoded: Self::Decoded, known: &Self::Known) -> Result<Self::Enriched, Rejection>;

    /// Writes the effects of these items, in the transaction that the connection is in.
    fn write(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<Self::Enriched>],
    ) -> impl Future<Output = Result<Effects, sqlx::Error>> + Send;

    /// The message for the next topic, if the layer has one for this item.
    fn output(enriched: &Self::Enriched) -> Option<&Output>;
}

/// The dictionary gave no answer; the records are not at fault.
#[derive(Debug, thiserror::Error)]
#[error(
    "the dictionary gives no answer: {0}; check that Redis runs, and the keys of spec.dictionary.authSecret"
)]
pub struct DictionaryError(#[from] pub redis::RedisError);

/// A message for the next topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Key of the message: the order, so that its versions meet in one partition.
    pub object_id: i64,
    /// The message.
    pub payload: Vec<u8>,
    /// Digest of the source record, for [`crate::decode::DIGEST_HEADER`].
    pub digest: [u8; 32],
}

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Indices of the items whose output is to be published now.
    pub publish: Vec<usize>,
    /// Items whose effect is in the tables since this write.
    pub stored: usize,
    /// Items that were known before.
    pub duplicate: usize,
    /// Of the items that were not known before, those with a status that this worker does not know.
    pub unknown_status: usize,
    /// Items that are stored and wait for the dictionary.
    pub pending: usize,
}

impl Effects {
    /// Adds the effects of another write, whose items stand at `places` in the batch.
    pub fn append(&mut self, other: Self, places: &[usize]) {
        self.publish
            .extend(other.publish.into_iter().map(|index| places[index]));
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.unknown_status += other.unknown_status;
        self.pending += other.pending;
    }
}
