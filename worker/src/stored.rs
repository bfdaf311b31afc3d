//! A record in a table: the columns that `streamstage.dead_letter` and `stg.pending_enrichment` have in common.
//!
//! Key, value and headers are stored as they came. What StreamStage itself has added to the headers is left out of a
//! dead letter, which gets it anew, and kept by an order that waits, which counts its attempts on.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Postgres, Row as _};

use crate::record::{Header, Record};

/// What every header that StreamStage adds to a dead letter begins with.
pub const ERROR_HEADERS: &str = "streamstage-error-";

/// A statement with some of its parameters bound.
pub type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Binds the next seven parameters, an element per record: `integer[]` partitions, `bigint[]` offsets, `bytea[]`
/// keys and values, `text[]` names and values of headers (each the text of an array), `bigint[]` timestamps in
/// milliseconds since the Unix epoch. Headers that `keeps` refuses are left out.
pub fn bind<'q, R: Iterator<Item = &'q Record> + Clone>(
    query: Query<'q>,
    records: R,
    keeps: fn(&Header) -> bool,
) -> Query<'q> {
    let headers = |element: fn(&Header) -> String| {
        let texts = records.clone().map(|record| {
            let kept = record.headers.iter().filter(|header| keeps(header));
            array(kept.map(element))
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
    query
        .bind(names)
        .bind(values)
        .bind(records.map(|record| record.timestamp).collect::<Vec<_>>())
}

/// A record as a table holds it, in columns named as in `streamstage.dead_letter`.
///
/// # Errors
/// When the row lacks one of the columns.
pub fn record(row: &PgRow) -> Result<Record, sqlx::Error> {
    let names: Vec<String> = row.try_get("header_names")?;
    let values: Vec<Option<Vec<u8>>> = row.try_get("header_values")?;
    Ok(Record {
        partition: row.try_get("partition")?,
        offset: row.try_get("offset")?,
        timestamp: row.try_get("record_timestamp")?,
        key: row.try_get("key")?,
        value: row.try_get("value")?,
        headers: names
            .into_iter()
            .zip(values)
            .map(|(name, value)| Header { name, value })
            .collect(),
        unreadable_headers: 0,
    })
}

/// Whether a header came with the record from its producer: a redriven record has gained others.
#[must_use]
pub fn is_own(header: &Header) -> bool {
    !header.name.starts_with(ERROR_HEADERS)
}

/// Text that PostgreSQL takes: it has no U+0000.
#[must_use]
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Texts as the text of a PostgreSQL array: a batch's rows hold arrays of different lengths, so each casts its own.
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
        storable(text).replace('\\', "\\\\").replace('"', "\\\"")
    )
}

fn header_name(header: &Header) -> String {
    quoted(&header.name)
}

/// A header's value in PostgreSQL's hexadecimal form of `bytea`.
fn header_value(header: &Header) -> String {
    let hex = |value: &Vec<u8>| format!("\"\\\\x{}\"", crate::decode::to_hex(value));
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
    fn what_streamstage_added_to_the_headers_is_not_the_records_own() {
        assert!(is_own(&Header::text("trace", "1")));
        assert!(!is_own(&Header::text("streamstage-error-attempts", "2")));
    }
}
