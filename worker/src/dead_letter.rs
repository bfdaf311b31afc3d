#![expect(clippy::disallowed_types, reason = "edge: writes dead letters to PostgreSQL")]
//! Dead letters: rejected records, stored with their bytes unchanged, one row per source offset.
//!
//! The transaction that writes the row also advances the position past the record. It commits only after Kafka has
//! acknowledged the copy on the dead letter topic. Therefore neither the row nor the copy can be lost.

use std::collections::HashSet;

use sqlx::{PgConnection, Row as _};

use crate::batch::RejectedRecord;
use crate::record::{Header, Record};
use crate::record_columns::{ERROR_HEADER_PREFIX, bind_records, is_producer_header, replace_nul};
use crate::statement;

/// Header with the number of attempts. A redriven record carries the count of its earlier attempts.
pub const ATTEMPTS_HEADER: &str = "streamstage-error-attempts";

/// Consumer group and topic that a stage reads, and its name: the owner of positions, dead letters and pending orders.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Name of the stage.
    pub stage: String,
    /// Consumer group of the stage.
    pub consumer_group: String,
    /// Source topic of the stage.
    pub topic: String,
}

impl Origin {
    /// Record source of the stage's rows, for the column `load_src`: `kafka:<topic>`.
    #[must_use]
    pub fn record_source(&self) -> String {
        format!("kafka:{}", self.topic)
    }
}

/// Place that a rejected record came from. It decides whether a redriven record can fail again at the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectedFrom {
    /// Read from the topic. A redrive produces it at a new offset, so its old offset never fails again.
    Topic,
    /// A pending order in PostgreSQL. A redrive makes it pending again, so it can fail again at the same offset.
    Pending,
}

/// Inserts one row per source offset, no matter how often the offset is read. `$14` is true if a redriven row may become
/// a dead letter again.
const INSERT: &str = "\
INSERT INTO streamstage.dead_letter AS stored (consumer_group, topic, stage, partition, \"offset\", code, detail,
    key, value, header_names, header_values, record_timestamp, attempts)
SELECT $1, $2, $13, rejected.partition, rejected.\"offset\", rejected.code, rejected.detail, rejected.key,
    rejected.value, rejected.names::text[], rejected.values::bytea[],
    timestamptz 'epoch' + rejected.record_timestamp * interval '1 millisecond', rejected.attempts
FROM unnest($3::integer[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::bigint[],
    $10::text[], $11::text[], $12::integer[])
    AS rejected (partition, \"offset\", key, value, names, values, record_timestamp, code, detail, attempts)
WHERE NOT EXISTS (
    SELECT FROM streamstage.dead_letter AS existing
    WHERE existing.consumer_group = $1 AND existing.topic = $2 AND existing.partition = rejected.partition
      AND existing.\"offset\" = rejected.\"offset\" AND (existing.redriven_at IS NULL OR NOT $14))
ORDER BY rejected.partition, rejected.\"offset\"
ON CONFLICT (consumer_group, topic, partition, \"offset\") DO UPDATE
SET code = excluded.code, detail = excluded.detail, attempts = excluded.attempts, dead_lettered_at = now(),
    redriven_at = NULL
WHERE stored.redriven_at IS NOT NULL AND $14
RETURNING partition, \"offset\"";

/// Stores dead letters and returns those that are new, which are the ones to publish on the dead letter topic.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    rejected: Vec<RejectedRecord>,
    from: RejectedFrom,
) -> Result<Vec<RejectedRecord>, sqlx::Error> {
    if rejected.is_empty() {
        return Ok(rejected);
    }
    let query = statement::query(INSERT)
        .bind(&origin.consumer_group)
        .bind(&origin.topic);
    let records = rejected.iter().map(|rejected| &rejected.record);
    let query = bind_records(query, records, is_producer_header);
    let column = |text: fn(&RejectedRecord) -> String| rejected.iter().map(text).collect::<Vec<_>>();
    let rows = query
        .bind(column(|rejected| rejected.rejection.code.to_string()))
        .bind(column(|rejected| replace_nul(&rejected.rejection.detail)))
        .bind(
            rejected
                .iter()
                .map(|rejected| count_attempts(&rejected.record))
                .collect::<Vec<_>>(),
        )
        .bind(&origin.stage)
        .bind(from == RejectedFrom::Pending)
        .fetch_all(connection)
        .await?;
    let mut new = HashSet::with_capacity(rows.len());
    for row in rows {
        new.insert((
            row.try_get::<i32, _>("partition")?,
            row.try_get::<i64, _>("offset")?,
        ));
    }
    let is_new =
        |rejected: &RejectedRecord| new.contains(&(rejected.record.partition, rejected.record.offset));
    Ok(rejected.into_iter().filter(is_new).collect())
}

/// Returns the number of attempts to process this record, including the current one.
#[must_use]
pub fn count_attempts(record: &Record) -> i32 {
    let earlier = record
        .header(ATTEMPTS_HEADER)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    earlier.unwrap_or(0_i32).saturating_add(1)
}

/// Returns the headers of the copy on the dead letter topic: those of the producer, and the description of the error.
#[must_use]
pub fn build_headers(origin: &Origin, rejected: &RejectedRecord) -> Vec<Header> {
    let record = &rejected.record;
    let timestamp = record
        .timestamp
        .map_or_else(String::new, |timestamp| timestamp.to_string());
    let error = [
        ("code", rejected.rejection.code.to_string()),
        ("detail", rejected.rejection.detail.clone()),
        ("stage", origin.stage.clone()),
        ("topic", origin.topic.clone()),
        ("partition", record.partition.to_string()),
        ("offset", record.offset.to_string()),
        ("timestamp", timestamp),
        ("attempts", count_attempts(record).to_string()),
    ];
    let error = error
        .into_iter()
        .map(|(name, value)| Header::text(&format!("{ERROR_HEADER_PREFIX}{name}"), &value));
    let producer = record.headers.iter().filter(|header| is_producer_header(header));
    producer.cloned().chain(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::{Code, Rejection};

    fn rejected_record(headers: Vec<Header>) -> RejectedRecord {
        let record = Record {
            partition: 3,
            offset: 14,
            timestamp: Some(15),
            headers,
            ..Record::default()
        };
        RejectedRecord {
            record,
            rejection: Rejection::new(Code::ParseError, "byte 0: expected value"),
        }
    }

    #[test]
    fn a_dead_letter_has_its_original_headers_and_those_of_the_error() {
        let origin = Origin {
            stage: "stg".into(),
            consumer_group: "orders.stg".into(),
            topic: "orders".into(),
        };
        let headers = build_headers(
            &origin,
            &rejected_record(vec![Header::text("trace", "a"), Header::text("trace", "b")]),
        );
        let lines: Vec<String> = headers
            .iter()
            .map(|header| {
                format!(
                    "{}={}",
                    header.name,
                    String::from_utf8_lossy(header.value.as_deref().unwrap_or(b"-"))
                )
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_redriven_record_continues_its_attempt_count() {
        assert_eq!(count_attempts(&rejected_record(Vec::new()).record), 1);
        assert_eq!(
            count_attempts(&rejected_record(vec![Header::text(ATTEMPTS_HEADER, "4")]).record),
            5
        );
        assert_eq!(
            count_attempts(&rejected_record(vec![Header::text(ATTEMPTS_HEADER, "many")]).record),
            1
        );
    }
}
