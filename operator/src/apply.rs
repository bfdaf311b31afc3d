#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the objects of a stage to the cluster"
)]
//! Fourth step: brings the objects of a stage to what was planned, by server-side apply.
//!
//! Must never write an object that already is as planned.
//! The number of workers has a field manager of its own: neither write carries what the other one owns.

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
use crate::owned::{FIELD_MANAGER, Owned, SCALE_FIELD_MANAGER, owns_replicas};
use crate::plan::{Applied, Planned, Resources};
use crate::scale::Wanted;

/// Writes what differs between `planned` and `owned`, and returns the objects as the API server has them.
///
/// The Deployment comes last: its pods need everything else.
///
/// # Errors
/// When the API server does not answer, or refuses; what was written before stays.
pub async fn apply(
    planned: Resources<Planned>,
    owned: Owned,
    client: &Client,
    metrics: &Metrics,
) -> kube::Result<Resources<Applied>> {
    let write = Write { client, metrics };
    Ok(Resources {
        service_account: write
            .unless_equal(planned.service_account, owned.service_account)
            .await?,
        config_map: write.unless_equal(planned.config_map, owned.config_map).await?,
        service: write.unless_equal(planned.service, owned.service).await?,
        disruption_budget: write
            .unless_equal(planned.disruption_budget, owned.disruption_budget)
            .await?,
        deployment: match owned.deployment {
            None => {
                let created = write.created(planned.deployment, &planned.wanted).await?;
                write.scaled(created, &planned.wanted).await?
            }
            Some(live) => {
                let scaled = write.scaled(live, &planned.wanted).await?;
                write.unless_equal(planned.deployment, Some(scaled)).await?
            }
        },
        wanted: planned.wanted,
        state: PhantomData,
    })
}

/// Takes the workers of a stage away that cannot be kept otherwise.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn pause(
    live: Deployment,
    wanted: &Wanted,
    client: &Client,
    metrics: &Metrics,
) -> kube::Result<()> {
    let write = Write { client, metrics };
    write.scaled(live, wanted).await.map(|_| ())
}

/// Writes to one cluster.
struct Write<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
}

impl Write<'_> {
    async fn unless_equal<K>(&self, planned: K, live: Option<K>) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        match live {
            Some(live) if drift::holds(&json!(planned), &json!(live)) => Ok(live),
            _ => {
                self.patch(FIELD_MANAGER, &planned.name_any(), planned.namespace(), &planned)
                    .await
            }
        }
    }

    /// A new Deployment is the one write with both template and number: without a number it would start one worker.
    async fn created(&self, mut planned: Deployment, wanted: &Wanted) -> kube::Result<Deployment> {
        if let Some(spec) = &mut planned.spec {
            spec.replicas = i32::try_from(wanted.initial).ok();
        }
        self.patch(FIELD_MANAGER, &planned.name_any(), planned.namespace(), &planned)
            .await
    }

    /// Brings the number of workers to what is wanted, or keeps it as it is when that is nobody's business here.
    ///
    /// A number that the template's manager still owns from the creation is taken over first: its next write leaves
    /// the number out, and a number that nobody owns would fall back to 1.
    async fn scaled(&self, live: Deployment, wanted: &Wanted) -> kube::Result<Deployment> {
        let present = live.spec.as_ref().and_then(|spec| spec.replicas);
        // Where another controller decides, a zero of the operator's own is left from a pause: it ends here.
        let paused = present == Some(0) && owns_replicas(&live, SCALE_FIELD_MANAGER);
        let replicas = wanted.replicas.or(paused.then_some(wanted.initial));
        let number = replicas
            .and_then(|replicas| i32::try_from(replicas).ok())
            .or(present);
        let must_take_over =
            owns_replicas(&live, FIELD_MANAGER) && !owns_replicas(&live, SCALE_FIELD_MANAGER);
        if number == present && !must_take_over {
            return Ok(live);
        }
        // A number that another controller decides must not overwrite the one that it writes at this moment.
        let metadata = ObjectMeta {
            name: live.metadata.name.clone(),
            resource_version: live.resource_version().filter(|_| wanted.replicas.is_none()),
            ..ObjectMeta::default()
        };
        let scale = json!({
            "apiVersion": Deployment::api_version(&()),
            "kind": Deployment::kind(&()),
            "metadata": metadata,
            "spec": {"replicas": number},
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
        self.metrics.wrote(&K::kind(&()));
        tracing::info!(kind = %K::kind(&()), namespace = applied.namespace(), name, manager, "applied");
        Ok(applied)
    }
}
