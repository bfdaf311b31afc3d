#![expect(
    clippy::disallowed_types,
    reason = "edge: connects to PostgreSQL and stores the positions there"
)]
//! The warehouse: connections, transactions and positions.
//!
//! A worker acts as the role `streamstage_worker`, whatever its login is. A transaction locks and reads the positions
//! before it writes anything, and stores the new positions together with the effects. [`crate::session`] has the
//! connections.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, Row as _};

use crate::batch::{Batch, Published};
use crate::dead_letter::origin::Origin;
use crate::error_policy::{ErrorPolicy, policy_for_sqlstate};
use crate::position::OffsetRanges;
use crate::record_columns::Query;
use crate::session::{Sessions, Transaction, with_deadline};
use crate::statement;

/// Time that a transaction may take, unless it is known to take longer.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

const LOCK_POSITIONS: &str = "\
SELECT partition, next_offset FROM streamstage.position
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3) ORDER BY partition FOR UPDATE";

const UPDATE_POSITIONS: &str = "\
UPDATE streamstage.position AS position SET next_offset = batch.next_offset
FROM unnest($3::integer[], $4::bigint[]) AS batch (partition, next_offset)
WHERE consumer_group = $1 AND topic = $2 AND position.partition = batch.partition";

const SELECT_POSITIONS: &str = "\
SELECT partition, next_offset FROM streamstage.position
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3)";

const INSERT_START_POSITIONS: &str = "\
INSERT INTO streamstage.position (consumer_group, topic, partition, next_offset)
SELECT $1, $2, initial.* FROM unnest($3::integer[], $4::bigint[]) AS initial (partition, next_offset)
ORDER BY partition ON CONFLICT DO NOTHING";

/// Connections of one stage, and access to its positions.
#[derive(Clone)]
pub struct Warehouse {
    sessions: Sessions,
    origin: Origin,
}

impl Warehouse {
    /// At most `connections` connections to the first of `hosts` that accepts writes. They open on first use.
    #[must_use]
    pub fn new(hosts: Vec<PgConnectOptions>, connections: u32, origin: Origin) -> Self {
        Self {
            sessions: Sessions::new(hosts, connections),
            origin,
        }
    }

    /// Begins a transaction whose statements take at most `timeout` each. The caller limits its duration by
    /// [`with_deadline`].
    ///
    /// # Errors
    /// If no host accepts writes, or no connection is free within 10 s.
    pub async fn begin(&self, timeout: Duration) -> Result<Transaction, sqlx::Error> {
        self.sessions.begin(timeout).await
    }

    /// Runs `work` in a transaction of at most [`TRANSACTION_TIMEOUT`], and commits it.
    ///
    /// # Errors
    /// The error of the work, which is rolled back then, or as [`Self::begin`].
    pub async fn transact<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        with_deadline(TRANSACTION_TIMEOUT, async {
            let mut transaction = self.begin(TRANSACTION_TIMEOUT).await?;
            let result = work(transaction.connection()).await?;
            transaction.commit().await?;
            Ok(result)
        })
        .await
    }

    /// Begins the transaction of a batch, as [`Self::begin`].
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn begin_transaction(&self, timeout: Duration) -> Result<BatchTransaction, sqlx::Error> {
        Ok(BatchTransaction(self.begin(timeout).await?))
    }

    /// Reads the stored positions of a batch's partitions and locks them until the transaction ends.
    ///
    /// # Errors
    /// If the statement fails, or a lock is not free within 10 s.
    pub async fn lock_positions(
        &self,
        connection: &mut PgConnection,
        ranges: &OffsetRanges,
    ) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        let partitions: Vec<i32> = ranges.keys().copied().collect();
        self.fetch_positions(LOCK_POSITIONS, connection, &partitions)
            .await
    }

    /// Stores new positions; a partition without a stored position is skipped.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn store_positions(
        &self,
        connection: &mut PgConnection,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), sqlx::Error> {
        self.write_positions(UPDATE_POSITIONS, connection, positions)
            .await
    }

    /// Stored positions of these partitions; a partition without one is absent.
    ///
    /// # Errors
    /// If PostgreSQL is unreachable or the statement fails.
    pub async fn positions(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        self.transact(async |connection| {
            self.fetch_positions(SELECT_POSITIONS, connection, partitions)
                .await
        })
        .await
    }

    /// Stores the start positions of partitions that have no position. Returns the positions that are stored then:
    /// another worker may have been first.
    ///
    /// # Errors
    /// If PostgreSQL is unreachable or a statement fails.
    pub async fn insert_start_positions(
        &self,
        starts: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        let partitions: Vec<i32> = starts.keys().copied().collect();
        self.transact(async |connection| {
            self.write_positions(INSERT_START_POSITIONS, connection, starts)
                .await?;
            self.fetch_positions(SELECT_POSITIONS, connection, &partitions)
                .await
        })
        .await
    }

    async fn fetch_positions(
        &self,
        statement: &'static str,
        connection: &mut PgConnection,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        let query = self.bind_group(statement).bind(partitions);
        let rows = query.fetch_all(connection).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    async fn write_positions(
        &self,
        statement: &'static str,
        connection: &mut PgConnection,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), sqlx::Error> {
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = positions.iter().unzip();
        let query = self.bind_group(statement).bind(partitions).bind(offsets);
        query.execute(connection).await.map(drop)
    }

    /// Binds the consumer group and the topic as `$1` and `$2`.
    fn bind_group(&self, statement: &'static str) -> Query<'_> {
        let Origin {
            consumer_group,
            topic,
            ..
        } = &self.origin;
        statement::query(statement).bind(consumer_group).bind(topic)
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
