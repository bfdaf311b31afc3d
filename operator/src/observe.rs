#![expect(
    clippy::disallowed_types,
    reason = "edge: reads the input of a reconcile from the API server"
)]
//! Step 1 of a reconcile: reads everything that the later steps need, once.
//!
//! Never writes and never waits for Kafka; the lag is the poller's last result. Owned objects are read on every
//! reconcile, not cached: ten thousand Deployments in memory would cost more than a few GET requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::StreamStage;
use crds::status::{LimitedBy, Reason};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::admission::{Refusal, SecretKeys, Secrets, check_secret, check_stage, named_service_account};
use crate::budgets::share_of;
use crate::conflict::winning_stage;
use crate::connection::{KafkaConnection, bootstrap_servers};
use crate::grants::Grant;
use crate::hosts::HostPattern;
use crate::lag::store::LagStore;
use crate::lag::view::LagView;
use crate::owned::rollout::RolloutProgress;
use crate::owned::{self, FIELD_MANAGER, OwnedObjects, SCALE_FIELD_MANAGER, STAGE_LABEL};
use crate::scale::budget::BudgetShare;
use crate::scale::gate::Rollout;
use crate::scale::{ScalingInput, ScalingSettings};
use crate::stage_summary::{CachedStage, StageStore, StageSummary, readable};

/// Input of one reconcile.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Stage as read from the API server.
    pub stage: StreamStage,
    /// Referenced Secrets by name; `None` for a Secret that does not exist.
    pub secrets: Secrets,
    /// Grant of the `ServiceAccount` that the pod template names; `None` without such a name or object.
    pub pod_service_account: Option<Grant>,
    /// Whether the stage passed the checks without which nothing may be read for it.
    pub admission: Result<(), Refusal>,
    /// Objects with the names of the owned objects. Another owner may have created them.
    pub owned: OwnedObjects,
    /// Pods of the stage; read only while some are not ready, else empty.
    pub pods: Vec<Pod>,
    /// Older stage of the namespace with the same cluster, topic and consumer group, as `namespace/name`.
    pub conflicting_stage: Option<String>,
    /// Share of the stage in the connection budget of its warehouse; `None` without a budget.
    pub budget_share: Option<BudgetShare>,
    /// Kafka connection; `None` if the stage is not valid, or if the Secret for it is missing, not allowed or has an
    /// invalid key.
    pub connection: Option<KafkaConnection>,
    /// Lag at the time of the reconcile.
    pub view: LagView,
}

impl Observed {
    /// Scaling settings of the stage.
    #[must_use]
    pub fn scaling_settings(&self) -> ScalingSettings {
        let has_foreign_group = |refusal: &Refusal| refusal.reason == Reason::ConsumerGroupConflict;
        ScalingSettings {
            is_group_taken: self.conflicting_stage.is_some()
                || self.admission.as_ref().is_err_and(has_foreign_group),
            budget_share: self.budget_share,
            ..ScalingSettings::from(&self.stage)
        }
    }

    /// Input of the scaling decision; `limited_by` is that of the last reconcile.
    #[must_use]
    pub fn scaling_input(&self, limited_by: LimitedBy) -> ScalingInput<'_> {
        let deployment = self.owned.deployment.as_ref();
        let deployment =
            deployment.filter(|deployment| owned::is_owned_by(&self.stage, &deployment.metadata));
        ScalingInput {
            current_replicas: current_replicas(&self.stage, deployment),
            lag: self.view.lag_state(),
            rollout: deployment.map_or(Rollout::None, rollout),
            rebalancing_since: self.view.rebalancing_since,
            limited_by,
            ..ScalingInput::new(self.view.now, &self.view.scaling)
        }
    }
}

/// Rollout of the Deployment, as a scaling decision sees it.
pub(crate) fn rollout(deployment: &Deployment) -> Rollout {
    match RolloutProgress::from_deployment(deployment) {
        progress if !progress.is_rolling() => Rollout::None,
        _ if owned::rollout::exceeded_deadline(deployment) => Rollout::Stalled,
        _ => Rollout::InProgress,
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

/// Reads the input of one reconcile of `stage`, and registers the stage with the lag poller.
///
/// # Errors
/// If a request to the API server fails.
pub async fn observe(
    stage: &StreamStage,
    stages: &StageStore,
    lag_store: &LagStore,
    allowed_hosts: &[HostPattern],
    client: &Client,
) -> kube::Result<Observed> {
    // The names in a stage that is not valid may address anything, and its hosts may be anyone's.
    let admission = check_stage(stage, allowed_hosts);
    let is_admitted = admission.is_ok();
    let (owned, secrets, pod_service_account) = futures::try_join!(
        read_owned(stage, client),
        read_secrets(stage, is_admitted, client),
        read_pod_service_account(stage, is_admitted, client),
    )?;
    let keys = secrets
        .iter()
        .map(|(name, secret)| (name.clone(), secret.as_ref().map(secret_keys)))
        .collect();
    let source_secret = stage.spec.source.auth_secret_name.as_ref();
    let source_secret = source_secret.and_then(|name| secrets.get(name)?.as_ref());
    let connection = source_connection(stage, source_secret)
        .ok()
        .filter(|_| is_admitted);
    let pods = match &owned.deployment {
        Some(deployment) if !is_ready(deployment) => read_pods(stage, client).await?,
        _ => Vec::new(),
    };
    // A changed connection makes the cluster unknown, so the stage is registered first.
    let view = lag_store.register(stage, connection.as_ref());
    let (this, stages) = (StageSummary::from(stage.clone()), stages.state());
    let others = readable(&stages);
    Ok(Observed {
        stage: stage.clone(),
        secrets: keys,
        pod_service_account,
        admission,
        owned,
        pods,
        conflicting_stage: conflicting_stage(&this, &stages, lag_store),
        budget_share: share_of(&this, others),
        view,
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

/// Reads the referenced Secrets, unless the stage is not valid.
async fn read_secrets(
    stage: &StreamStage,
    is_admitted: bool,
    client: &Client,
) -> kube::Result<BTreeMap<String, Option<Secret>>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), stage.namespace());
    let mut by_name = BTreeMap::new();
    for (_, name) in stage.referenced_secrets().into_iter().filter(|_| is_admitted) {
        by_name.insert(name.to_owned(), secrets.get_opt(name).await?);
    }
    Ok(by_name)
}

/// Reads the grant of the `ServiceAccount` that the pod template names; `None` if the stage is not valid.
async fn read_pod_service_account(
    stage: &StreamStage,
    is_admitted: bool,
    client: &Client,
) -> kube::Result<Option<Grant>> {
    let Some(name) = named_service_account(stage).filter(|_| is_admitted) else {
        return Ok(None);
    };
    let service_accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), stage.namespace());
    let service_account = service_accounts.get_opt(&name).await?;
    Ok(service_account.map(|service_account| Grant::from_annotations(service_account.annotations())))
}

/// Connection to the Kafka of the stage, with the keys of the Secret that `spec.source` references; `None` for a Secret
/// that does not exist.
///
/// # Errors
/// Names the field, the cause and the remedy, if the Secret is missing, not allowed or has an invalid key.
pub(crate) fn source_connection(
    stage: &StreamStage,
    secret: Option<&Secret>,
) -> Result<KafkaConnection, String> {
    const FIELD: &str = "spec.source.authSecretName";
    let empty = BTreeMap::new();
    let data = match &stage.spec.source.auth_secret_name {
        None => &empty,
        Some(name) => {
            let keys = BTreeMap::from([(name.clone(), secret.map(secret_keys))]);
            check_secret(stage, FIELD, name, &keys).map_err(|refusal| refusal.message)?;
            secret.and_then(|secret| secret.data.as_ref()).unwrap_or(&empty)
        }
    };
    KafkaConnection::new(&bootstrap_servers(stage), data)
        .map_err(|invalid| format!("{FIELD}: the key {}: {}", invalid.key, invalid.cause))
}

fn secret_keys(secret: &Secret) -> SecretKeys {
    let version = [secret.uid(), secret.resource_version()].map(Option::unwrap_or_default);
    SecretKeys {
        names: secret
            .data
            .iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect(),
        version: version.join("/"),
        grant: Grant::from_annotations(secret.annotations()),
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

/// Older stage that has the consumer group of `stage`, as `namespace/name`.
fn conflicting_stage(
    this: &StageSummary,
    stages: &[Arc<CachedStage>],
    lag_store: &LagStore,
) -> Option<String> {
    let others = readable(stages);
    let cluster_id = |stage: &StageSummary| lag_store.cluster_id(&stage.reference());
    winning_stage(this, others, cluster_id)
        .map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name()))
}
