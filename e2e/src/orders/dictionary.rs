//! Loads the dictionary into Redis: key = id, value = JSON.
#![expect(clippy::disallowed_types, reason = "edge: writes the dictionary into Redis")]

use std::time::Duration;

use anyhow::{Context, Result};

/// Entries that go into one MSET; each is some hundred bytes, a restaurant a few kilobytes.
const AT_ONCE: usize = 500;
/// How long Redis may take to let somebody in.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes every entry, replacing what stands under its id; returns how many there were.
///
/// # Errors
/// When Redis cannot be reached or refuses.
pub async fn load<'e>(redis_url: &str, entries: impl Iterator<Item = (&'e str, String)>) -> Result<usize> {
    let entries: Vec<_> = entries.collect();
    let mut connection = connect(redis_url).await?;
    let mut pipeline = redis::pipe();
    for chunk in entries.chunks(AT_ONCE) {
        pipeline.mset(chunk).ignore();
    }
    pipeline
        .query_async::<()>(&mut connection)
        .await
        .context("Redis refuses the dictionary")?;
    Ok(entries.len())
}

/// Whether a Redis database holds nothing.
///
/// # Errors
/// When Redis cannot be reached or refuses.
pub async fn is_empty(redis_url: &str) -> Result<bool> {
    let mut connection = connect(redis_url).await?;
    let keys: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await?;
    Ok(keys == 0)
}

/// Removes every key of a Redis database. Blocks for a moment.
///
/// # Errors
/// When Redis cannot be reached or refuses.
pub fn empty(redis_url: &str) -> Result<()> {
    let mut connection = redis::Client::open(redis_url)?.get_connection_with_timeout(PATIENCE)?;
    redis::cmd("FLUSHDB").exec(&mut connection)?;
    Ok(())
}

async fn connect(redis_url: &str) -> Result<redis::aio::MultiplexedConnection> {
    let client =
        redis::Client::open(redis_url).with_context(|| format!("{redis_url} is not the URL of a Redis"))?;
    let connected = client.get_multiplexed_async_connection().await;
    connected.with_context(|| format!("no Redis at {redis_url}; start it, or name another"))
}
