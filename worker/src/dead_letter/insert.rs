#![expect(clippy::disallowed_types, reason = "edge: writes dead letters to PostgreSQL")]
//! Stores dead letters, in the transaction that advances the position past them.
//!
//! Must never fail for a property of the record: its bytes are stored as bytes, and everything that a type of
//! PostgreSQL might reject is checked or replaced before.

use std::collections::HashSet;

use sqlx::{PgConnection, Row as _};

use super::headers::count_attempts;
use super::origin::Origin;
use crate::batch::RejectedRecord;
use crate::record::RecordId;
use crate::record_columns::{bind_records, is_producer_header, replace_nul};
use crate::rejection::Code;
use crate::statement;

/// Place that a rejected record came from. It decides whether a redriven record can fail again at the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectedFrom {
    /// Read from the topic. A redrive produces it at a new offset, so its old offset never fails again.
    Topic,
    /// A pending order in PostgreSQL. A redrive makes it pending again, so it can fail again at the same offset.
    Pending,
}

/// Inserts one row per source offset, no matter how often the offset is read, and by which consumer group. `$16` is true if a redriven row may become
/// a dead letter again.
const INSERT: &str = "\
INSERT INTO streamstage.dead_letter AS stored (consumer_group, topic, stage, topic_id, partition, \"offset\", code, detail,
    key, value, header_names, header_values, record_bytes, attempts, record_timestamp_ms, record_timestamp)
SELECT $1, $2, $15, rejected.topic_id, rejected.partition, rejected.\"offset\", rejected.code, rejected.detail,
    rejected.key, rejected.value, rejected.names::text[], rejected.values::bytea[], rejected.record_bytes,
    rejected.attempts, rejected.record_timestamp_ms,
    CASE WHEN rejected.record_timestamp_ms BETWEEN -62135596800000 AND 253402300799999
        THEN timestamptz 'epoch' + rejected.record_timestamp_ms * interval '1 millisecond' END
FROM unnest($3::integer[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::bigint[], $10::uuid[],
    $11::bigint[], $12::text[], $13::text[], $14::integer[])
    AS rejected (partition, \"offset\", key, value, names, values, record_timestamp_ms, topic_id, record_bytes, code,
        detail, attempts)
WHERE NOT EXISTS (
    SELECT FROM streamstage.dead_letter AS existing
    WHERE existing.topic = $2 AND existing.topic_id = rejected.topic_id
      AND existing.partition = rejected.partition AND existing.\"offset\" = rejected.\"offset\"
      AND (existing.redriven_at IS NULL OR NOT $16))
ORDER BY rejected.partition, rejected.\"offset\", rejected.topic_id
ON CONFLICT (consumer_group, topic, partition, \"offset\", topic_id) DO UPDATE
SET code = excluded.code, detail = excluded.detail, attempts = excluded.attempts, dead_lettered_at = now(),
    redriven_at = NULL, copied_at = NULL, copy_attempts = 0, copy_error = NULL, next_copy_at = now()
WHERE stored.redriven_at IS NOT NULL AND $16
RETURNING topic_id, partition, \"offset\"";

/// Stores dead letters and returns the codes of those that are new.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    rejected: &[&RejectedRecord],
    from: RejectedFrom,
) -> Result<Vec<Code>, sqlx::Error> {
    if rejected.is_empty() {
        return Ok(Vec::new());
    }
    let query = statement::query(INSERT)
        .bind(&origin.consumer_group)
        .bind(&origin.topic);
    let records = rejected.iter().map(|rejected| &rejected.record);
    let query = bind_records(query, records, is_producer_header);
    let attempts = rejected.iter().map(|rejected| count_attempts(&rejected.record));
    let column = |text: fn(&RejectedRecord) -> String| rejected.iter().copied().map(text).collect::<Vec<_>>();
    let rows = query
        .bind(column(|rejected| rejected.rejection.code.to_string()))
        .bind(column(|rejected| replace_nul(&rejected.rejection.detail)))
        .bind(attempts.collect::<Vec<_>>())
        .bind(&origin.stage)
        .bind(from == RejectedFrom::Pending)
        .fetch_all(connection)
        .await?;
    let mut new: HashSet<RecordId> = HashSet::with_capacity(rows.len());
    for row in rows {
        new.insert((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    let is_new = |rejected: &&&RejectedRecord| new.contains(&rejected.record.id());
    let new = rejected.iter().filter(is_new);
    Ok(new.map(|rejected| rejected.rejection.code).collect())
}
