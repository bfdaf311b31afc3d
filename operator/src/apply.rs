#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the objects of a stage to the cluster"
)]
//! Step 4 of a reconcile: applies the planned objects by server-side apply.
//!
//! Must never write an object without drift.
//! The replicas have a field manager of their own: an apply of the pod template never carries the replicas, and an apply
//! of the replicas never carries the template.

mod drift;

use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::metrics::Metrics;
use crate::owned::{FIELD_MANAGER, OwnedObjects, SCALE_FIELD_MANAGER, owns_replicas};
use crate::plan::{Applied, Planned, Resources};
use crate::scale::ReplicaDecision;

/// Applies the objects of `planned` that drifted in `owned`, and returns all of them as the API server has them.
///
/// The Deployment comes last: its pods need the other objects.
///
/// # Errors
/// Fails if the API server is unreachable or rejects an object; the objects before it remain applied.
pub async fn apply(
    planned: Resources<Planned>,
    owned: OwnedObjects,
    client: &Client,
    metrics: &Metrics,
) -> kube::Result<Resources<Applied>> {
    let applier = Applier { client, metrics };
    Ok(Resources {
        service_account: applier
            .apply_if_changed(planned.service_account, owned.service_account)
            .await?,
        config_map: applier
            .apply_if_changed(planned.config_map, owned.config_map)
            .await?,
        service: applier.apply_if_changed(planned.service, owned.service).await?,
        disruption_budget: applier
            .apply_if_changed(planned.disruption_budget, owned.disruption_budget)
            .await?,
        deployment: match owned.deployment {
            None => {
                let created = applier
                    .create_deployment(planned.deployment, &planned.decision)
                    .await?;
                applier.apply_replicas(created, &planned.decision).await?
            }
            Some(live) => {
                let scaled = applier.apply_replicas(live, &planned.decision).await?;
                applier.apply_if_changed(planned.deployment, Some(scaled)).await?
            }
        },
        decision: planned.decision,
        state: PhantomData,
    })
}

/// Scales the Deployment of a stage that is suspended, or has lost its consumer group, to zero, although the stage itself is
/// invalid and nothing else is applied.
///
/// # Errors
/// Fails if the API server is unreachable or rejects the write.
pub async fn apply_suspension(
    live: Deployment,
    decision: &ReplicaDecision,
    client: &Client,
    metrics: &Metrics,
) -> kube::Result<()> {
    let applier = Applier { client, metrics };
    applier.apply_replicas(live, decision).await.map(|_| ())
}

struct Applier<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
}

impl Applier<'_> {
    async fn apply_if_changed<K>(&self, planned: K, live: Option<K>) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        match live {
            Some(live) if drift::matches_plan(&json!(planned), &json!(live)) => Ok(live),
            _ => {
                self.patch(FIELD_MANAGER, &planned.name_any(), planned.namespace(), &planned)
                    .await
            }
        }
    }

    /// Creates the Deployment with its initial replicas. This is the one write with both template and replicas: without
    /// replicas, Kubernetes would start one worker.
    async fn create_deployment(
        &self,
        mut planned: Deployment,
        decision: &ReplicaDecision,
    ) -> kube::Result<Deployment> {
        if let Some(spec) = &mut planned.spec {
            spec.replicas = i32::try_from(decision.initial).ok();
        }
        self.patch(FIELD_MANAGER, &planned.name_any(), planned.namespace(), &planned)
            .await
    }

    /// Applies the desired replicas; leaves them unchanged if another controller writes them.
    ///
    /// Replicas that [`FIELD_MANAGER`] still owns from the creation are first transferred to [`SCALE_FIELD_MANAGER`]:
    /// its next apply omits the field, and a field without an owner would be reset to 1.
    async fn apply_replicas(&self, live: Deployment, decision: &ReplicaDecision) -> kube::Result<Deployment> {
        let current = live.spec.as_ref().and_then(|spec| spec.replicas);
        // In the mode External, a zero that this operator owns is left over from a suspension, which has ended.
        let was_suspended = current == Some(0) && owns_replicas(&live, SCALE_FIELD_MANAGER);
        let desired = decision.replicas.or(was_suspended.then_some(decision.initial));
        let replicas = desired
            .and_then(|replicas| i32::try_from(replicas).ok())
            .or(current);
        let needs_transfer =
            owns_replicas(&live, FIELD_MANAGER) && !owns_replicas(&live, SCALE_FIELD_MANAGER);
        if replicas == current && !needs_transfer {
            return Ok(live);
        }
        // The resource version makes the apply fail, rather than overwrite what the other controller wrote meanwhile.
        let metadata = ObjectMeta {
            name: live.metadata.name.clone(),
            resource_version: live.resource_version().filter(|_| decision.replicas.is_none()),
            ..ObjectMeta::default()
        };
        let scale = json!({
            "apiVersion": Deployment::api_version(&()),
            "kind": Deployment::kind(&()),
            "metadata": metadata,
            "spec": {"replicas": replicas},
        });
        self.patch(SCALE_FIELD_MANAGER, &live.name_any(), live.namespace(), &scale)
            .await
    }

    async fn patch<K>(
        &self,
        manager: &str,
        name: &str,
        namespace: Option<String>,
        object: &(impl Serialize + Debug),
    ) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace.unwrap_or_default());
        let applied = api
            .patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(object))
            .await?;
        self.metrics.record_api_write(&K::kind(&()));
        tracing::info!(kind = %K::kind(&()), name, manager, "applied");
        Ok(applied)
    }
}
