//! Flags that commands share: the watched namespaces and the leader election Lease of `operator run` and `operator check`,
//! and the allow-list of hosts of `operator run` and `operator explain`.

use clap::Args;

use crate::hosts::HostPattern;

/// Allow-list of hosts.
#[derive(Debug, Args)]
pub struct AllowList {
    /// Hosts that stages may connect to, as HOST, HOST:PORT, *.DOMAIN, or * for all others, except for a Kafka at a
    /// loopback or link-local address or in another namespace [default: *]
    #[arg(
        long,
        env = "STREAMSTAGE_ALLOWED_HOSTS",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub allowed_hosts: Vec<HostPattern>,
}

/// Watched namespaces and leader election Lease.
#[derive(Debug, Args)]
pub struct Scope {
    /// Watch stages in these namespaces only [default: all namespaces]
    #[arg(
        long = "watch-namespace",
        env = "STREAMSTAGE_WATCH_NAMESPACE",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,
    /// Name of the leader election Lease
    #[arg(
        long,
        env = "STREAMSTAGE_LEASE_NAME",
        value_name = "NAME",
        default_value = "streamstage-operator"
    )]
    pub lease_name: String,
    /// Namespace of the Lease [default: the operator's namespace]
    #[arg(long, env = "STREAMSTAGE_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
}
