//! Limits of the clients of Kafka, so that the brokers of one tenant cannot exhaust the operator.
//!
//! A tenant is a namespace. It has its own limit of clients and connections; a tenant that has reached it delays no
//! other. Beside them, all tenants share the limits of the process. A client connects only to addresses that its namespace
//! may use, also if a broker names others.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka::Restrictions;
use tokio::sync::Semaphore;

use crate::hosts::{HostPattern, SourceHosts};

/// Maximum size of a response. The metadata of 50,000 partitions with three replicas fits.
pub(super) const MAX_RESPONSE_BYTES: usize = 2 << 20;
/// Maximum number of clients for the stages of a namespace: connections that differ in servers or credentials.
pub const MAX_CLIENTS_PER_NAMESPACE: usize = 16;
/// Maximum number of open connections to brokers, for the stages of a namespace and in total.
const MAX_CONNECTIONS_PER_NAMESPACE: usize = 128;
const MAX_CONNECTIONS: usize = 1024;
/// Responses above 64 KiB that may be in memory at a time.
const MAX_LARGE_RESPONSES: usize = 2;

/// Limits that all clients of the operator share.
pub struct ClientLimits {
    allowed_hosts: Vec<HostPattern>,
    connections: Arc<Semaphore>,
    large_responses: Arc<Semaphore>,
    by_namespace: BTreeMap<String, Arc<Semaphore>>,
}

impl ClientLimits {
    /// Limits of an operator with this allow-list of hosts.
    #[must_use]
    pub fn new(allowed_hosts: Vec<HostPattern>) -> Self {
        Self {
            allowed_hosts,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            large_responses: Arc::new(Semaphore::new(MAX_LARGE_RESPONSES)),
            by_namespace: BTreeMap::new(),
        }
    }

    /// Restrictions of a client for the stages of a namespace.
    pub fn restrict(&mut self, namespace: &str) -> Restrictions {
        let own = self
            .by_namespace
            .entry(namespace.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_NAMESPACE)));
        let hosts = SourceHosts::new(namespace, self.allowed_hosts.clone());
        Restrictions {
            connections: vec![Arc::clone(own), Arc::clone(&self.connections)],
            large_responses: Some(Arc::clone(&self.large_responses)),
            addresses: Some(Arc::new(hosts)),
        }
    }

    /// Forgets the namespaces that no client uses.
    pub fn forget_unused(&mut self) {
        self.by_namespace
            .retain(|_, connections| Arc::strong_count(connections) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_has_all_its_connections_takes_none_of_another() {
        let mut limits = ClientLimits::new(Vec::new());
        let (hostile, other) = (limits.restrict("team-a"), limits.restrict("team-b"));
        let all: Vec<_> = (0..MAX_CONNECTIONS_PER_NAMESPACE)
            .map(|_| hostile.connections[0].try_acquire().expect("a connection"))
            .collect();
        assert!(limits.restrict("team-a").connections[0].try_acquire().is_err());
        assert!(other.connections.iter().all(|limit| limit.try_acquire().is_ok()));
        drop(all);
        drop(hostile);
        limits.forget_unused();
        assert_eq!(limits.by_namespace.len(), 1, "team-b has a client");
    }
}
