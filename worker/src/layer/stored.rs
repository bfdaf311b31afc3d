#![expect(
    clippy::disallowed_types,
    reason = "edge: the interface through which a layer reads from PostgreSQL"
)]
//! Stored versions of orders, which a layer can read and produce again.
//!
//! A page has the keys of a limited number of versions. It is read in chunks, whose bytes are limited too, because a
//! version may be as large as a record.

use std::future::Future;

use sqlx::PgConnection;

use crate::chunks::split_by_weight;
use crate::layer::interface::LookupError;
use crate::output::Output;
use crate::rejection::Rejection;

/// Layer that stores every version that it has accepted, and can build the message of each again.
pub trait StoredVersions: Send + Sync {
    /// Identifies an order in the tables of the layer.
    type OrderKey: Send + Sync;

    /// Counts the versions of the filter, by record source.
    fn count(
        &self,
        connection: &mut PgConnection,
        filter: &VersionFilter,
    ) -> impl Future<Output = Result<Vec<(String, i64)>, sqlx::Error>> + Send;

    /// Returns the keys of the next versions of this stage's topic, at most `limit`, in the order of their keys.
    fn page(
        &self,
        connection: &mut PgConnection,
        filter: &VersionFilter,
        after: Option<&VersionKey<Self::OrderKey>>,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<VersionKey<Self::OrderKey>>, sqlx::Error>> + Send;

    /// Reads versions and builds their messages.
    fn rebuild(
        &self,
        connection: &mut PgConnection,
        keys: &[&VersionKey<Self::OrderKey>],
    ) -> impl Future<Output = Result<Vec<Rebuilt>, StoredError>> + Send;
}

/// Failure of a dependency while stored versions are read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// PostgreSQL failed.
    #[error(transparent)]
    Warehouse(#[from] sqlx::Error),
    /// The lookup of reference data failed.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// Selection of stored versions. The default selects all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionFilter {
    /// Ids of the orders; empty for all orders.
    pub orders: Vec<i64>,
    /// First load date, in microseconds since the Unix epoch.
    pub since: Option<i64>,
    /// End of the load dates, exclusive, in microseconds since the Unix epoch.
    pub until: Option<i64>,
}

impl VersionFilter {
    /// SQL condition of the filter: `$1` is the orders, `$2` and `$3` are the load dates. `order_column` contains the
    /// order; an index on it is used if there are orders.
    #[must_use]
    pub fn condition(&self, order_column: &str) -> String {
        let orders = if self.orders.is_empty() {
            "$1 IS NOT NULL".to_owned()
        } else {
            format!("{order_column} = ANY($1)")
        };
        format!(
            "{orders}
            AND ($2::bigint IS NULL OR load_dt >= timestamptz 'epoch' + $2 * interval '1 microsecond')
            AND ($3::bigint IS NULL OR load_dt < timestamptz 'epoch' + $3 * interval '1 microsecond')"
        )
    }
}

/// Key of a stored version. `K` identifies the order in the tables of the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionKey<K> {
    /// Order.
    pub order: K,
    /// Version, as stored.
    pub version: Vec<u8>,
    /// Approximate size of the version in memory, in bytes.
    pub bytes: usize,
    /// True if another step still has to produce the version, for example because reference data was missing.
    pub is_pending: bool,
}

/// Message that was built from a stored version, or the reason why it was not.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// Id of the order.
    pub order_id: i64,
    /// Message or reason.
    pub outcome: RebuildOutcome,
}

/// Outcome of [`Rebuilt`].
#[derive(Clone, Debug)]
pub enum RebuildOutcome {
    /// Message for the output topic.
    Ready(Output),
    /// Missing reference data entries.
    Missing(Vec<String>),
    /// The version has a dead letter that was not redriven, so a redrive will produce it.
    DeadLettered,
    /// The version cannot be produced, for example because it exceeds the size limit of the topic.
    Rejected(Rejection),
}

/// Splits a page into chunks of at most `max_rows` versions and about `max_bytes` bytes; a larger version is alone.
#[must_use]
pub fn split_page<K>(page: &[VersionKey<K>], max_rows: usize, max_bytes: usize) -> Vec<&[VersionKey<K>]> {
    let least = max_bytes.div_ceil(max_rows);
    split_by_weight(page, max_bytes, |key| key.bytes.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_limited_in_rows_and_in_bytes() {
        let lengths = |sizes: &[usize], max_rows, max_bytes| -> Vec<usize> {
            let keys = sizes.iter().map(|&bytes| VersionKey {
                order: 0,
                version: Vec::new(),
                bytes,
                is_pending: false,
            });
            let page: Vec<_> = keys.collect();
            split_page(&page, max_rows, max_bytes)
                .into_iter()
                .map(<[_]>::len)
                .collect()
        };
        assert_eq!(lengths(&[1; 5], 2, 100), [2, 2, 1]);
        assert_eq!(lengths(&[40, 60, 1, 99], 10, 100), [2, 1, 1]);
        assert_eq!(lengths(&[10, 500, 10], 10, 100), [1, 1, 1]);
        assert_eq!(lengths(&[], 10, 100), [0; 0]);
    }
}
