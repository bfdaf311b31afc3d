#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: holds the lease, and looks whether it still does"
)]
//! Which of several operators works: the one that holds the lease.
//!
//! Must never let two work at once: who loses the lease ends, and starts anew as the one that waits. What renews the
//! lease is silent about renewals that fail, so the lease is read beside it.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Time after which a lease that nobody renews is free.
const DURATION: Duration = Duration::from_secs(10);
/// Time before that, at which its holder renews it.
const GRACE: Duration = Duration::from_secs(6);
/// Time between two looks at a lease that is held.
const LOOK: Duration = Duration::from_secs(1);

/// A claim to the lease.
pub struct Leadership {
    leases: Api<Lease>,
    name: String,
    identity: String,
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
    let leases = Api::namespaced(client.clone(), namespace);
    let manager = LeaseManagerBuilder::new(client, name)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(DURATION.as_secs())
        .with_grace(GRACE.as_secs())
        .build()
        .await
        .with_context(|| format!("cannot claim the lease {name} in the namespace {namespace}"))?;
    let (state, keeping) = manager.watch().await;
    Ok(Leadership {
        leases,
        name: name.to_owned(),
        identity: identity.to_owned(),
        state,
        keeping,
    })
}

impl Leadership {
    /// Waits until the lease is held.
    ///
    /// # Errors
    /// When the lease can no longer be claimed.
    pub async fn held(&mut self) -> anyhow::Result<()> {
        let state = self.state.wait_for(|held| *held).await;
        state.map(|_| ()).context("the lease can no longer be claimed")
    }

    /// Waits until another operator may hold the lease, and says why.
    pub async fn lost(&self) -> &'static str {
        let mut until = Instant::now() + DURATION;
        loop {
            match timeout_at(until, self.leases.get_opt(&self.name)).await {
                Ok(Ok(Some(Lease {
                    spec: Some(lease), ..
                }))) if lease.holder_identity.as_ref() == Some(&self.identity) => {
                    until = until.max(Instant::now() + left(&lease, Timestamp::now()));
                }
                Ok(Ok(_)) => return "another operator has it, or it was deleted",
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not read"),
                Err(_) => {}
            }
            let now = Instant::now();
            if now >= until {
                return "no renewal of it was read in time";
            }
            sleep_until(until.min(now + LOOK)).await;
        }
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

/// How long the lease holds without another renewal.
fn left(lease: &LeaseSpec, now: Timestamp) -> Duration {
    let passed = lease
        .renew_time
        .as_ref()
        .map(|renewed| now.duration_since(renewed.0));
    let passed = passed.and_then(|passed| Duration::try_from(passed.max(SignedDuration::ZERO)).ok());
    passed.map_or(Duration::ZERO, |passed| DURATION.saturating_sub(passed))
}
