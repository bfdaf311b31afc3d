#![expect(clippy::disallowed_types, reason = "edge: watches the cluster")]
//! The watches: of the stages, of the objects that they own, and of the Secrets that they name.
//!
//! Must never keep an object but the stages: everything else is watched by its metadata, and passes through.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use futures::Stream;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::controller::Controller;
use kube::runtime::reflector;
use kube::runtime::{PredicateConfig, WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::outline::{Guarded, Stages};
use crate::owned::{FIELD_MANAGER, MANAGED_BY_LABEL};
use crate::poll::Place;

/// Objects in one answer to a list: what an answer holds is in memory at once, for every watch.
const PAGE: u32 = 50;

/// A controller that looks at a stage whenever something changed that matters to it, and the stages that it knows.
pub(super) fn controller(client: &Client, namespace: Option<&str>) -> (Controller<Guarded>, Stages) {
    let (stages, writer) = reflector::store();
    let changed = watcher(api(client, namespace), watcher::Config::default().page_size(PAGE))
        .default_backoff()
        // The watch has taken note of it.
        .modify(|stage: &mut Guarded| stage.meta_mut().resource_version = None)
        .reflect(writer)
        .touched_objects()
        .predicate_filter(identity, PredicateConfig::default());
    let known = stages.clone();
    let controller = Controller::for_stream(changed, stages.clone())
        .owns_stream(owned::<Deployment>(client, namespace))
        .owns_stream(owned::<ConfigMap>(client, namespace))
        .owns_stream(owned::<Service>(client, namespace))
        .owns_stream(owned::<ServiceAccount>(client, namespace))
        .owns_stream(owned::<PodDisruptionBudget>(client, namespace))
        .watches_stream(
            touched::<Secret>(client, namespace, watcher::Config::default().page_size(PAGE)),
            move |secret| naming(&known, &secret),
        );
    (controller, stages)
}

/// Tells one wish of a user from the next: a stage whose status alone changed is not looked at again.
#[expect(clippy::unnecessary_wraps, reason = "a predicate of the watch has this form")]
fn identity(stage: &Guarded) -> Option<u64> {
    let meta = stage.meta();
    let mut hasher = DefaultHasher::new();
    (&meta.uid, meta.generation, meta.deletion_timestamp.is_some()).hash(&mut hasher);
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

/// Changes of the objects that the operator owns.
fn owned<K>(
    client: &Client,
    namespace: Option<&str>,
) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let ours = watcher::Config::default()
        .page_size(PAGE)
        .labels(&format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}"));
    touched::<K>(client, namespace, ours)
}

fn touched<K>(
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

/// The stages that name a Secret.
fn naming(stages: &Stages, secret: &PartialObjectMeta<Secret>) -> Vec<Place> {
    let (namespace, name) = (secret.namespace(), secret.name_any());
    let known = stages.state();
    let readable = known.iter().filter_map(|guarded| guarded.0.as_ref().ok());
    readable
        .filter(|stage| stage.namespace() == namespace)
        .filter(|stage| stage.secrets.contains(&name))
        .map(|stage| Place::new(stage.name()).within(namespace.as_deref().unwrap_or_default()))
        .collect()
}
