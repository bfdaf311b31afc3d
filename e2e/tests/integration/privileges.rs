#![expect(clippy::disallowed_types, reason = "edge: executes statements in PostgreSQL")]
//! Statements of a login, and those that PostgreSQL must reject because the login lacks a privilege.

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, PgConnection};

/// SQLSTATE of a missing permission, and of a row that the policies of a table reject.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Executes a statement, and returns the number of rows.
pub(crate) async fn execute(connection: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
    let statement = AssertSqlSafe(statement.to_owned());
    let result = sqlx::raw_sql(statement).execute(connection).await?;
    Ok(result.rows_affected())
}

/// Fails unless PostgreSQL rejects the statement because of a missing privilege.
pub(crate) async fn ensure_denied(connection: &mut PgConnection, statement: &str) -> Result<()> {
    let result = execute(connection, statement).await;
    let code = result
        .as_ref()
        .err()
        .and_then(|error| error.as_database_error()?.code());
    ensure!(
        code.as_deref() == Some(INSUFFICIENT_PRIVILEGE),
        "{statement}: {result:?}"
    );
    Ok(())
}
