#![expect(clippy::disallowed_types, reason = "edge: writes dead letters to PostgreSQL")]
//! Dead letters: records that could not be taken, kept untouched, one row per source offset.
//!
//! The row is written in the transaction that moves the position past the record, and the copy on the dead letter
//! topic is acknowledged before that transaction commits: neither can be lost.

use sqlx::{PgConnection, Row as _};

use crate::batch::Rejected;
use crate::record::{Header, Record};
use crate::stored::{self, ERROR_HEADERS, is_own, storable};

/// Header that counts how often a record has been tried; a redriven record brings its own.
pub const ATTEMPTS_HEADER: &str = "streamstage-error-attempts";

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

impl Origin {
    /// What `load_src` says of its rows.
    #[must_use]
    pub fn load_source(&self) -> String {
        format!("kafka:{}", self.topic)
    }
}

/// By which way a record came to its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It was read from the topic. Redriven, it comes at a new offset: its old one never dies again.
    Topic,
    /// It waited in the database. Redriven, it waits there again, and may die again at the same offset.
    Wait,
}

/// One row per source offset, however often it is read. `$14`: whether one that was redriven may be dead again.
const INSERT: &str = "\
INSERT INTO streamstage.dead_letter AS held (consumer_group, topic, stage, partition, \"offset\", code, detail,
    key, value, header_names, header_values, record_timestamp, attempts)
SELECT $1, $2, $13, letter.partition, letter.\"offset\", letter.code, letter.detail, letter.key, letter.value,
    letter.names::text[], letter.values::bytea[],
    timestamptz 'epoch' + letter.record_timestamp * interval '1 millisecond', letter.attempts
FROM unnest($3::integer[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::bigint[],
    $10::text[], $11::text[], $12::integer[])
    AS letter (partition, \"offset\", key, value, names, values, record_timestamp, code, detail, attempts)
WHERE NOT EXISTS (
    SELECT FROM streamstage.dead_letter AS known
    WHERE known.consumer_group = $1 AND known.topic = $2 AND known.partition = letter.partition
      AND known.\"offset\" = letter.\"offset\" AND (known.redriven_at IS NULL OR NOT $14))
ORDER BY letter.partition, letter.\"offset\"
ON CONFLICT (consumer_group, topic, partition, \"offset\") DO UPDATE
SET code = excluded.code, detail = excluded.detail, attempts = excluded.attempts, dead_since = now(),
    redriven_at = NULL
WHERE held.redriven_at IS NOT NULL AND $14
RETURNING partition, \"offset\"";

/// Writes dead letters and returns those that are new: the ones that belong on the dead letter topic.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    rejected: Vec<Rejected>,
    way: Way,
) -> Result<Vec<Rejected>, sqlx::Error> {
    if rejected.is_empty() {
        return Ok(rejected);
    }
    let query = sqlx::query(INSERT)
        .bind(&origin.consumer_group)
        .bind(&origin.topic);
    let query = stored::bind(query, rejected.iter().map(|letter| &letter.record), is_own);
    let column = |of: fn(&Rejected) -> String| rejected.iter().map(of).collect::<Vec<_>>();
    let rows = query
        .bind(column(|letter| letter.rejection.code.to_string()))
        .bind(column(|letter| storable(&letter.rejection.detail)))
        .bind(
            rejected
                .iter()
                .map(|letter| attempts(&letter.record))
                .collect::<Vec<_>>(),
        )
        .bind(&origin.stage)
        .bind(way == Way::Wait)
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

/// How often this record has been tried, this time included.
#[must_use]
pub fn attempts(record: &Record) -> i32 {
    let before = record
        .header(ATTEMPTS_HEADER)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    before.unwrap_or(0_i32).saturating_add(1)
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
    let own = record.headers.iter().filter(|header| is_own(header));
    own.cloned()
        .chain(
            added
                .into_iter()
                .map(|(name, value)| Header::text(&format!("{ERROR_HEADERS}{name}"), &value)),
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
