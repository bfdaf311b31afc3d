#![expect(clippy::disallowed_types, reason = "edge: watches the cluster")]
//! Watches of the controller: stages, owned objects and referenced Secrets.
//!
//! Only stages are cached. Everything else is watched as metadata and mapped to a stage, to save memory.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::controller::{ReconcileRequest, trigger_owners, trigger_self, trigger_with};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{PredicateConfig, WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::owned::{FIELD_MANAGER, MANAGED_BY_LABEL};
use crate::stage_summary::{CachedStage, StageRef, readable};

/// Objects per page of a list: a page is in memory at once, for every watch.
const LIST_PAGE_SIZE: u32 = 50;

/// Requests to reconcile, and errors of the watches, which are retried.
pub(super) type Triggers = BoxStream<'static, watcher::Result<ReconcileRequest<CachedStage>>>;

/// Watches `namespace`, or all namespaces if it is `None`. Returns the triggers, and the store of the watched stages,
/// which is filled while the triggers are polled.
pub(super) fn watch(client: &Client, namespace: Option<&str>) -> (Triggers, Store<CachedStage>) {
    let (stages, writer) = reflector::store();
    let pages = watcher::Config::default().page_size(LIST_PAGE_SIZE);
    let stage_events = watcher(api(client, namespace), pages.clone())
        .default_backoff()
        // The watcher has already read the resource version; the cache does not need it.
        .modify(|stage: &mut CachedStage| stage.meta_mut().resource_version = None)
        .reflect(writer)
        .touched_objects()
        .predicate_filter(spec_identity, PredicateConfig::default());
    let cached = stages.clone();
    let secrets = watch_metadata::<Secret>(client, namespace, pages);
    let triggers = stream::select_all([
        trigger_self(stage_events, ()).boxed(),
        watch_owned::<Deployment>(client, namespace),
        watch_owned::<ConfigMap>(client, namespace),
        watch_owned::<Service>(client, namespace),
        watch_owned::<ServiceAccount>(client, namespace),
        watch_owned::<PodDisruptionBudget>(client, namespace),
        trigger_with(secrets, move |secret| stages_referencing(&cached, &secret)).boxed(),
    ]);
    (triggers.boxed(), stages)
}

/// Hash of what a user changes: a change of the status alone triggers no reconcile. The annotation that pauses the
/// scaling is not part of the generation.
#[expect(
    clippy::unnecessary_wraps,
    reason = "signature that the predicate filter requires"
)]
fn spec_identity(stage: &CachedStage) -> Option<u64> {
    let meta = stage.meta();
    let mut hasher = DefaultHasher::new();
    let is_paused = matches!(&stage.0, Ok(stage) if stage.scaling_settings.is_paused);
    (
        &meta.uid,
        meta.generation,
        meta.deletion_timestamp.is_some(),
        is_paused,
    )
        .hash(&mut hasher);
    Some(hasher.finish())
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches the objects of one kind that have the operator's label, and triggers the stages that own them.
fn watch_owned<K>(client: &Client, namespace: Option<&str>) -> Triggers
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let config = watcher::Config::default()
        .page_size(LIST_PAGE_SIZE)
        .labels(&format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}"));
    trigger_owners(watch_metadata::<K>(client, namespace, config), (), ()).boxed()
}

/// Watches the metadata of one kind, and yields every added, changed or deleted object.
fn watch_metadata<K>(
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    watcher(api::<PartialObjectMeta<K>>(client, namespace), config)
        .default_backoff()
        .touched_objects()
}

/// Returns the stages that reference a Secret, which are all in its namespace.
fn stages_referencing(stages: &Store<CachedStage>, secret: &PartialObjectMeta<Secret>) -> Vec<StageRef> {
    let (namespace, name) = (secret.namespace(), secret.name_any());
    let cached = stages.state();
    let readable = readable(&cached);
    readable
        .filter(|stage| stage.namespace() == namespace)
        .filter(|stage| stage.secrets.contains(&name))
        .map(|stage| StageRef::new(stage.name()).within(namespace.as_deref().unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_triggers_a_reconcile_and_another_annotation_does_not() {
        let identity = |annotations: &str| {
            let stage = format!(
                "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, \
                 metadata: {{name: cdm, annotations: {annotations}}}, spec: {{layer: cdm, \
                 source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
                 warehouse: {{host: postgres, database: orders}}}}}}"
            );
            let stage: CachedStage = serde_saphyr::from_str(&stage).expect("a stage");
            spec_identity(&stage)
        };
        let running = identity("{}");
        assert_ne!(identity("{streamstage.dev/pause-scaling: 'true'}"), running);
        assert_eq!(identity("{team: orders}"), running);
    }
}
