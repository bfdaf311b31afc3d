#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "edge: asks the API server, and prints what it answered"
)]
//! `operator check`: is the operator installed as it should be, and does one of them work?

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

use super::scope::Scope;
use crate::rights::{LEASE, Right, STAGES};

/// Flags of `operator check`: those of `operator run` that it depends on.
#[derive(Debug, Args)]
pub struct Check {
    /// Which stages, and under which lease
    #[command(flatten)]
    pub scope: Scope,
}

/// Checks the cluster that the operator would run in.
///
/// # Errors
/// When the cluster cannot be reached, or something is missing.
pub async fn run(flags: &Check) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no cluster: run inside one, or set KUBECONFIG")?;
    check(client, flags).await
}

/// Asks as the operator's own account, and prints one line for each thing that was checked.
///
/// # Errors
/// When something is missing.
pub async fn check(client: Client, flags: &Check) -> anyhow::Result<()> {
    let mut failed = 0;
    let mut report = |what: &str, outcome: Result<String, String>| match outcome {
        Ok(found) => println!("ok      {what}: {found}"),
        Err(cause) => {
            failed += 1;
            println!("FAILED  {what}: {cause}");
        }
    };
    let watched = flags.scope.watch_namespace.as_deref();
    let own = client.default_namespace();
    let lease_namespace = flags.scope.lease_namespace.as_deref().unwrap_or(own).to_owned();

    report("definition of StreamStage", served(&client, watched).await);
    for right in &STAGES {
        report(&called(right), allowed(&client, watched, right).await);
    }
    report(
        &called(&LEASE),
        allowed(&client, Some(&lease_namespace), &LEASE).await,
    );
    report(
        &format!("lease {}", flags.scope.lease_name),
        held(&client, &lease_namespace, &flags.scope.lease_name).await,
    );
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

fn called(right: &Right) -> String {
    format!("rights on {}", right.resource)
}

async fn served(client: &Client, namespace: Option<&str>) -> Result<String, String> {
    let stages: Api<StreamStage> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    match stages.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok("served".to_owned()),
        Err(error) => Err(format!(
            "{error}; install it: operator crd | kubectl apply --server-side -f -"
        )),
    }
}

async fn allowed(client: &Client, namespace: Option<&str>, right: &Right) -> Result<String, String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let mut missing = Vec::new();
    for verb in right.verbs {
        let asked = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(right.group.to_owned()),
                    namespace: namespace.map(str::to_owned),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.clone(),
                    verb: Some((*verb).to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &asked).await;
        let answer = answer.map_err(|error| format!("cannot ask: {error}"))?;
        if !answer.status.is_some_and(|status| status.allowed) {
            missing.push(*verb);
        }
    }
    if missing.is_empty() {
        Ok(right.verbs.join(", "))
    } else {
        Err(format!(
            "{} is missing: give the operator's role it",
            missing.join(", ")
        ))
    }
}

async fn held(client: &Client, namespace: &str, name: &str) -> Result<String, String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = leases.get_opt(name).await.map_err(|error| error.to_string())?;
    let holder = lease
        .and_then(|lease| lease.spec?.holder_identity)
        .filter(|holder| !holder.is_empty());
    holder.map(|holder| format!("held by {holder}")).ok_or_else(|| {
        format!("no operator holds it in the namespace {namespace}: look at its pods and their log")
    })
}
