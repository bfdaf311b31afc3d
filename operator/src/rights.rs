//! What the operator may do in the cluster: the one list that the chart's roles and `operator check` agree with.
//!
//! Must never name a right that no request needs.

/// Verbs on one kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The plural name, with its subresource: `streamstages/status`.
    pub resource: &'static str,
    /// The verbs.
    pub verbs: &'static [&'static str],
}

const fn right(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Right {
    Right {
        group,
        resource,
        verbs,
    }
}

const WATCHED: &[&str] = &["get", "list", "watch"];
const APPLIED: &[&str] = &["get", "list", "watch", "create", "patch"];

/// What is needed wherever stages are kept.
///
/// An owner reference that blocks deletion asks for `streamstages/finalizers` where the API server enforces it.
pub const STAGES: [Right; 11] = [
    right("streamstage.dev", "streamstages", WATCHED),
    right("streamstage.dev", "streamstages/status", &["patch"]),
    right("streamstage.dev", "streamstages/finalizers", &["update"]),
    right("apps", "deployments", APPLIED),
    right("", "configmaps", APPLIED),
    right("", "serviceaccounts", APPLIED),
    right("", "services", APPLIED),
    right("policy", "poddisruptionbudgets", APPLIED),
    right("", "secrets", WATCHED),
    right("", "pods", &["list"]),
    right("events.k8s.io", "events", &["create", "patch"]),
];

/// What is needed in the namespace of the lease.
pub const LEASE: Right = right("coordination.k8s.io", "leases", &["get", "create", "patch"]);
