#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: queries the API server until a deadline, and prints the results"
)]
//! `operator check`: verifies that the operator is installed correctly and that a leader is running.
//!
//! Never writes to the cluster. It runs with the operator's own service account, so that it tests the real permissions.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use telemetry::stdout::print_line;
use tokio::time::{Instant, sleep};

use super::scope::Scope;
use crate::rbac::{LEASE_CREATE_RULE, LEASE_RULE, PolicyRule, STAGE_RULES};

/// Flags of `operator check`: those of `operator run` that the checks depend on.
#[derive(Debug, Args)]
pub struct Check {
    /// Watched namespaces and leader election Lease.
    #[command(flatten)]
    pub scope: Scope,
    /// Seconds to wait for a leader: after an installation or the loss of a leader, an operator acquires the Lease within 15
    #[arg(
        long,
        env = "STREAMSTAGE_LEADER_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 30
    )]
    pub leader_timeout: u64,
}

/// Interval at which the check reads a Lease without a holder.
const LEASE_READ_INTERVAL: Duration = Duration::from_secs(1);

/// Checks the cluster of the current kubeconfig context, or of the pod that this runs in.
///
/// # Errors
/// Fails if the cluster is unreachable or a check fails.
pub async fn run(flags: &Check) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no cluster configuration found: run inside a cluster, or set KUBECONFIG")?;
    check(client, flags).await
}

/// Runs all checks with `client` and prints one line per check.
///
/// # Errors
/// Fails if any check fails.
pub async fn check(client: Client, flags: &Check) -> anyhow::Result<()> {
    let mut failed = 0;
    let mut report = |label: &str, result: Result<String, String>| match result {
        Ok(detail) => print_line(format_args!("ok      {label}: {detail}")),
        Err(cause) => {
            failed += 1;
            print_line(format_args!("FAILED  {label}: {cause}"))
        }
    };
    let watched: Vec<Option<&str>> = match &flags.scope.watch_namespaces[..] {
        [] => vec![None],
        namespaces => namespaces
            .iter()
            .map(|namespace| Some(namespace.as_str()))
            .collect(),
    };
    let own_namespace = client.default_namespace();
    let lease_namespace = flags
        .scope
        .lease_namespace
        .as_deref()
        .unwrap_or(own_namespace)
        .to_owned();

    for namespace in watched {
        report("CRD StreamStage", check_crd(&client, namespace).await)?;
        for rule in &STAGE_RULES {
            report(
                &permission_label(rule, namespace),
                check_permission(&client, namespace, rule, None).await,
            )?;
        }
    }
    let lease_name = flags.scope.lease_name.as_str();
    for (rule, name) in [(&LEASE_CREATE_RULE, None), (&LEASE_RULE, Some(lease_name))] {
        report(
            &permission_label(rule, None),
            check_permission(&client, Some(&lease_namespace), rule, name).await,
        )?;
    }
    let leader_timeout = Duration::from_secs(flags.leader_timeout);
    report(
        &format!("lease {lease_name}"),
        check_lease(&client, &lease_namespace, lease_name, leader_timeout).await,
    )?;
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

fn permission_label(rule: &PolicyRule, namespace: Option<&str>) -> String {
    let place = namespace.map_or_else(String::new, |namespace| format!(" in {namespace}"));
    format!("permissions on {}{place}", rule.resource)
}

async fn check_crd(client: &Client, namespace: Option<&str>) -> Result<String, String> {
    let stages: Api<StreamStage> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    match stages.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok("served".to_owned()),
        Err(error) => Err(format!(
            "{error}; install the CRD: operator crd | kubectl apply --server-side -f -"
        )),
    }
}

/// Checks every verb of `rule` with a `SelfSubjectAccessReview`; `namespace` is `None` for all namespaces, `name` for all
/// objects.
async fn check_permission(
    client: &Client,
    namespace: Option<&str>,
    rule: &PolicyRule,
    name: Option<&str>,
) -> Result<String, String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let (resource, subresource) = match rule.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (rule.resource, None),
    };
    let mut missing = Vec::new();
    for verb in rule.verbs {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(rule.group.to_owned()),
                    namespace: namespace.map(str::to_owned),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.clone(),
                    verb: Some((*verb).to_owned()),
                    name: name.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let response = reviews.create(&PostParams::default(), &review).await;
        let response = response.map_err(|error| format!("access review failed: {error}"))?;
        if !response.status.is_some_and(|status| status.allowed) {
            missing.push(*verb);
        }
    }
    if missing.is_empty() {
        Ok(rule.verbs.join(", "))
    } else {
        Err(format!(
            "missing {}; add it to the operator's role",
            missing.join(", ")
        ))
    }
}

/// Waits for a leader: right after an installation or the loss of a leader, the Lease has no holder.
async fn check_lease(
    client: &Client,
    namespace: &str,
    name: &str,
    leader_timeout: Duration,
) -> Result<String, String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + leader_timeout;
    loop {
        let lease = leases.get_opt(name).await.map_err(|error| error.to_string())?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        match holder.filter(|holder| !holder.is_empty()) {
            Some(holder) => return Ok(format!("held by {holder}")),
            None if Instant::now() < deadline => sleep(LEASE_READ_INTERVAL).await,
            None => {
                return Err(format!(
                    "no leader in the namespace {namespace} within {} seconds; check the pods of the operator and their logs",
                    leader_timeout.as_secs()
                ));
            }
        }
    }
}
