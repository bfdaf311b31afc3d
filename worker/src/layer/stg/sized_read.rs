//! Reads values from Redis in bounded memory: the sizes first, then at most that many bytes of each value.
//!
//! Other systems write Redis, and a value may have 512 MiB.

use redis::aio::ConnectionLike;
use redis::{RedisError, RedisResult};

use crate::chunks::split_by_weight;

/// Maximum size of an entry. A larger one is malformed.
pub(super) const MAX_ENTRY_BYTES: usize = 4 << 20;
/// Maximum size of the values that one request reads.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// Size of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredSize {
    /// Bytes of a string that is not empty.
    Bytes(usize),
    /// The key does not exist, or has an empty string.
    Empty,
    /// The value is not a string.
    OtherType,
}

/// Reads the sizes of values.
///
/// # Errors
/// If Redis fails.
pub(crate) async fn fetch_sizes<C: ConnectionLike>(
    redis: &mut C,
    keys: &[&String],
) -> RedisResult<Vec<StoredSize>> {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("STRLEN").arg(key);
    }
    let sizes: Vec<RedisResult<usize>> = pipeline.ignore_errors().query_async(redis).await?;
    sizes.into_iter().map(read_size).collect()
}

fn read_size(size: RedisResult<usize>) -> Result<StoredSize, RedisError> {
    match size {
        Ok(0) => Ok(StoredSize::Empty),
        Ok(bytes) => Ok(StoredSize::Bytes(bytes)),
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(StoredSize::OtherType),
        Err(error) => Err(error),
    }
}

/// Splits items with the sizes of their values into those of one request each.
pub(super) fn split_requests<T>(items: &[(T, usize)]) -> Vec<&[(T, usize)]> {
    split_by_weight(items, MAX_REQUEST_BYTES, |(_, bytes)| *bytes)
}

/// Reads values of these sizes. A value that has grown meanwhile is cut off; one that was deleted is empty.
///
/// # Errors
/// If Redis fails.
pub(crate) async fn fetch_values<'k, C: ConnectionLike>(
    redis: &mut C,
    keys: impl Iterator<Item = (&'k String, usize)>,
) -> RedisResult<Vec<Vec<u8>>> {
    let mut pipeline = redis::pipe();
    for (key, bytes) in keys {
        pipeline
            .cmd("GETRANGE")
            .arg(key)
            .arg(0)
            .arg(bytes.saturating_sub(1));
    }
    pipeline.query_async(redis).await
}
