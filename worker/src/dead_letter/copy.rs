#![expect(
    clippy::disallowed_types,
    reason = "edge: reads and updates dead letters in PostgreSQL"
)]
//! State of the copies on the dead letter topic: which rows are due, and the result of each attempt.
//!
//! A claim postpones the rows before they are produced, in a transaction of its own. So no lock is held while Kafka works,
//! other workers skip the rows, and a crash delays them only. A copy may be produced twice after a crash.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::headers::ErrorDescription;
use super::origin::Origin;
use crate::health::PendingCopies;
use crate::record::{Record, RecordId};
use crate::record_columns::{record_from_row, replace_nul};
use crate::statement;

/// Time that a worker has for the copies it claimed; longer than Kafka's client needs to give a result.
const CLAIM_SECONDS: i32 = 60;
/// Largest sum of the records of one claim; a single larger record is claimed alone.
const MAX_CLAIM_BYTES: i64 = 4 << 20;
/// Count at which [`count_pending`] stops, so that its cost is bounded.
const MAX_PENDING_COUNT: i64 = 100_000;

const CLAIM: &str = "\
WITH due AS MATERIALIZED (
    SELECT topic_id, partition, \"offset\", record_bytes, next_copy_at
    FROM streamstage.dead_letter
    WHERE topic = $1 AND copied_at IS NULL AND discarded_at IS NULL AND next_copy_at <= now()
    ORDER BY next_copy_at LIMIT $2 FOR UPDATE SKIP LOCKED
), bounded AS (
    SELECT topic_id, partition, \"offset\",
        sum(record_bytes) OVER (ORDER BY next_copy_at, partition, \"offset\", topic_id) - record_bytes AS bytes_before
    FROM due
)
UPDATE streamstage.dead_letter AS letter
SET copy_attempts = letter.copy_attempts + 1, next_copy_at = now() + $4 * interval '1 second'
FROM bounded
WHERE letter.topic = $1 AND letter.topic_id = bounded.topic_id
    AND letter.partition = bounded.partition AND letter.\"offset\" = bounded.\"offset\" AND bounded.bytes_before < $3
RETURNING letter.topic_id, letter.partition, letter.\"offset\", letter.key, letter.value, letter.header_names,
    letter.header_values, letter.record_timestamp_ms, letter.code, letter.detail, letter.stage, letter.attempts,
    letter.copy_attempts";

/// The number of attempts identifies the claim: a letter that was redriven and rejected again meanwhile has another one.
const STORE_RESULTS: &str = "\
UPDATE streamstage.dead_letter AS letter
SET copied_at = CASE WHEN result.error IS NULL THEN now() END, copy_error = result.error,
    next_copy_at = now() + least(result.max_delay_seconds, 2 ^ least(letter.copy_attempts, 20)) * interval '1 second'
FROM unnest($2::uuid[], $3::integer[], $4::bigint[], $5::integer[], $6::text[], $7::double precision[])
    AS result (topic_id, partition, \"offset\", copy_attempts, error, max_delay_seconds)
WHERE letter.topic = $1 AND letter.topic_id = result.topic_id
    AND letter.partition = result.partition AND letter.\"offset\" = result.\"offset\"
    AND letter.copy_attempts = result.copy_attempts";

const COUNT_PENDING: &str = "\
SELECT count(*), max(copy_error) FROM (
    SELECT copy_error FROM streamstage.dead_letter
    WHERE topic = $1 AND copied_at IS NULL AND discarded_at IS NULL LIMIT $2
) AS pending";

/// A dead letter whose copy is due.
pub struct DueCopy {
    /// The record as received.
    pub record: Record,
    /// Reason for which it is a dead letter.
    pub error: ErrorDescription,
    /// Number of attempts to produce the copy, the current one included.
    pub copy_attempts: i32,
}

/// Result of an attempt to produce a copy.
pub struct CopyResult {
    /// Record of the dead letter.
    pub id: RecordId,
    /// Number of attempts, as [`DueCopy`] has it.
    pub copy_attempts: i32,
    /// Cause and largest delay of the next attempt; `None` if the broker acknowledged the copy.
    pub failure: Option<(String, Duration)>,
}

/// Claims up to `limit` copies that are due, the longest overdue first, of at most 4 MiB in sum.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn claim_due(
    connection: &mut PgConnection,
    origin: &Origin,
    limit: i64,
) -> Result<Vec<DueCopy>, sqlx::Error> {
    let rows = statement::query(CLAIM)
        .bind(&origin.topic)
        .bind(limit)
        .bind(MAX_CLAIM_BYTES)
        .bind(CLAIM_SECONDS)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(DueCopy {
                record: record_from_row(row)?,
                error: ErrorDescription {
                    code: row.try_get("code")?,
                    detail: row.try_get("detail")?,
                    stage: row.try_get("stage")?,
                    attempts: row.try_get("attempts")?,
                },
                copy_attempts: row.try_get("copy_attempts")?,
            })
        })
        .collect()
}

/// Stores the results of claimed copies. The delay after a failure doubles with each attempt, up to its largest delay.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn store_results(
    connection: &mut PgConnection,
    origin: &Origin,
    results: &[CopyResult],
) -> Result<(), sqlx::Error> {
    let topic_ids = results.iter().map(|result| result.id.0);
    let partitions = results.iter().map(|result| result.id.1);
    let offsets = results.iter().map(|result| result.id.2);
    let attempts = results.iter().map(|result| result.copy_attempts);
    let failures = results.iter().map(|result| result.failure.as_ref());
    let errors = failures
        .clone()
        .map(|failure| failure.map(|(cause, _)| replace_nul(cause)));
    let delays = failures.map(|failure| failure.map_or(0.0, |(_, delay)| delay.as_secs_f64()));
    statement::query(STORE_RESULTS)
        .bind(&origin.topic)
        .bind(topic_ids.collect::<Vec<_>>())
        .bind(partitions.collect::<Vec<_>>())
        .bind(offsets.collect::<Vec<_>>())
        .bind(attempts.collect::<Vec<_>>())
        .bind(errors.collect::<Vec<_>>())
        .bind(delays.collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Counts the dead letters whose copy is not produced yet.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn count_pending(
    connection: &mut PgConnection,
    origin: &Origin,
) -> Result<PendingCopies, sqlx::Error> {
    let (count, error): (i64, Option<String>) = statement::query_as(COUNT_PENDING)
        .bind(&origin.topic)
        .bind(MAX_PENDING_COUNT)
        .fetch_one(connection)
        .await?;
    Ok(PendingCopies {
        pending: count.unsigned_abs(),
        error,
    })
}
