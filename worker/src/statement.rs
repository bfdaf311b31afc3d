//! SQL statements that leave no trace on the server connection.
//!
//! sqlx names a statement by default, and sends it once per connection. Behind a pooler such as `PgBouncer`, the next
//! transaction has another server connection, where the name is missing or belongs to another client. These statements
//! have no name; planning each of them again costs a few milliseconds per batch. Use them in a transaction only: without
//! one, a pooler may separate the two messages of a statement.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{FromRow, Postgres, SqlSafeStr};

/// Creates a statement, as [`sqlx::query()`].
pub fn query<'q>(sql: impl SqlSafeStr) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

/// Creates a statement whose rows become values of `T`, as [`sqlx::query_as()`].
pub fn query_as<'q, T: for<'r> FromRow<'r, PgRow>>(
    sql: impl SqlSafeStr,
) -> QueryAs<'q, Postgres, T, PgArguments> {
    sqlx::query_as(sql).persistent(false)
}

/// Creates a statement with one column of type `T`, as [`sqlx::query_scalar()`].
pub fn query_scalar<'q, T>(sql: impl SqlSafeStr) -> QueryScalar<'q, Postgres, T, PgArguments>
where
    (T,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql).persistent(false)
}
