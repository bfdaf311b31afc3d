#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: joins the leader election and reads the Lease"
)]
//! Leader election: the operator that holds the Lease is the leader, the others are standbys.
//!
//! Two leaders must never act at the same time, so a leader that cannot confirm its lease exits and restarts as a
//! standby. `kube-lease-manager` does not report failed renewals; therefore [`Leadership::wait_lost`] reads the Lease
//! itself.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Time after the last renewal at which a standby may acquire the Lease.
const LEASE_DURATION: Duration = Duration::from_secs(10);
/// Time before the end of [`LEASE_DURATION`] at which the leader renews the Lease.
const RENEWAL_MARGIN: Duration = Duration::from_secs(6);
/// Interval at which a leader reads its Lease.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Membership of this process in the leader election, as the leader or as a standby.
pub struct Leadership {
    leases: Api<Lease>,
    name: String,
    identity: String,
    is_leader: watch::Receiver<bool>,
    manager: JoinHandle<kube_lease_manager::Result<kube_lease_manager::LeaseManager>>,
}

/// Joins the election for the Lease `name` as the candidate `identity`, which must be unique.
///
/// # Errors
/// Fails if the Lease cannot be read or created.
pub async fn join_election(
    client: Client,
    namespace: &str,
    name: &str,
    identity: &str,
) -> anyhow::Result<Leadership> {
    let leases = Api::namespaced(client.clone(), namespace);
    let manager = LeaseManagerBuilder::new(client, name)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(LEASE_DURATION.as_secs())
        .with_grace(RENEWAL_MARGIN.as_secs())
        .build()
        .await
        .with_context(|| {
            format!(
                "cannot read or create the Lease {name} in the namespace {namespace}; \
                 run `operator check` to verify the permissions"
            )
        })?;
    let (is_leader, manager) = manager.watch().await;
    Ok(Leadership {
        leases,
        name: name.to_owned(),
        identity: identity.to_owned(),
        is_leader,
        manager,
    })
}

impl Leadership {
    /// Waits until this process acquires the Lease and is the leader.
    ///
    /// # Errors
    /// Fails if the lease manager ended.
    pub async fn wait_acquired(&mut self) -> anyhow::Result<()> {
        let acquired = self.is_leader.wait_for(|is_leader| *is_leader).await;
        acquired
            .map(|_| ())
            .context("the lease manager ended before the Lease was acquired")
    }

    /// Waits until another operator may be the leader; returns the reason for the log.
    pub async fn wait_lost(&self) -> &'static str {
        let mut expiry = Instant::now() + LEASE_DURATION;
        loop {
            match timeout_at(expiry, self.leases.get_opt(&self.name)).await {
                Ok(Ok(Some(Lease {
                    spec: Some(lease), ..
                }))) if lease.holder_identity.as_ref() == Some(&self.identity) => {
                    expiry = expiry.max(Instant::now() + remaining(&lease, Timestamp::now()));
                }
                Ok(Ok(_)) => return "another operator acquired it, or it was deleted",
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "failed to read lease"),
                Err(_) => {}
            }
            let now = Instant::now();
            if now >= expiry {
                return "lease not renewed in time";
            }
            sleep_until(expiry.min(now + LEASE_CHECK_INTERVAL)).await;
        }
    }

    /// Releases the Lease, so that a standby acquires it without waiting for its expiry.
    ///
    /// # Errors
    /// Fails if the Lease cannot be written.
    pub async fn release(self) -> anyhow::Result<()> {
        // The lease manager releases the Lease when its last receiver is dropped.
        drop(self.is_leader);
        self.manager.await?.context("cannot release the Lease")?;
        Ok(())
    }
}

/// Time until the Lease expires without another renewal; zero if it was never renewed.
fn remaining(lease: &LeaseSpec, now: Timestamp) -> Duration {
    let elapsed = lease
        .renew_time
        .as_ref()
        .map(|renewed| now.duration_since(renewed.0));
    let elapsed = elapsed.and_then(|elapsed| Duration::try_from(elapsed.max(SignedDuration::ZERO)).ok());
    elapsed.map_or(Duration::ZERO, |elapsed| LEASE_DURATION.saturating_sub(elapsed))
}
