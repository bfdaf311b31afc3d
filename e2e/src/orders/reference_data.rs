//! Loads reference data into Redis: the key is the id, the value is JSON.
#![expect(clippy::disallowed_types, reason = "edge: writes reference data to Redis")]

use std::time::Duration;

use anyhow::{Context, Result};

/// Entries per `MSET`. A user has about a hundred bytes, a restaurant a few kilobytes.
const ENTRIES_PER_MSET: usize = 500;
/// Timeout for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes all entries and replaces existing ones with the same id; returns the number of entries.
///
/// # Errors
/// When Redis is unreachable or rejects the write.
pub async fn load<'e>(redis_url: &str, entries: impl Iterator<Item = (&'e str, String)>) -> Result<usize> {
    let entries: Vec<_> = entries.collect();
    let mut connection = connect(redis_url).await?;
    let mut pipeline = redis::pipe();
    for chunk in entries.chunks(ENTRIES_PER_MSET) {
        pipeline.mset(chunk).ignore();
    }
    pipeline
        .query_async::<()>(&mut connection)
        .await
        .context("Redis rejected the reference data")?;
    Ok(entries.len())
}

/// Runs a Redis command that changes entries, such as `SET` or `DEL`; the arguments may be any bytes.
///
/// # Errors
/// When Redis is unreachable or rejects the command.
pub async fn run(redis_url: &str, command: &str, arguments: &[&[u8]]) -> Result<()> {
    let mut connection = connect(redis_url).await?;
    let mut command = redis::cmd(command);
    for argument in arguments {
        command.arg(*argument);
    }
    let _response: redis::Value = command.query_async(&mut connection).await?;
    Ok(())
}

/// Returns true if a Redis database has no keys.
///
/// # Errors
/// When Redis is unreachable.
pub async fn is_empty(redis_url: &str) -> Result<bool> {
    let mut connection = connect(redis_url).await?;
    let keys: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await?;
    Ok(keys == 0)
}

/// Removes every key of a Redis database. Blocks for a moment.
///
/// # Errors
/// When Redis is unreachable.
pub fn clear(redis_url: &str) -> Result<()> {
    let mut connection = redis::Client::open(redis_url)?.get_connection_with_timeout(CONNECT_TIMEOUT)?;
    redis::cmd("FLUSHDB").exec(&mut connection)?;
    Ok(())
}

async fn connect(redis_url: &str) -> Result<redis::aio::MultiplexedConnection> {
    let client = redis::Client::open(redis_url).with_context(|| format!("{redis_url} is not a Redis URL"))?;
    let connection = client.get_multiplexed_async_connection().await;
    connection
        .with_context(|| format!("cannot connect to Redis at {redis_url}: start it, or set another URL"))
}
