//! Which stages an operator keeps, and the lease under which it does: the flags that its commands share.

use clap::Args;

/// These flags.
#[derive(Debug, Args)]
pub struct Scope {
    /// Keep the stages of this namespace only [default: all namespaces]
    #[arg(long, env = "STREAMSTAGE_WATCH_NAMESPACE", value_name = "NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Name of the lease that one of several operators holds
    #[arg(
        long,
        env = "STREAMSTAGE_LEASE_NAME",
        value_name = "NAME",
        default_value = "streamstage-operator"
    )]
    pub lease_name: String,
    /// Namespace of the lease [default: the operator's own]
    #[arg(long, env = "STREAMSTAGE_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
}
