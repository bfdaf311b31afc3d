//! A Kubernetes cluster with the operator installed, for user stories.
//!
//! `e2e/cluster/up` creates the cluster, and `make e2e` installs the chart.
//! Each [`Story`] has its own namespace and pipeline, and waits for conditions.
//! A failed story prints the content of its namespace. The namespace is deleted in any case.

mod command;
mod connection;
mod container;
mod namespace;
mod operator;
mod story;
mod wait;

pub use command::{run, run_expecting_error};
pub use connection::Cluster;
pub use container::Container;
pub use namespace::{NamespaceGuard, OPERATOR_NAMESPACE, SERVICES_NAMESPACE};
pub use operator::{OperatorStopped, kill_operator, wait_for_leader, wait_operators_ready};
pub use story::Story;
pub use wait::{DEFAULT_DEADLINE, eventually};
