#![expect(
    clippy::disallowed_types,
    reason = "edge: reads the input of a reconcile from the API server"
)]
//! Step 1 of a reconcile: reads everything that the later steps need, once.
//!
//! Never writes and never waits for Kafka; the lag is the poller's last result. Owned objects are read on every
//! reconcile, not cached: ten thousand Deployments in memory would cost more than a few GET requests.

use std::collections::BTreeMap;

use crds::StreamStage;
use crds::status::ScalingStatus;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use sha2::{Digest as _, Sha256};

use crate::connection::{KafkaConnection, bootstrap_servers};
use crate::lag::store::LagStore;
use crate::lag::view::LagView;
use crate::owned::rollout::RolloutProgress;
use crate::owned::{self, FIELD_MANAGER, OwnedObjects, SCALE_FIELD_MANAGER, STAGE_LABEL};
use crate::scale::ScalingInput;
use crate::stage_summary::{StageStore, StageSummary};

/// Input of one reconcile.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Stage as read from the API server.
    pub stage: StreamStage,
    /// Referenced Secrets by name; `None` for a Secret that does not exist.
    pub secrets: BTreeMap<String, Option<SecretKeys>>,
    /// Objects with the names of the owned objects. Another owner may have created them.
    pub owned: OwnedObjects,
    /// Pods of the stage; read only while some are not ready, else empty.
    pub pods: Vec<Pod>,
    /// Older stage with the same topic and consumer group, as `namespace/name`.
    pub conflicting_stage: Option<String>,
    /// Kafka connection; `None` if the Secret for it is missing or has an invalid key.
    pub connection: Option<KafkaConnection>,
    /// Lag at the time of the reconcile.
    pub view: LagView,
}

impl Observed {
    /// Input of the scaling decision; `previous` is `status.scaling` of the last reconcile.
    #[must_use]
    pub fn scaling_input<'o>(&'o self, previous: &'o ScalingStatus) -> ScalingInput<'o> {
        let deployment = self.owned.deployment.as_ref();
        let deployment =
            deployment.filter(|deployment| owned::is_owned_by(&self.stage, &deployment.metadata));
        ScalingInput {
            now: self.view.now,
            current_replicas: current_replicas(&self.stage, deployment),
            lag: self.view.lag_state(),
            is_rolling: deployment
                .is_some_and(|deployment| RolloutProgress::from_deployment(deployment).is_rolling()),
            is_rebalancing: self.view.is_rebalancing,
            previous,
        }
    }
}

/// Desired replicas of the last decision. The Deployment has them, unless another field manager changed its replicas.
fn current_replicas(stage: &StreamStage, deployment: Option<&Deployment>) -> Option<u32> {
    let replicas = deployment
        .and_then(|deployment| deployment.spec.as_ref()?.replicas)
        .and_then(|replicas| u32::try_from(replicas).ok());
    let is_managed = deployment.is_some_and(|deployment| {
        [SCALE_FIELD_MANAGER, FIELD_MANAGER]
            .iter()
            .any(|manager| owned::owns_replicas(deployment, manager))
    });
    let reported = stage.status.as_ref().and_then(|status| status.desired_replicas);
    if is_managed {
        replicas
    } else {
        reported.or(replicas)
    }
}

/// Keys of a Secret, without its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretKeys {
    /// Key names, sorted.
    pub names: Vec<String>,
    /// SHA-256 of all names and values.
    pub digest: Vec<u8>,
}

/// Reads the input of one reconcile of `stage`, and registers the stage with the lag poller.
///
/// # Errors
/// If a request to the API server fails.
pub async fn observe(
    stage: &StreamStage,
    stages: &StageStore,
    lag_store: &LagStore,
    client: &Client,
) -> kube::Result<Observed> {
    let (owned, secrets) = futures::try_join!(read_owned(stage, client), read_secrets(stage, client))?;
    let connection = kafka_connection(stage, &secrets);
    let secrets = secrets
        .into_iter()
        .map(|(name, secret)| (name, secret.as_ref().map(secret_keys)))
        .collect();
    let pods = match &owned.deployment {
        Some(deployment) if !is_ready(deployment) => read_pods(stage, client).await?,
        _ => Vec::new(),
    };
    Ok(Observed {
        stage: stage.clone(),
        secrets,
        owned,
        pods,
        conflicting_stage: conflicting_stage(stage, stages),
        view: lag_store.register(stage, connection.as_ref()),
        connection,
    })
}

async fn read_owned(stage: &StreamStage, client: &Client) -> kube::Result<OwnedObjects> {
    let namespace = stage.namespace();
    let name = owned::object_name(stage);
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
    Ok(OwnedObjects {
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
    let mut by_name = BTreeMap::new();
    for (_, name) in stage.referenced_secrets() {
        by_name.insert(name.to_owned(), secrets.get_opt(name).await?);
    }
    Ok(by_name)
}

/// Returns `None` if the Secret of the source is missing or has an invalid key; validation reports that.
fn kafka_connection(
    stage: &StreamStage,
    secrets: &BTreeMap<String, Option<Secret>>,
) -> Option<KafkaConnection> {
    let source = &stage.spec.source;
    let empty = BTreeMap::new();
    let data = match &source.auth_secret_name {
        None => &empty,
        Some(name) => secrets.get(name)?.as_ref()?.data.as_ref().unwrap_or(&empty),
    };
    KafkaConnection::new(&bootstrap_servers(stage), data).ok()
}

fn secret_keys(secret: &Secret) -> SecretKeys {
    let data = secret.data.iter().flatten();
    let digest = data.clone().fold(Sha256::new(), |digest, (name, value)| {
        let digest = digest
            .chain_update((name.len() as u64).to_be_bytes())
            .chain_update(name);
        digest
            .chain_update((value.0.len() as u64).to_be_bytes())
            .chain_update(&value.0)
    });
    SecretKeys {
        names: data.map(|(name, _)| name.clone()).collect(),
        digest: digest.finalize().to_vec(),
    }
}

fn is_ready(deployment: &Deployment) -> bool {
    let desired = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let ready = deployment
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas);
    ready.unwrap_or(0) == desired
}

async fn read_pods(stage: &StreamStage, client: &Client) -> kube::Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), stage.namespace());
    let of_stage = ListParams::default().labels(&format!("{STAGE_LABEL}={}", stage.name()));
    Ok(pods.list(&of_stage).await?.items)
}

/// Returns the oldest other stage with the same topic and consumer group, if it is older than `stage`.
fn conflicting_stage(stage: &StreamStage, stages: &StageStore) -> Option<String> {
    fn age(stage: &StageSummary) -> (Option<Timestamp>, Option<String>) {
        (stage.creation_timestamp().map(|time| time.0), stage.uid())
    }
    let this = StageSummary::from(stage.clone());
    let others = stages.state();
    let others = others.iter().filter_map(|cached| cached.0.as_ref().ok());
    let conflicting = others.filter(|other| other.meta().uid != this.meta().uid && this.shares_group(other));
    conflicting
        .filter(|other| age(other) < age(&this))
        .min_by_key(|other| age(other))
        .map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name()))
}
