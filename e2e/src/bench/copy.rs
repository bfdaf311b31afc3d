//! `COPY`, the fastest way into PostgreSQL: the limit of a stage that stores the same data.
#![expect(clippy::disallowed_types, reason = "edge: copies into PostgreSQL")]

use anyhow::Result;
use futures::TryStreamExt as _;
use sqlx::postgres::PgPoolCopyExt as _;
use sqlx::{AssertSqlSafe, PgPool};

use super::measurement::{Counters, Measurement};
use crate::orders::Message;
use crate::pipeline::Pipeline;

/// Bytes per chunk of the data.
const CHUNK_BYTES: usize = 1 << 20;

/// Copies the values of the messages into a table with one column of the type `json`, without an index. It does less than
/// STG: it knows no version, no duplicate and no position.
///
/// # Errors
/// When PostgreSQL rejects a value.
pub(super) async fn copy_messages(pipeline: &Pipeline, messages: &[Message]) -> Result<Measurement> {
    let pool = pipeline.pool();
    sqlx::raw_sql("CREATE TABLE public.copied_messages (payload json NOT NULL)")
        .execute(pool)
        .await?;
    let mut text = Vec::new();
    for message in messages {
        for &byte in message.value.as_deref().unwrap_or_default() {
            if byte == b'\\' {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'\n');
    }
    let measured = copy(
        pool,
        "COPY public.copied_messages FROM STDIN",
        &text,
        messages.len(),
    )
    .await?;
    sqlx::raw_sql("DROP TABLE public.copied_messages")
        .execute(pool)
        .await?;
    Ok(measured)
}

/// Copies the rows of the vault into bare tables, without an index.
///
/// # Errors
/// When PostgreSQL does not answer.
pub(super) async fn copy_vault(pipeline: &Pipeline, records: usize) -> Result<Measurement> {
    let pool = pipeline.pool();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = 'dds' AND table_type = 'BASE TABLE' ORDER BY 1",
    )
    .fetch_all(pool)
    .await?;
    let mut copied: Option<Measurement> = None;
    for table in tables {
        let statement = format!("COPY dds.{table} TO STDOUT (FORMAT binary)");
        let rows: Vec<_> = pool
            .copy_out_raw(&statement)
            .await?
            .map_ok(|chunk| chunk.to_vec())
            .try_collect()
            .await?;
        let create = format!("CREATE TABLE public.copied (LIKE dds.{table})");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(pool).await?;
        let statement = "COPY public.copied FROM STDIN (FORMAT binary)";
        let measured = copy(pool, statement, &rows.concat(), records).await?;
        sqlx::raw_sql("DROP TABLE public.copied").execute(pool).await?;
        copied = Some(match copied {
            None => measured,
            Some(sum) => Measurement {
                seconds: sum.seconds + measured.seconds,
                postgres_micros: sum.postgres_micros + measured.postgres_micros,
                wal_bytes: sum.wal_bytes + measured.wal_bytes,
                table_bytes: sum.table_bytes + measured.table_bytes,
                ..sum
            },
        });
    }
    copied.ok_or_else(|| anyhow::anyhow!("the vault has no table"))
}

async fn copy(pool: &PgPool, statement: &str, data: &[u8], records: usize) -> Result<Measurement> {
    let start = Counters::read(pool, None).await?;
    let mut copy = pool.copy_in_raw(statement).await?;
    for chunk in data.chunks(CHUNK_BYTES) {
        copy.send(chunk).await?;
    }
    copy.finish().await?;
    let end = Counters::read(pool, None).await?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 records")]
    let records = records as f64;
    Ok(start.cost_until(&end, records, 0.0))
}
