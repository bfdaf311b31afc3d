#![expect(clippy::disallowed_types, reason = "edge: stores the positions in PostgreSQL")]
//! Positions in PostgreSQL: `streamstage.position`, one row per consumer group, topic and partition.
//!
//! Each row has the topic ID of the log that its offset belongs to, and the reason of a stop. The transaction of a
//! batch locks the rows of its partitions first, and stores the new offsets together with the effects.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::dead_letter::Origin;
use crate::position::{OffsetRanges, Stop, StopReason, StoredPosition};
use crate::record_columns::Query;
use crate::statement;

const LOCK: &str = "\
SELECT partition, next_offset, topic_id, stop_reason, stop_detail FROM streamstage.position
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3) ORDER BY partition FOR UPDATE";

const READ: &str = "\
SELECT partition, next_offset, topic_id, stop_reason, stop_detail FROM streamstage.position
WHERE consumer_group = $1 AND topic = $2";

/// Serializes the first start of a group: two workers that start at once must not decide it differently.
const LOCK_GROUP: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))";

const ADVANCE: &str = "\
UPDATE streamstage.position AS position
SET next_offset = batch.next_offset,
    processed_offsets = position.processed_offsets + batch.next_offset - position.next_offset
FROM unnest($3::integer[], $4::bigint[]) AS batch (partition, next_offset)
WHERE consumer_group = $1 AND topic = $2 AND position.partition = batch.partition";

const INSERT: &str = "\
INSERT INTO streamstage.position (consumer_group, topic, partition, next_offset, base_offset, topic_id)
SELECT $1, $2, partition, next_offset, next_offset, $5::uuid
FROM unnest($3::integer[], $4::bigint[]) AS start (partition, next_offset)
ORDER BY partition";

const ADOPT: &str = "\
UPDATE streamstage.position SET topic_id = $4
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3) AND topic_id = '00000000-0000-0000-0000-000000000000'";

const STOP: &str = "\
UPDATE streamstage.position SET stop_reason = $4, stop_detail = $5
WHERE consumer_group = $1 AND topic = $2 AND ($3::integer IS NULL OR partition = $3) AND stop_reason IS NULL";

const RESET: &str = "\
UPDATE streamstage.position AS position
SET next_offset = reset.next_offset, base_offset = reset.next_offset - position.processed_offsets, topic_id = $5,
    stop_reason = NULL, stop_detail = NULL
FROM unnest($3::integer[], $4::bigint[]) AS reset (partition, next_offset)
WHERE consumer_group = $1 AND topic = $2 AND position.partition = reset.partition";

/// Reads the stored positions of a batch's partitions, and locks them until the transaction ends.
///
/// # Errors
/// If the statement fails, or a lock is not free within 10 s.
pub async fn lock(
    connection: &mut PgConnection,
    origin: &Origin,
    ranges: &OffsetRanges,
) -> Result<BTreeMap<i32, StoredPosition>, sqlx::Error> {
    let partitions: Vec<i32> = ranges.keys().copied().collect();
    let query = bind_group(LOCK, origin).bind(partitions);
    let rows = query.fetch_all(connection).await?;
    rows.iter().map(stored_position).collect()
}

/// Reads the stored positions of every partition.
///
/// # Errors
/// If the statement fails.
pub async fn read(
    connection: &mut PgConnection,
    origin: &Origin,
) -> Result<BTreeMap<i32, StoredPosition>, sqlx::Error> {
    let rows = bind_group(READ, origin).fetch_all(connection).await?;
    rows.iter().map(stored_position).collect()
}

/// Excludes other workers that start partitions of the group, until the transaction ends.
///
/// # Errors
/// If the statement fails.
pub async fn lock_group(connection: &mut PgConnection, origin: &Origin) -> Result<(), sqlx::Error> {
    bind_group(LOCK_GROUP, origin).execute(connection).await.map(drop)
}

/// Stores new offsets of partitions whose rows are locked.
///
/// # Errors
/// If the statement fails.
pub async fn advance(
    connection: &mut PgConnection,
    origin: &Origin,
    offsets: &BTreeMap<i32, i64>,
) -> Result<(), sqlx::Error> {
    let query = bind_offsets(bind_group(ADVANCE, origin), offsets);
    query.execute(connection).await.map(drop)
}

/// Stores the start offsets of partitions that have no position.
///
/// # Errors
/// If the statement fails, or a partition has a position.
pub async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    topic_id: Uuid,
    starts: &BTreeMap<i32, i64>,
) -> Result<(), sqlx::Error> {
    let query = bind_offsets(bind_group(INSERT, origin), starts).bind(topic_id);
    query.execute(connection).await.map(drop)
}

/// Stores the topic ID of positions whose topic ID is unknown.
///
/// # Errors
/// If the statement fails.
pub async fn adopt(
    connection: &mut PgConnection,
    origin: &Origin,
    topic_id: Uuid,
    partitions: &[i32],
) -> Result<(), sqlx::Error> {
    let query = bind_group(ADOPT, origin).bind(partitions).bind(topic_id);
    query.execute(connection).await.map(drop)
}

/// Stores a stop, so that a restarted worker does not continue. An earlier stop remains.
///
/// # Errors
/// If the statement fails.
pub async fn store_stop(
    connection: &mut PgConnection,
    origin: &Origin,
    stop: &Stop,
) -> Result<(), sqlx::Error> {
    let query = bind_group(STOP, origin)
        .bind(stop.partition)
        .bind(stop.reason.to_string())
        .bind(&stop.detail);
    query.execute(connection).await.map(drop)
}

/// Replaces positions by offsets of the log `topic_id`, and ends their stops.
///
/// # Errors
/// If the statement fails.
pub async fn reset(
    connection: &mut PgConnection,
    origin: &Origin,
    topic_id: Uuid,
    offsets: &BTreeMap<i32, i64>,
) -> Result<(), sqlx::Error> {
    let query = bind_offsets(bind_group(RESET, origin), offsets).bind(topic_id);
    query.execute(connection).await.map(drop)
}

fn stored_position(row: &PgRow) -> Result<(i32, StoredPosition), sqlx::Error> {
    let partition = row.try_get("partition")?;
    let reason: Option<String> = row.try_get("stop_reason")?;
    let detail: Option<String> = row.try_get("stop_detail")?;
    let stop = reason
        .and_then(|name| StopReason::from_name(&name))
        .map(|reason| Stop {
            reason,
            partition: Some(partition),
            detail: detail.unwrap_or_default(),
        });
    let position = StoredPosition {
        next_offset: row.try_get("next_offset")?,
        topic_id: row.try_get("topic_id")?,
        stop,
    };
    Ok((partition, position))
}

/// Binds the consumer group and the topic as `$1` and `$2`.
fn bind_group<'q>(sql: &'static str, origin: &'q Origin) -> Query<'q> {
    statement::query(sql)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
}

/// Binds the partitions and the offsets as `$3` and `$4`.
fn bind_offsets<'q>(query: Query<'q>, offsets: &BTreeMap<i32, i64>) -> Query<'q> {
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = offsets.iter().unzip();
    query.bind(partitions).bind(offsets)
}
