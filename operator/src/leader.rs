#![expect(clippy::disallowed_types, reason = "edge: holds the lease")]
//! Which of several operators works: the one that holds the lease.
//!
//! Must never let two work at once: who loses the lease ends, and starts anew as the one that waits.

use anyhow::Context as _;
use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Seconds after which a lease that nobody renews is free.
const DURATION: u64 = 10;
/// Seconds before that, at which its holder renews it.
const GRACE: u64 = 6;

/// A claim to the lease.
pub struct Leadership {
    state: watch::Receiver<bool>,
    keeping: JoinHandle<kube_lease_manager::Result<kube_lease_manager::LeaseManager>>,
}

/// Begins to claim the lease `name` as `identity`.
///
/// # Errors
/// When the lease cannot be read or created.
pub async fn claim(
    client: Client,
    namespace: &str,
    name: &str,
    identity: &str,
) -> anyhow::Result<Leadership> {
    let manager = LeaseManagerBuilder::new(client, name)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(DURATION)
        .with_grace(GRACE)
        .build()
        .await
        .with_context(|| format!("cannot claim the lease {name} in the namespace {namespace}"))?;
    let (state, keeping) = manager.watch().await;
    Ok(Leadership { state, keeping })
}

impl Leadership {
    /// Waits until the lease is held, or is no longer.
    ///
    /// # Errors
    /// When the lease can no longer be claimed.
    pub async fn is(&mut self, held: bool) -> anyhow::Result<()> {
        let state = self.state.wait_for(|state| *state == held).await;
        state.map(|_| ()).context("the lease can no longer be claimed")
    }

    /// Gives the lease back, so that another operator need not wait until it expires.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub async fn release(self) -> anyhow::Result<()> {
        drop(self.state);
        self.keeping.await?.context("cannot give the lease back")?;
        Ok(())
    }
}
