//! Waiting for conditions, with a deadline; and what there is to see when one does not come true.
#![expect(clippy::disallowed_methods, reason = "edge: waits until a deadline")]

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::scene::show;

/// How long most things may take in a small cluster.
pub const SOON: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until `look` finds something; an error of `look` counts as nothing found.
///
/// # Errors
/// When nothing is found within the time: `what`, the last error, and what is in the namespace.
pub async fn eventually<T>(
    what: &str,
    namespace: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = String::new();
    loop {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => last.clear(),
            Err(error) => last = format!("{error:#}"),
        }
        if Instant::now() > deadline {
            bail!("not within {within:?}: {what}\n{last}\n{}", show(namespace));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
