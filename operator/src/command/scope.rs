//! Flags that `operator run` and `operator check` share: the watched namespace and the leader election Lease.

use clap::Args;

/// Watched namespace and leader election Lease.
#[derive(Debug, Args)]
pub struct Scope {
    /// Watch stages in this namespace only [default: all namespaces]
    #[arg(long, env = "STREAMSTAGE_WATCH_NAMESPACE", value_name = "NAMESPACE")]
    pub watch_namespace: Option<String>,
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
