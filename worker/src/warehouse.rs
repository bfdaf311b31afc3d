#![expect(
    clippy::disallowed_types,
    reason = "edge: connects to PostgreSQL and keeps the positions there"
)]
//! The warehouse: connections, transactions and positions.
//!
//! A worker acts as the role `streamstage_worker`, whatever login it comes with. Every position is read under a
//! lock before anything is written, and moved in the same transaction as the effects.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool, Postgres, Row as _, Transaction};

use crate::batch::{Batch, Published};
use crate::dead_letter::Origin;
use crate::policy::{self, Policy};
use crate::position::Spans;
use crate::stored::Query;

/// Every connection's first statements: the least privileges, one zone whatever the server's is, and limits
/// that free the locks of a worker that hangs.
const SESSION: &str = "\
SET ROLE streamstage_worker;
SET timezone = 'UTC';
SET lock_timeout = '10s';
SET statement_timeout = '120s';
SET idle_in_transaction_session_timeout = '60s'";

const LOCK: &str = "\
SELECT partition, next_offset FROM streamstage.position
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3) ORDER BY partition FOR UPDATE";

const ADVANCE: &str = "\
UPDATE streamstage.position AS position SET next_offset = batch.next_offset
FROM unnest($3::integer[], $4::bigint[]) AS batch (partition, next_offset)
WHERE consumer_group = $1 AND topic = $2 AND position.partition = batch.partition";

const POSITIONS: &str = "\
SELECT partition, next_offset FROM streamstage.position
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3)";

const BEGIN_AT: &str = "\
INSERT INTO streamstage.position (consumer_group, topic, partition, next_offset)
SELECT $1, $2, begin.* FROM unnest($3::integer[], $4::bigint[]) AS begin (partition, next_offset)
ORDER BY partition ON CONFLICT DO NOTHING";

/// The warehouse, as one stage uses it.
#[derive(Clone)]
pub struct Warehouse {
    pool: PgPool,
    origin: Origin,
}

impl Warehouse {
    /// At most `connections` connections, opened when they are needed.
    #[must_use]
    pub fn new(options: PgConnectOptions, connections: u32, origin: Origin) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(|connection, _| {
                Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(options);
        Self { pool, origin }
    }

    /// The connections, for what is done once.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Begins the transaction of a batch.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn begin(&self) -> Result<BatchTransaction, sqlx::Error> {
        Ok(BatchTransaction(self.pool.begin().await?))
    }

    /// The stored positions of a batch's partitions, locked until the transaction ends.
    ///
    /// # Errors
    /// Whatever PostgreSQL refuses.
    pub async fn lock_positions(
        &self,
        connection: &mut PgConnection,
        spans: &Spans,
    ) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        let partitions: Vec<i32> = spans.keys().copied().collect();
        self.read(LOCK, connection, &partitions).await
    }

    /// Moves positions that [`Self::lock_positions`] has locked.
    ///
    /// # Errors
    /// Whatever PostgreSQL refuses.
    pub async fn advance(
        &self,
        connection: &mut PgConnection,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), sqlx::Error> {
        self.write(ADVANCE, connection, positions).await
    }

    /// The stored positions of these partitions.
    ///
    /// # Errors
    /// Whatever PostgreSQL refuses.
    pub async fn positions(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        self.read(POSITIONS, &mut connection, partitions).await
    }

    /// Stores where partitions begin that have no position; returns the positions that stand then.
    ///
    /// # Errors
    /// Whatever PostgreSQL refuses.
    pub async fn begin_at(&self, begin: &BTreeMap<i32, i64>) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        self.write(BEGIN_AT, &mut connection, begin).await?;
        let partitions: Vec<i32> = begin.keys().copied().collect();
        self.read(POSITIONS, &mut connection, &partitions).await
    }

    async fn read(
        &self,
        statement: &'static str,
        connection: &mut PgConnection,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
        let query = self.query(statement).bind(partitions);
        let rows = query.fetch_all(connection).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    async fn write(
        &self,
        statement: &'static str,
        connection: &mut PgConnection,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), sqlx::Error> {
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = positions.iter().unzip();
        let query = self.query(statement).bind(partitions).bind(offsets);
        query.execute(connection).await.map(drop)
    }

    fn query(&self, statement: &'static str) -> Query<'_> {
        let Origin {
            consumer_group,
            topic,
            ..
        } = &self.origin;
        sqlx::query(statement).bind(consumer_group).bind(topic)
    }
}

/// The transaction of a batch; dropped, it is rolled back.
pub struct BatchTransaction(Transaction<'static, Postgres>);

impl BatchTransaction {
    /// The connection that it is open on.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.0
    }

    /// Commits a batch whose messages are acknowledged; there is no other way to commit.
    ///
    /// # Errors
    /// When PostgreSQL does not answer. Whether it has committed is then settled by the next claim.
    pub async fn commit(self, _: &Batch<Published>) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }
}

/// The policy for an error of PostgreSQL's, or of the way to it. See the table in [`crate::policy`].
#[must_use]
pub fn policy_of(error: &sqlx::Error) -> Policy {
    match error {
        sqlx::Error::Database(refusal) => policy::of_sqlstate(refusal.code().as_deref().unwrap_or_default()),
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::Encode(_) => Policy::Hold,
        _ => Policy::Retry,
    }
}
