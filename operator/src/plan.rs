//! Step 3 of a reconcile: builds the owned objects of a valid stage.
//!
//! Must never fail, read a clock or do I/O: the same input gives the same objects, byte for byte.

mod config_map;
mod deployment;
mod disruption_budget;
mod metadata;
mod pod;
mod pod_options;
mod service;
mod service_account;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::defaults::WorkerDefaults;
use crate::owned::{PLAN_ANNOTATION, short_digest};
use crate::scale::ReplicaDecision;
use crate::validate::Valid;

/// State of [`Resources`] before they are applied: the desired objects.
#[derive(Clone, Copy, Debug)]
pub struct Planned;
/// State of [`Resources`] after they were applied: the objects that the API server returned.
#[derive(Clone, Copy, Debug)]
pub struct Applied;

/// Owned objects of a stage. The status is computed from `Resources<Applied>` only.
#[derive(Clone, Debug)]
pub struct Resources<State> {
    /// Identity of the workers, without permissions and without a token.
    pub service_account: ServiceAccount,
    /// Stage file of the workers.
    pub config_map: ConfigMap,
    /// Headless Service for scraping the metrics of the workers.
    pub service: Service,
    /// Budget that limits voluntary evictions to one worker at a time.
    pub disruption_budget: PodDisruptionBudget,
    /// Deployment of the workers; without `spec.replicas` while planned.
    pub deployment: Deployment,
    /// Replica count of the Deployment, with its reason.
    pub decision: ReplicaDecision,
    /// Marker: [`Planned`] or [`Applied`].
    pub state: PhantomData<State>,
}

/// Builds the owned objects of a stage; `decision` is passed on to [`crate::apply`].
#[must_use]
pub fn plan(valid: &Valid<'_>, defaults: &WorkerDefaults, decision: ReplicaDecision) -> Resources<Planned> {
    Resources {
        service_account: with_plan_digest(service_account::plan(valid)),
        config_map: with_plan_digest(config_map::plan(valid)),
        service: with_plan_digest(service::plan(valid)),
        disruption_budget: with_plan_digest(disruption_budget::plan(valid)),
        deployment: with_plan_digest(deployment::plan(valid, defaults)),
        decision,
        state: PhantomData,
    }
}

/// Annotates an object with its own digest. A field that is removed from the plan changes the digest, and so is
/// detected as drift.
fn with_plan_digest<K: Resource + Serialize>(mut object: K) -> K {
    // Serializing an object of the Kubernetes API cannot fail: all its maps have string keys.
    let text = serde_json::to_vec(&object).unwrap_or_default();
    let digest = short_digest(&Sha256::digest(&text));
    let annotations = object.meta_mut().annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(PLAN_ANNOTATION.to_owned(), digest);
    object
}
