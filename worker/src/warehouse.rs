#![expect(clippy::disallowed_types, reason = "edge: connects to PostgreSQL")]
//! The warehouse: connections and transactions.
//!
//! A worker acts as the role `streamstage_worker` or as that of its layer, whatever its login is. [`crate::session`] has
//! the connections.

use std::time::Duration;

use crds::stage::Layer;
use sqlx::PgConnection;

use crate::batch::{Batch, Published};
use crate::error_policy::{ErrorPolicy, policy_for_sqlstate};
use crate::postgres_host::PostgresHost;
use crate::session::{Sessions, Transaction, with_deadline};

/// Time that a transaction may take, unless it is known to take longer.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections of one stage.
#[derive(Clone)]
pub struct Warehouse {
    sessions: Sessions,
}

impl Warehouse {
    /// At most `connections` connections to the first of `hosts` that accepts writes, for a stage of `layer`. They open on
    /// first use.
    #[must_use]
    pub fn new(hosts: Vec<PostgresHost>, layer: Layer, connections: u32) -> Self {
        Self {
            sessions: Sessions::new(hosts, layer, connections),
        }
    }

    /// Begins a transaction whose statements take at most `timeout` each. The caller limits its duration by
    /// [`with_deadline`].
    ///
    /// # Errors
    /// If no host accepts writes, or no connection is free within 10 s.
    pub async fn begin_as_worker(&self, timeout: Duration) -> Result<Transaction, sqlx::Error> {
        self.sessions.begin_as_worker(timeout).await
    }

    /// Begins a read-only transaction that reads one snapshot. Its statements take at most `timeout` each.
    ///
    /// # Errors
    /// As [`Self::begin_as_worker`].
    pub async fn begin_snapshot(&self, timeout: Duration) -> Result<Transaction, sqlx::Error> {
        self.sessions.begin_snapshot(timeout).await
    }

    /// Runs `work` in a transaction of at most [`TRANSACTION_TIMEOUT`], and commits it.
    ///
    /// # Errors
    /// The error of the work, which is rolled back then, or as [`Self::begin_as_worker`].
    pub async fn transact<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        with_deadline(TRANSACTION_TIMEOUT, async {
            let mut transaction = self.begin_as_worker(TRANSACTION_TIMEOUT).await?;
            let result = work(transaction.connection()).await?;
            transaction.commit().await?;
            Ok(result)
        })
        .await
    }

    /// Begins the transaction of a batch, as [`Self::begin_as_worker`].
    ///
    /// # Errors
    /// As [`Self::begin_as_worker`].
    pub async fn begin_transaction(&self, timeout: Duration) -> Result<BatchTransaction, sqlx::Error> {
        Ok(BatchTransaction(self.begin_as_worker(timeout).await?))
    }
}

/// The transaction of a batch; a drop rolls it back.
pub struct BatchTransaction(Transaction);

impl BatchTransaction {
    /// Connection on which the transaction is open.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.0.connection()
    }

    /// Commits a batch whose messages are acknowledged. This is the only way to commit.
    ///
    /// # Errors
    /// If PostgreSQL does not confirm the commit. It may have committed: the next position check finds out.
    pub async fn commit(self, _: &Batch<Published>) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }

    /// Rolls back a transaction that has nothing to write.
    ///
    /// # Errors
    /// If PostgreSQL does not confirm it.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.0.rollback().await
    }
}

/// Policy for a PostgreSQL error, or a failed connection to it. [`crate::error_policy`] has the table.
#[must_use]
pub fn error_policy(error: &sqlx::Error) -> ErrorPolicy {
    match error {
        sqlx::Error::Database(error) => policy_for_sqlstate(error.code().as_deref().unwrap_or_default()),
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::Encode(_) => ErrorPolicy::Block,
        _ => ErrorPolicy::Retry,
    }
}
