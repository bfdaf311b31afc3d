#![expect(
    clippy::disallowed_types,
    reason = "edge: queries and updates dead letters in PostgreSQL"
)]
//! Selection of dead letters by code, time, partition, offset and key, for the commands of an operator.

use std::ops::Range;
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::headers::ErrorDescription;
use super::origin::Origin;
use crate::record::{Record, RecordId};
use crate::record_columns::{Query, record_from_row};
use crate::statement;

/// Largest sum of the records of one batch; a single larger record is a batch of its own.
const MAX_BATCH_BYTES: i64 = 8 << 20;

/// Dead letters to select. The default selects those that are neither redriven nor discarded.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Codes; empty selects all.
    pub codes: Vec<String>,
    /// Earliest time of the rejection, in microseconds since the Unix epoch.
    pub since: Option<i64>,
    /// Time before which the record was rejected, in microseconds since the Unix epoch.
    pub until: Option<i64>,
    /// Source partition.
    pub partition: Option<i32>,
    /// Source offsets.
    pub offsets: Option<Range<i64>>,
    /// Key of the record.
    pub key: Option<Vec<u8>>,
    /// Kafka's ID of the topic.
    pub topic_id: Option<Uuid>,
    /// True to include redriven and discarded dead letters.
    pub all: bool,
}

/// Condition with the parameters of [`bind_filter`].
const CONDITION: &str = "\
topic = $1 AND (cardinality($2::text[]) = 0 OR code = ANY($2))
    AND ($3::bigint IS NULL OR dead_lettered_at >= timestamptz 'epoch' + $3 * interval '1 microsecond')
    AND ($4::bigint IS NULL OR dead_lettered_at < timestamptz 'epoch' + $4 * interval '1 microsecond')
    AND ($5::integer IS NULL OR partition = $5)
    AND ($6::bigint IS NULL OR \"offset\" >= $6) AND ($7::bigint IS NULL OR \"offset\" < $7)
    AND ($8::bytea IS NULL OR key = $8) AND ($9::uuid IS NULL OR topic_id = $9)
    AND ($10 OR redriven_at IS NULL AND discarded_at IS NULL)";

/// Condition for a dead letter whose value the consumer has left out; without it, the record is a tombstone.
const WITHOUT_VALUE: &str = "(value IS NULL AND code IN ('TooLarge', 'Undecodable'))";

/// Columns of a [`DeadLetter`] without its record.
const DESCRIPTION: &str = "\
topic_id, partition, \"offset\", code, detail, stage, attempts, record_bytes, copy_error, discard_reason,
    to_char(dead_lettered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS dead_lettered_at,
    CASE WHEN discarded_at IS NOT NULL THEN 'discarded' WHEN redriven_at IS NOT NULL THEN 'redriven' ELSE 'waiting' END
        AS state,
    copied_at IS NOT NULL AS is_copied";

static COUNT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT code, count(*), coalesce(sum(record_bytes), 0)::bigint FROM streamstage.dead_letter
         WHERE {CONDITION} GROUP BY code ORDER BY code COLLATE \"C\""
    )
});

static COUNT_WITHOUT_VALUE: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT count(*) FROM streamstage.dead_letter WHERE {CONDITION} AND {WITHOUT_VALUE}")
});

static LIST: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {DESCRIPTION} FROM streamstage.dead_letter WHERE {CONDITION}
         ORDER BY partition, \"offset\", topic_id LIMIT $11"
    )
});

static FETCH: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {DESCRIPTION}, key, value, header_names, header_values, record_timestamp_ms
         FROM streamstage.dead_letter WHERE {CONDITION} ORDER BY partition, \"offset\", topic_id LIMIT 1"
    )
});

static LOCK: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH selected AS MATERIALIZED (
             SELECT topic_id, partition, \"offset\", record_bytes FROM streamstage.dead_letter
             WHERE {CONDITION} AND NOT {WITHOUT_VALUE} AND (partition, \"offset\", topic_id) > ($12, $13, $14)
             ORDER BY partition, \"offset\", topic_id LIMIT $11 FOR UPDATE
         ), bounded AS (
             SELECT topic_id, partition, \"offset\",
                 sum(record_bytes) OVER (ORDER BY partition, \"offset\", topic_id) - record_bytes AS bytes_before
             FROM selected
         )
         SELECT letter.topic_id, letter.partition, letter.\"offset\", key, value, header_names, header_values,
             record_timestamp_ms, attempts
         FROM bounded JOIN streamstage.dead_letter AS letter
             ON letter.topic = $1 AND letter.topic_id = bounded.topic_id
                 AND letter.partition = bounded.partition AND letter.\"offset\" = bounded.\"offset\"
         WHERE bounded.bytes_before < $15
         ORDER BY letter.partition, letter.\"offset\", letter.topic_id"
    )
});

const MARK_REDRIVEN: &str = "\
UPDATE streamstage.dead_letter AS stored SET redriven_at = now()
FROM unnest($2::uuid[], $3::integer[], $4::bigint[]) AS redriven (topic_id, partition, \"offset\")
WHERE topic = $1 AND stored.topic_id = redriven.topic_id
    AND stored.partition = redriven.partition AND stored.\"offset\" = redriven.\"offset\"";

static DISCARD: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH selected AS MATERIALIZED (
             SELECT topic_id, partition, \"offset\" FROM streamstage.dead_letter
             WHERE {CONDITION}
             ORDER BY partition, \"offset\", topic_id LIMIT $11 FOR UPDATE
         )
         UPDATE streamstage.dead_letter AS letter SET discarded_at = now(), discard_reason = $12
         FROM selected
         WHERE letter.topic = $1 AND letter.topic_id = selected.topic_id
             AND letter.partition = selected.partition AND letter.\"offset\" = selected.\"offset\""
    )
});

/// Number and size of the dead letters of one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeCount {
    /// The code.
    pub code: String,
    /// Number of dead letters.
    pub letters: i64,
    /// Bytes of their records.
    pub bytes: i64,
}

/// A dead letter without its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Topic ID, partition and offset of the record.
    pub id: RecordId,
    /// Code, detail, stage and attempts.
    pub error: ErrorDescription,
    /// Bytes of the record.
    pub record_bytes: i64,
    /// Time of the rejection, as RFC 3339 in UTC.
    pub dead_lettered_at: String,
    /// `waiting`, `redriven` or `discarded`.
    pub state: String,
    /// Reason of the operator who discarded it.
    pub discard_reason: Option<String>,
    /// True if its copy is on the dead letter topic.
    pub is_copied: bool,
    /// Error of the last attempt to produce the copy.
    pub copy_error: Option<String>,
}

/// Counts the selected dead letters by code.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn count(
    connection: &mut PgConnection,
    origin: &Origin,
    filter: &Filter,
) -> Result<Vec<CodeCount>, sqlx::Error> {
    let rows = bind_filter(&COUNT, origin, filter).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(CodeCount {
                code: row.try_get(0)?,
                letters: row.try_get(1)?,
                bytes: row.try_get(2)?,
            })
        })
        .collect()
}

/// Counts the selected dead letters whose values the consumer has left out. They cannot be redriven.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn count_without_value(
    connection: &mut PgConnection,
    origin: &Origin,
    filter: &Filter,
) -> Result<i64, sqlx::Error> {
    let row = bind_filter(&COUNT_WITHOUT_VALUE, origin, filter);
    row.fetch_one(connection).await?.try_get(0)
}

/// Returns up to `limit` of the selected dead letters, by partition and offset.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn list(
    connection: &mut PgConnection,
    origin: &Origin,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let rows = bind_filter(&LIST, origin, filter)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(dead_letter_from_row).collect()
}

/// Returns the first of the selected dead letters with its record; `None` if the filter selects nothing.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn fetch_first(
    connection: &mut PgConnection,
    origin: &Origin,
    filter: &Filter,
) -> Result<Option<(DeadLetter, Record)>, sqlx::Error> {
    let row = bind_filter(&FETCH, origin, filter)
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok((dead_letter_from_row(&row)?, record_from_row(&row)?)))
        .transpose()
}

/// Locks up to `limit` of the selected dead letters with a value after the record `after`, of at most 8 MiB in sum. Waits
/// for a worker that is about to copy one of them, which must not be left out. Returns their records with their numbers of attempts, by partition and offset.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn lock_batch(
    connection: &mut PgConnection,
    origin: &Origin,
    filter: &Filter,
    after: RecordId,
    limit: i64,
) -> Result<Vec<(Record, i32)>, sqlx::Error> {
    let (topic_id, partition, offset) = after;
    let rows = bind_filter(&LOCK, origin, filter)
        .bind(limit)
        .bind(partition)
        .bind(offset)
        .bind(topic_id)
        .bind(MAX_BATCH_BYTES)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| Ok((record_from_row(row)?, row.try_get("attempts")?)))
        .collect()
}

/// Marks dead letters as redriven.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn mark_redriven(
    connection: &mut PgConnection,
    origin: &Origin,
    ids: &[RecordId],
) -> Result<(), sqlx::Error> {
    let query = statement::query(MARK_REDRIVEN)
        .bind(&origin.topic)
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(ids.iter().map(|id| id.1).collect::<Vec<_>>())
        .bind(ids.iter().map(|id| id.2).collect::<Vec<_>>());
    query.execute(connection).await.map(drop)
}

/// Discards up to `limit` of the selected dead letters, and returns their number. The rows stay.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn discard(
    connection: &mut PgConnection,
    origin: &Origin,
    filter: &Filter,
    limit: i64,
    reason: &str,
) -> Result<u64, sqlx::Error> {
    let query = bind_filter(&DISCARD, origin, filter).bind(limit).bind(reason);
    Ok(query.execute(connection).await?.rows_affected())
}

/// Time of the server in microseconds since the Unix epoch. Dead letters have times of the same clock.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn server_time(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    statement::query_scalar("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
        .fetch_one(connection)
        .await
}

/// Binds the topic and the filter as `$1` to `$10`.
fn bind_filter<'q>(sql: &'q str, origin: &'q Origin, filter: &'q Filter) -> Query<'q> {
    statement::query(AssertSqlSafe(sql))
        .bind(&origin.topic)
        .bind(&filter.codes)
        .bind(filter.since)
        .bind(filter.until)
        .bind(filter.partition)
        .bind(filter.offsets.as_ref().map(|offsets| offsets.start))
        .bind(filter.offsets.as_ref().map(|offsets| offsets.end))
        .bind(filter.key.as_deref())
        .bind(filter.topic_id)
        .bind(filter.all)
}

fn dead_letter_from_row(row: &sqlx::postgres::PgRow) -> Result<DeadLetter, sqlx::Error> {
    Ok(DeadLetter {
        id: (
            row.try_get("topic_id")?,
            row.try_get("partition")?,
            row.try_get("offset")?,
        ),
        error: ErrorDescription {
            code: row.try_get("code")?,
            detail: row.try_get("detail")?,
            stage: row.try_get("stage")?,
            attempts: row.try_get("attempts")?,
        },
        record_bytes: row.try_get("record_bytes")?,
        dead_lettered_at: row.try_get("dead_lettered_at")?,
        state: row.try_get("state")?,
        discard_reason: row.try_get("discard_reason")?,
        is_copied: row.try_get("is_copied")?,
        copy_error: row.try_get("copy_error")?,
    })
}
