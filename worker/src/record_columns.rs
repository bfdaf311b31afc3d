//! Table columns of a record, shared by `streamstage.dead_letter` and `stg.pending_enrichment`.
//!
//! Key, value and headers are stored as received. A dead letter leaves out the headers that StreamStage added,
//! because it gets new ones. A pending order retains them, because its attempts are counted from there.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Postgres, Row as _};

use crate::record::{Header, Record};
use crate::vault::Column;

/// Name prefix of every header that StreamStage adds to a dead letter.
pub const ERROR_HEADER_PREFIX: &str = "streamstage-error-";

/// A statement with some of its parameters bound.
pub type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Binds the next nine parameters. Each is an array with one element per record:
///
/// 1. `integer[]`: partitions
/// 2. `bigint[]`: offsets
/// 3. `bytea[]`: keys
/// 4. `bytea[]`: values
/// 5. `text[]`: names of the headers, each element an array literal
/// 6. `text[]`: values of the headers, each element an array literal
/// 7. `bigint[]`: timestamps, in milliseconds since the Unix epoch
/// 8. `uuid[]`: topic IDs
/// 9. `bigint[]`: sizes, in bytes
///
/// A header is left out if `keep_header` returns false.
pub fn bind_records<'q, R: Iterator<Item = &'q Record> + Clone>(
    query: Query<'q>,
    records: R,
    keep_header: fn(&Header) -> bool,
) -> Query<'q> {
    let headers = |element: fn(&Header) -> String| {
        let texts = records.clone().map(|record| {
            let headers = record.headers.iter().filter(|header| keep_header(header));
            array(headers.map(element))
        });
        texts.collect::<Vec<_>>()
    };
    let (names, values) = (headers(header_name), headers(header_value));
    let column = records.clone();
    let query = query
        .bind(column.map(|record| record.partition).collect::<Vec<_>>())
        .bind(records.clone().map(|record| record.offset).collect::<Vec<_>>())
        .bind(
            records
                .clone()
                .map(|record| record.key.as_deref())
                .collect::<Vec<_>>(),
        )
        .bind(
            records
                .clone()
                .map(|record| record.value.as_deref())
                .collect::<Vec<_>>(),
        );
    let timestamps = records.clone().map(|record| record.timestamp);
    let topic_ids = records.clone().map(|record| record.topic_id);
    let sizes = records.map(|record| i64::try_from(record.size_bytes()).unwrap_or(i64::MAX));
    query
        .bind(names)
        .bind(values)
        .bind(timestamps.collect::<Vec<_>>())
        .bind(topic_ids.collect::<Vec<_>>())
        .bind(sizes.collect::<Vec<_>>())
}

/// Binds the columns of the vault as the next parameters.
pub fn bind_columns(query: Query<'_>, columns: impl IntoIterator<Item = Column>) -> Query<'_> {
    columns.into_iter().fold(query, |query, column| match column {
        Column::Uuid(values) => query.bind(values),
        Column::Text(values) => query.bind(values),
        Column::BigInt(values) | Column::Micros(values) => query.bind(values),
        Column::Integer(values) => query.bind(values),
        Column::Numeric(values) => query.bind(values),
        Column::Bytes(values) => query.bind(values),
    })
}

/// Reads a record from a row whose columns are named as in `streamstage.dead_letter`.
///
/// # Errors
/// If the row has no such column, or the column has another type.
pub fn record_from_row(row: &PgRow) -> Result<Record, sqlx::Error> {
    let names: Vec<String> = row.try_get("header_names")?;
    let values: Vec<Option<Vec<u8>>> = row.try_get("header_values")?;
    Ok(Record {
        topic_id: row.try_get("topic_id")?,
        partition: row.try_get("partition")?,
        offset: row.try_get("offset")?,
        timestamp: row.try_get("record_timestamp_ms")?,
        key: row.try_get("key")?,
        value: row.try_get("value")?,
        headers: names
            .into_iter()
            .zip(values)
            .map(|(name, value)| Header { name, value })
            .collect(),
        unreadable_headers: 0,
        omission: None,
    })
}

/// Returns true if the producer set this header; a redriven record also has headers of StreamStage.
#[must_use]
pub fn is_producer_header(header: &Header) -> bool {
    !header.name.starts_with(ERROR_HEADER_PREFIX)
}

/// Replaces U+0000, which PostgreSQL cannot store in a text, by U+FFFD.
#[must_use]
pub fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Formats texts as a PostgreSQL array literal. The arrays of a batch differ in length, so a two-dimensional
/// parameter cannot hold them: each row casts its own literal.
#[must_use]
pub fn text_array(texts: &[String]) -> String {
    array(texts.iter().map(|text| quoted(text)))
}

fn array(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    format!("{{{}}}", elements.join(","))
}

fn quoted(text: &str) -> String {
    format!(
        "\"{}\"",
        replace_nul(text).replace('\\', "\\\\").replace('"', "\\\"")
    )
}

fn header_name(header: &Header) -> String {
    quoted(&header.name)
}

/// A header's value in PostgreSQL's hexadecimal form of `bytea`.
fn header_value(header: &Header) -> String {
    let hex = |value: &Vec<u8>| format!("\"\\\\x{}\"", crate::version::to_hex(value));
    header.value.as_ref().map_or_else(|| "NULL".to_owned(), hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_quotes_backslashes_and_nul_is_one_element_of_an_array() {
        let texts = ["a\"b\\c".to_owned(), "{d,e}".to_owned(), "f\0".to_owned()];
        assert_eq!(text_array(&texts), "{\"a\\\"b\\\\c\",\"{d,e}\",\"f\u{fffd}\"}");
        assert_eq!(text_array(&[]), "{}");
    }

    #[test]
    fn a_header_without_a_value_is_null_and_an_empty_one_is_not() {
        let header = |value: Option<&[u8]>| Header {
            name: "trace".into(),
            value: value.map(<[u8]>::to_vec),
        };
        assert_eq!(header_value(&header(None)), "NULL");
        assert_eq!(header_value(&header(Some(b""))), r#""\\x""#);
        assert_eq!(header_value(&header(Some(b"\0\"\xff"))), r#""\\x0022ff""#);
    }

    #[test]
    fn an_error_header_is_not_a_producer_header() {
        assert!(is_producer_header(&Header::text("trace", "1")));
        assert!(!is_producer_header(&Header::text(
            "streamstage-error-attempts",
            "2"
        )));
    }
}
