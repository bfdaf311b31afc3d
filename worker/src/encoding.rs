#![expect(clippy::disallowed_types, reason = "edge: reads the encoding of a database")]
//! Encoding of the warehouse. Only UTF-8 can store every text of a message; with any other encoding, valid records would
//! be rejected one by one.

use sqlx::PgConnection;

use crate::statement;

/// Only encoding in which the warehouse can store every text.
const REQUIRED_ENCODING: &str = "UTF8";

/// Error of a database that cannot store every text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the encoding of the database is {0}, and only UTF8 can store every text; create another database with \
     `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`, set spec.warehouse.database, and run `worker migrate`"
)]
pub struct UnsupportedEncoding(String);

/// Reads the encoding of the database, and checks it.
///
/// # Errors
/// The outer error if PostgreSQL fails, the inner one if the encoding is not UTF-8.
pub async fn check_encoding(
    connection: &mut PgConnection,
) -> Result<Result<(), UnsupportedEncoding>, sqlx::Error> {
    let encoding: String = statement::query_scalar("SELECT current_setting('server_encoding')")
        .fetch_one(connection)
        .await?;
    Ok(accept(&encoding))
}

/// Checks the encoding of a database.
///
/// # Errors
/// If it is not UTF-8.
pub fn accept(encoding: &str) -> Result<(), UnsupportedEncoding> {
    if encoding == REQUIRED_ENCODING {
        return Ok(());
    }
    Err(UnsupportedEncoding(encoding.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_utf_8_is_accepted() {
        assert_eq!(accept("UTF8"), Ok(()));
        for encoding in ["SQL_ASCII", "LATIN1", "WIN1251", "KOI8R", "EUC_JP"] {
            let error = accept(encoding).expect_err(encoding).to_string();
            assert!(
                error.contains(encoding) && error.contains("ENCODING 'UTF8'"),
                "{error}"
            );
        }
    }
}
