//! RBAC rules that the operator needs; the chart's roles and `operator check` must agree with this list.
//!
//! Must never contain a permission that no request of the operator needs.

/// Verbs on one resource of the Kubernetes API.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRule {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural resource name, with its subresource if there is one: `streamstages/status`.
    pub resource: &'static str,
    /// Allowed verbs.
    pub verbs: &'static [&'static str],
}

const fn policy_rule(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
) -> PolicyRule {
    PolicyRule {
        group,
        resource,
        verbs,
    }
}

const WATCH_VERBS: &[&str] = &["get", "list", "watch"];
const APPLY_VERBS: &[&str] = &["get", "list", "watch", "create", "patch"];

/// Rules for every namespace with stages: a `ClusterRole`, or a Role in each if the operator watches
/// a list of namespaces.
///
/// `update` on `streamstages/finalizers` is for API servers with the admission plugin
/// `OwnerReferencesPermissionEnforcement`: they require it for an owner reference that blocks deletion.
pub const STAGE_RULES: [PolicyRule; 11] = [
    policy_rule("streamstage.dev", "streamstages", WATCH_VERBS),
    policy_rule("streamstage.dev", "streamstages/status", &["patch"]),
    policy_rule("streamstage.dev", "streamstages/finalizers", &["update"]),
    policy_rule("apps", "deployments", APPLY_VERBS),
    policy_rule("", "configmaps", APPLY_VERBS),
    policy_rule("", "serviceaccounts", APPLY_VERBS),
    policy_rule("", "services", APPLY_VERBS),
    policy_rule("policy", "poddisruptionbudgets", APPLY_VERBS),
    policy_rule("", "secrets", WATCH_VERBS),
    policy_rule("", "pods", &["list"]),
    policy_rule("events.k8s.io", "events", &["create", "patch"]),
];

/// Rule for the leader election Lease, by its name.
pub const LEASE_RULE: PolicyRule = policy_rule("coordination.k8s.io", "leases", &["get", "patch"]);
/// Rule for the namespace of the Lease: RBAC cannot restrict the creation of an object by its name.
pub const LEASE_CREATE_RULE: PolicyRule = policy_rule("coordination.k8s.io", "leases", &["create"]);
