#![expect(
    clippy::disallowed_types,
    reason = "edge: reads what one reconcile needs from the cluster"
)]
//! First step: everything that a reconcile looks at, read once.
//!
//! Must never write, nor wait for Kafka: what is known of the lag is taken as it is. The owned objects are read anew each time, rather than kept: ten thousand Deployments in
//! memory would weigh more than the answers to a few GETs.

use std::collections::BTreeMap;

use crds::StreamStage;
use crds::status::ScalingStatus;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use sha2::{Digest as _, Sha256};

use crate::connection::{Connection, servers};
use crate::lag::view::View;
use crate::outline::{Outline, Stages};
use crate::owned::{self, FIELD_MANAGER, Owned, SCALE_FIELD_MANAGER, STAGE_LABEL};
use crate::poll::Lags;
use crate::scale::Known;
use crate::status::is_rolling;

/// What one reconcile looks at.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The stage.
    pub stage: StreamStage,
    /// The Secrets that the stage names; none for one that is not there.
    pub secrets: BTreeMap<String, Option<Keys>>,
    /// The stage's objects, or others of their names.
    pub owned: Owned,
    /// The stage's pods, when not all of them are ready.
    pub pods: Vec<Pod>,
    /// An older stage, as `namespace/name`, that reads the same topic with the same consumer group.
    pub rival: Option<String>,
    /// How the stage's Kafka is reached; none when the Secret for it is missing, or has a key that nothing can be
    /// done with.
    pub connection: Option<Connection>,
    /// What is known of the lag.
    pub view: View,
}

impl Observed {
    /// What the number of workers is decided by.
    #[must_use]
    pub fn known<'o>(&'o self, before: &'o ScalingStatus) -> Known<'o> {
        let deployment = self.owned.deployment.as_ref();
        let deployment = deployment.filter(|deployment| owned::is_own(&self.stage, &deployment.metadata));
        Known {
            now: self.view.now,
            current: current(&self.stage, deployment),
            lag: self.view.known(),
            is_rolling: deployment.is_some_and(is_rolling),
            is_rebalancing: self.view.is_rebalancing,
            before,
        }
    }
}

/// The number of workers by the last decision: the Deployment's, unless somebody else wrote it there.
fn current(stage: &StreamStage, deployment: Option<&Deployment>) -> Option<u32> {
    let replicas = deployment
        .and_then(|deployment| deployment.spec.as_ref()?.replicas)
        .and_then(|replicas| u32::try_from(replicas).ok());
    let is_ours = deployment.is_some_and(|deployment| {
        [SCALE_FIELD_MANAGER, FIELD_MANAGER]
            .iter()
            .any(|manager| owned::owns_replicas(deployment, manager))
    });
    let told = stage.status.as_ref().and_then(|status| status.desired_replicas);
    if is_ours { replicas } else { told.or(replicas) }
}

/// The keys of a Secret. Its values stay where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Names of the keys.
    pub names: Vec<String>,
    /// SHA-256 over names and values.
    pub digest: Vec<u8>,
}

/// Reads everything that one reconcile of `stage` looks at.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn observe(
    stage: &StreamStage,
    stages: &Stages,
    lags: &Lags,
    client: &Client,
) -> kube::Result<Observed> {
    let (owned, secrets) = futures::try_join!(read_owned(stage, client), read_secrets(stage, client))?;
    let connection = connection(stage, &secrets);
    let secrets = secrets
        .into_iter()
        .map(|(name, secret)| (name, secret.as_ref().map(keys)))
        .collect();
    let pods = match &owned.deployment {
        Some(deployment) if !is_ready(deployment) => read_pods(stage, client).await?,
        _ => Vec::new(),
    };
    let rival = rival(stage, stages);
    Ok(Observed {
        stage: stage.clone(),
        secrets,
        owned,
        pods,
        rival,
        view: lags.view(stage, connection.as_ref()),
        connection,
    })
}

async fn read_owned(stage: &StreamStage, client: &Client) -> kube::Result<Owned> {
    let namespace = stage.namespace();
    let name = owned::name(stage);
    let (service_accounts, config_maps, services, budgets, deployments) = (
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client.clone(), namespace),
    );
    let (service_account, config_map, service, disruption_budget, deployment) = futures::try_join!(
        service_accounts.get_opt(&name),
        config_maps.get_opt(&name),
        services.get_opt(&name),
        budgets.get_opt(&name),
        deployments.get_opt(&name),
    )?;
    Ok(Owned {
        service_account,
        config_map,
        service,
        disruption_budget,
        deployment,
    })
}

async fn read_secrets(
    stage: &StreamStage,
    client: &Client,
) -> kube::Result<BTreeMap<String, Option<Secret>>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), stage.namespace());
    let mut found = BTreeMap::new();
    for (_, name) in stage.secrets() {
        found.insert(name.to_owned(), secrets.get_opt(name).await?);
    }
    Ok(found)
}

/// How the stage's Kafka is reached.
fn connection(stage: &StreamStage, secrets: &BTreeMap<String, Option<Secret>>) -> Option<Connection> {
    let source = &stage.spec.source;
    let none = BTreeMap::new();
    let data = match &source.auth_secret {
        None => &none,
        Some(name) => secrets.get(name)?.as_ref()?.data.as_ref().unwrap_or(&none),
    };
    Connection::new(&servers(stage), data).ok()
}

fn keys(secret: &Secret) -> Keys {
    let data = secret.data.iter().flatten();
    let digest = data.clone().fold(Sha256::new(), |digest, (name, value)| {
        let digest = digest
            .chain_update((name.len() as u64).to_be_bytes())
            .chain_update(name);
        digest
            .chain_update((value.0.len() as u64).to_be_bytes())
            .chain_update(&value.0)
    });
    Keys {
        names: data.map(|(name, _)| name.clone()).collect(),
        digest: digest.finalize().to_vec(),
    }
}

fn is_ready(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let ready = deployment
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas);
    ready.unwrap_or(0) == wanted
}

async fn read_pods(stage: &StreamStage, client: &Client) -> kube::Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), stage.namespace());
    let of_stage = ListParams::default().labels(&format!("{STAGE_LABEL}={}", stage.name()));
    Ok(pods.list(&of_stage).await?.items)
}

/// The oldest other stage that reads the same topic with the same consumer group, if it is older than `stage`.
fn rival(stage: &StreamStage, stages: &Stages) -> Option<String> {
    fn age(stage: &Outline) -> (Option<Timestamp>, Option<String>) {
        (stage.creation_timestamp().map(|time| time.0), stage.uid())
    }
    let own = Outline::from(stage.clone());
    let others = stages.state();
    let others = others.iter().filter_map(|guarded| guarded.0.as_ref().ok());
    let rivals = others.filter(|other| other.meta().uid != own.meta().uid && own.shares_group(other));
    rivals
        .filter(|other| age(other) < age(&own))
        .min_by_key(|other| age(other))
        .map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name()))
}
