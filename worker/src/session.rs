#![expect(clippy::disallowed_types, reason = "edge: connects to PostgreSQL")]
//! Connections to PostgreSQL, and the transactions on them.
//!
//! No session has state: a pooler such as `PgBouncer` gives a server connection to another client after every
//! transaction. Role, time zone and timeouts are local to a transaction, and [`crate::statement`] names no statement.
//!
//! A connection is used again only after a commit. After any failure it is dropped without a farewell, because its
//! server may be silent, or read-only since a failover; the next transaction connects again.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::stage::Layer;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::postgres_host::PostgresHost;

/// Timeout of a connection attempt to one host, until its first transaction has begun.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a transaction waits for the other transactions of the stage, if they use every connection.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Last statement of a beginning with the role of the login; its row is `off` on a server that accepts writes.
const IS_READ_ONLY: &str = "SHOW transaction_read_only";

/// Connections of one stage to its warehouse. Clones share them.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

struct Shared {
    hosts: Vec<PostgresHost>,
    layer: Layer,
    /// Index of the host that accepted the last connection.
    preferred: AtomicUsize,
    idle: Mutex<Vec<PgConnection>>,
    permits: Arc<Semaphore>,
}

impl Sessions {
    /// At most `connections` connections to the first of `hosts` that accepts writes, for a stage of `layer`. They open on
    /// first use.
    #[must_use]
    pub fn new(hosts: Vec<PostgresHost>, layer: Layer, connections: u32) -> Self {
        let permits = usize::try_from(connections).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared {
            hosts,
            layer,
            preferred: AtomicUsize::new(0),
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(permits)),
        }))
    }

    /// Begins a transaction with a role of the workers, in UTC. The server cancels a statement after `timeout`, a wait
    /// for a lock after 10 s, and a transaction whose client is silent after 20 s.
    ///
    /// # Errors
    /// If no connection is free, or no host accepts writes. Names the hosts.
    pub async fn begin_as_worker(&self, timeout: Duration) -> Result<Transaction, sqlx::Error> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;
            SET LOCAL timezone = 'UTC';
            SET LOCAL lock_timeout = '10s';
            SET LOCAL idle_in_transaction_session_timeout = '20s';
            SET LOCAL statement_timeout = {};
            {}",
            timeout.as_millis(),
            self.0.switch_role()
        );
        self.begin_with(&begin).await
    }

    /// Begins a transaction that reads one snapshot, as [`Self::begin_as_worker`], with a longer limit for a silent client.
    ///
    /// # Errors
    /// As [`Self::begin_as_worker`].
    pub async fn begin_snapshot(&self, timeout: Duration) -> Result<Transaction, sqlx::Error> {
        let timeout = timeout.as_millis();
        // Read-only after the test whether the server accepts writes.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ;
            SET LOCAL timezone = 'UTC';
            SET LOCAL idle_in_transaction_session_timeout = {timeout};
            SET LOCAL statement_timeout = {timeout};
            {}",
            self.0.switch_role()
        );
        let mut transaction = self.begin_with(&begin).await?;
        sqlx::raw_sql("SET TRANSACTION READ ONLY")
            .execute(transaction.connection())
            .await?;
        Ok(transaction)
    }

    /// Begins a transaction with the role of the login, and without timeouts: for migrations.
    ///
    /// # Errors
    /// As [`Self::begin_as_worker`].
    pub async fn begin_as_login(&self) -> Result<Transaction, sqlx::Error> {
        let begin = format!("BEGIN; SET LOCAL statement_timeout = 0; {IS_READ_ONLY}");
        self.begin_with(&begin).await
    }

    async fn begin_with(&self, begin: &str) -> Result<Transaction, sqlx::Error> {
        let permit = Arc::clone(&self.0.permits).acquire_owned();
        let permit = tokio::time::timeout(PERMIT_TIMEOUT, permit).await;
        let permit = permit.map_err(|_| failure("every connection of the stage is in use"))?;
        let idle = self.0.idle().pop();
        let connection = match idle {
            Some(idle) => begin_within_timeout(Box::pin(async { Ok(idle) }), begin)
                .await
                .ok(),
            None => None,
        };
        let connection = if let Some(connection) = connection {
            connection
        } else {
            // The server has closed an idle connection, is silent or read-only; so it is for the others.
            self.0.idle().clear();
            self.0.connect(begin).await?
        };
        Ok(Transaction {
            connection,
            sessions: Arc::clone(&self.0),
            _permit: permit.map_err(|_| sqlx::Error::PoolClosed)?,
        })
    }
}

impl Shared {
    /// Last statement of a beginning: takes the role of all layers if the login is a member of it, else that of the
    /// layer. Its row is `off` on a server that accepts writes.
    fn switch_role(&self) -> String {
        format!(
            "SELECT current_setting('transaction_read_only')
            FROM set_config('role', CASE WHEN pg_has_role(session_user, 'streamstage_worker', 'MEMBER')
                THEN 'streamstage_worker' ELSE 'streamstage_{}' END, true)",
            self.layer.as_str()
        )
    }

    /// Connects to the first host that accepts writes, beginning with the preferred one.
    async fn connect(&self, begin: &str) -> Result<PgConnection, sqlx::Error> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let (mut errors, mut sqlstate) = (Vec::new(), None);
        for index in 0..self.hosts.len() {
            let index = (preferred + index) % self.hosts.len();
            let host = &self.hosts[index];
            match begin_within_timeout(Box::pin(host.connect()), begin).await {
                Ok(connection) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => {
                    sqlstate = error
                        .as_database_error()
                        .and_then(|error| Some(error.code()?.into_owned()));
                    let cause = match error {
                        // Without the prefix of sqlx, which this failure has too.
                        sqlx::Error::Io(error) => error.to_string(),
                        error => error.to_string(),
                    };
                    errors.push(format!("{}: {cause}", host.address()));
                }
            }
        }
        Err(ConnectFailure {
            cause: errors.join("; "),
            sqlstate,
        }
        .into())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins a transaction on a connection that is made now, or was idle. The transaction must accept writes.
async fn begin_within_timeout(
    connection: impl Future<Output = Result<PgConnection, sqlx::Error>>,
    begin: &str,
) -> Result<PgConnection, sqlx::Error> {
    let beginning = Box::pin(async {
        let mut connection = connection.await?;
        let statements = sqlx::raw_sql(AssertSqlSafe(begin.to_owned()));
        let row = statements.fetch_one(&mut connection).await?;
        if row.try_get::<String, _>(0)? == "on" {
            return Err(failure(
                "the server accepts no writes: it is a standby, or default_transaction_read_only is set",
            ));
        }
        Ok(connection)
    });
    with_deadline(CONNECT_TIMEOUT, beginning).await
}

/// A transaction. Unless it is committed, a drop closes its connection, and the server rolls it back.
pub struct Transaction {
    connection: PgConnection,
    sessions: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Transaction {
    /// Connection on which the transaction is open.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Commits, and leaves the connection to the next transaction.
    ///
    /// # Errors
    /// If PostgreSQL does not confirm the commit. It may have committed nevertheless.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await?;
        self.sessions.idle().push(self.connection);
        Ok(())
    }

    /// Rolls back a transaction that has not failed, and leaves the connection to the next transaction.
    ///
    /// # Errors
    /// If PostgreSQL does not confirm it.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await?;
        self.sessions.idle().push(self.connection);
        Ok(())
    }
}

/// Runs work that uses PostgreSQL, for at most `timeout`. Work that takes longer is dropped, with its transaction.
///
/// # Errors
/// The error of the work, or one of the kind [`io::ErrorKind::TimedOut`].
pub async fn with_deadline<T, E: From<sqlx::Error>>(
    timeout: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let result = tokio::time::timeout(timeout, work).await;
    result.unwrap_or_else(|_| {
        let cause = format!("no answer within {} s", timeout.as_secs());
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, cause)).into())
    })
}

/// Returns true if a deadline of the client or the server ended the work, which may only have been slow.
#[must_use]
pub fn is_timeout(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::TimedOut,
        // Query canceled.
        sqlx::Error::Database(error) => error.code().as_deref() == Some("57014"),
        _ => false,
    }
}

/// A transient failure without an error of a server.
fn failure(cause: &str) -> sqlx::Error {
    let cause = cause.to_owned();
    ConnectFailure {
        cause,
        sqlstate: None,
    }
    .into()
}

/// Failure to begin a transaction. It is an I/O error, because no record is at fault, whatever the server has answered.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
struct ConnectFailure {
    cause: String,
    sqlstate: Option<String>,
}

impl From<ConnectFailure> for sqlx::Error {
    fn from(failure: ConnectFailure) -> Self {
        Self::Io(io::Error::other(failure))
    }
}

/// SQLSTATE with which the last host has rejected a connection or its first transaction.
#[must_use]
pub fn connect_sqlstate(error: &sqlx::Error) -> Option<&str> {
    let sqlx::Error::Io(error) = error else {
        return None;
    };
    error
        .get_ref()?
        .downcast_ref::<ConnectFailure>()?
        .sqlstate
        .as_deref()
}
