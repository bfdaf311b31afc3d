#![expect(clippy::disallowed_types, reason = "edge: writes dead letters to PostgreSQL")]
//! Dead letters: records that could not be taken, kept untouched, one row per source offset.
//!
//! The row is written in the transaction that moves the position past the record, and the copy on the dead letter
//! topic is acknowledged before that transaction commits: neither can be lost.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use crate::batch::Rejected;
use crate::record::{Header, Record};

/// Header that counts how often a record has been tried; a redriven record brings its own.
pub const ATTEMPTS_HEADER: &str = "streamstage-error-attempts";
/// What every header that StreamStage adds to a dead letter begins with.
const HEADER_PREFIX: &str = "streamstage-error-";

/// Where a stage's dead letters belong.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Name of the stage.
    pub stage: String,
    /// Its consumer group.
    pub consumer_group: String,
    /// Its source topic.
    pub topic: String,
}

/// One row per source offset, however often it is read; one that was redriven and failed again is dead again.
const INSERT: &str = "\
INSERT INTO streamstage.dead_letter AS held (consumer_group, topic, stage, partition, \"offset\", code, detail,
    key, value, header_names, header_values, record_timestamp, attempts)
SELECT $1, $2, $3, letter.partition, letter.\"offset\", letter.code, letter.detail, letter.key, letter.value,
    letter.names::text[], letter.values::bytea[],
    timestamptz 'epoch' + letter.record_timestamp * interval '1 millisecond', letter.attempts
FROM unnest($4::integer[], $5::bigint[], $6::text[], $7::text[], $8::bytea[], $9::bytea[], $10::text[],
    $11::text[], $12::bigint[], $13::integer[])
    AS letter (partition, \"offset\", code, detail, key, value, names, values, record_timestamp, attempts)
WHERE NOT EXISTS (
    SELECT FROM streamstage.dead_letter AS known
    WHERE known.consumer_group = $1 AND known.topic = $2 AND known.partition = letter.partition
      AND known.\"offset\" = letter.\"offset\" AND known.redriven_at IS NULL)
ORDER BY letter.partition, letter.\"offset\"
ON CONFLICT (consumer_group, topic, partition, \"offset\") DO UPDATE
SET code = excluded.code, detail = excluded.detail, attempts = excluded.attempts, dead_since = now(),
    redriven_at = NULL
WHERE held.redriven_at IS NOT NULL
RETURNING partition, \"offset\"";

/// Writes dead letters and returns those that are new: the ones that belong on the dead letter topic.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    rejected: Vec<Rejected>,
) -> Result<Vec<Rejected>, sqlx::Error> {
    if rejected.is_empty() {
        return Ok(rejected);
    }
    let records = || rejected.iter().map(|letter| &letter.record);
    let rows = sqlx::query(INSERT)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(&origin.stage)
        .bind(records().map(|record| record.partition).collect::<Vec<_>>())
        .bind(records().map(|record| record.offset).collect::<Vec<_>>())
        .bind(
            rejected
                .iter()
                .map(|letter| letter.rejection.code.to_string())
                .collect::<Vec<_>>(),
        )
        .bind(
            rejected
                .iter()
                .map(|letter| storable(&letter.rejection.detail))
                .collect::<Vec<_>>(),
        )
        .bind(records().map(|record| record.key.as_deref()).collect::<Vec<_>>())
        .bind(
            records()
                .map(|record| record.value.as_deref())
                .collect::<Vec<_>>(),
        )
        .bind(
            records()
                .map(|record| array(own_headers(record).map(header_name)))
                .collect::<Vec<_>>(),
        )
        .bind(
            records()
                .map(|record| array(own_headers(record).map(header_value)))
                .collect::<Vec<_>>(),
        )
        .bind(records().map(|record| record.timestamp).collect::<Vec<_>>())
        .bind(records().map(attempts).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let mut new = std::collections::HashSet::with_capacity(rows.len());
    for row in rows {
        new.insert((
            row.try_get::<i32, _>("partition")?,
            row.try_get::<i64, _>("offset")?,
        ));
    }
    let is_new = |letter: &Rejected| new.contains(&(letter.record.partition, letter.record.offset));
    Ok(rejected.into_iter().filter(is_new).collect())
}

/// A record as a table holds it, in columns named as in `streamstage.dead_letter`.
///
/// # Errors
/// When the row lacks one of the columns.
pub fn stored_record(row: &PgRow) -> Result<Record, sqlx::Error> {
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
    })
}

/// A detail may quote the record, and the record may hold what PostgreSQL's text cannot.
fn storable(detail: &str) -> String {
    detail.replace('\0', "\u{fffd}")
}

/// How often this record has been tried, this time included.
#[must_use]
pub fn attempts(record: &Record) -> i32 {
    let before = record
        .header(ATTEMPTS_HEADER)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    before.unwrap_or(0_i32).saturating_add(1)
}

/// The text of a PostgreSQL array: a batch's rows hold arrays of different lengths, so each casts its own.
pub(crate) fn array(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    format!("{{{}}}", elements.join(","))
}

/// A header's name as an element of such a text.
pub(crate) fn header_name(header: &Header) -> String {
    format!(
        "\"{}\"",
        storable(&header.name).replace('\\', "\\\\").replace('"', "\\\"")
    )
}

/// A header's value as an element of such a text, in PostgreSQL's hexadecimal form of `bytea`.
pub(crate) fn header_value(header: &Header) -> String {
    let hex = |value: &Vec<u8>| format!("\"\\\\x{}\"", crate::decode::to_hex(value));
    header.value.as_ref().map_or_else(|| "NULL".to_owned(), hex)
}

/// The headers that the record came with from its producer: a redriven one has gained others.
fn own_headers(record: &Record) -> impl Iterator<Item = &Header> {
    record
        .headers
        .iter()
        .filter(|header| !header.name.starts_with(HEADER_PREFIX))
}

/// The headers of the copy on the dead letter topic: the record's own, and what is wrong with it.
#[must_use]
pub fn headers(origin: &Origin, letter: &Rejected) -> Vec<Header> {
    let record = &letter.record;
    let timestamp = record
        .timestamp
        .map_or_else(String::new, |timestamp| timestamp.to_string());
    let added = [
        ("code", letter.rejection.code.to_string()),
        ("detail", letter.rejection.detail.clone()),
        ("stage", origin.stage.clone()),
        ("topic", origin.topic.clone()),
        ("partition", record.partition.to_string()),
        ("offset", record.offset.to_string()),
        ("timestamp", timestamp),
        ("attempts", attempts(record).to_string()),
    ];
    own_headers(record)
        .cloned()
        .chain(
            added
                .into_iter()
                .map(|(name, value)| Header::text(&format!("{HEADER_PREFIX}{name}"), &value)),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::{Code, Rejection};

    fn letter(headers: Vec<Header>) -> Rejected {
        let record = Record {
            partition: 3,
            offset: 14,
            timestamp: Some(15),
            headers,
            ..Record::default()
        };
        Rejected {
            record,
            rejection: Rejection::new(Code::ParseError, "byte 0: expected value"),
        }
    }

    #[test]
    fn a_dead_letter_keeps_its_headers_and_gains_the_error() {
        let origin = Origin {
            stage: "stg".into(),
            consumer_group: "orders.stg".into(),
            topic: "orders".into(),
        };
        let headers = headers(
            &origin,
            &letter(vec![Header::text("trace", "a"), Header::text("trace", "b")]),
        );
        let shown: Vec<String> = headers
            .iter()
            .map(|header| {
                format!(
                    "{}={}",
                    header.name,
                    String::from_utf8_lossy(header.value.as_deref().unwrap_or(b"-"))
                )
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn a_redriven_record_counts_on() {
        assert_eq!(attempts(&letter(Vec::new()).record), 1);
        assert_eq!(
            attempts(&letter(vec![Header::text(ATTEMPTS_HEADER, "4")]).record),
            5
        );
        assert_eq!(
            attempts(&letter(vec![Header::text(ATTEMPTS_HEADER, "many")]).record),
            1
        );
    }
}
