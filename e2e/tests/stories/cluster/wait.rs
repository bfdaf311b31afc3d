//! Waits for conditions, and reports the content of the namespace when a deadline expires.
#![expect(clippy::disallowed_methods, reason = "edge: waits until a deadline")]

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::namespace::describe_namespace;

/// Deadline of most conditions in a small cluster.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(90);
/// Interval between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Polls `probe` until it returns a value; an error of `probe` counts as `None`.
///
/// # Errors
/// When the timeout expires: the description, the last error, and the content of the namespace.
pub async fn eventually<T>(
    description: &str,
    namespace: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut last_error = String::new();
    loop {
        match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => last_error.clear(),
            Err(error) => last_error = format!("{error:#}"),
        }
        if Instant::now() > deadline {
            bail!(
                "not within {timeout:?}: {description}\n{last_error}\n{}",
                describe_namespace(namespace)
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
